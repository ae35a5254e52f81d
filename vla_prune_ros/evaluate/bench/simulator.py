"""``vla-prune bench --sim``: what a control step of the simulated loop costs, part by part."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ...model.images import prepare_image
from ..closed_loop.driving import upright
from ..machine import machine
from ..statistics import percentiles

BAR_STEPS_PER_S = 15.0
"""What the project asks for: two 224 views, fast visuals, 2 cores, software rendering."""

BAR_SIZE = 224
PARTS = ('physics', 'primary', 'wrist', 'preparation')
"""A control step of MuJoCo with the controller, each view, and both views as the model takes them
(turned, JPEG round trip, resized, cropped)."""

WARM_UP = 20


@dataclass(frozen=True)
class SimBenchOptions:
    """What is measured.

    :param size: side of both views, pixels.
    :param steps: counted control steps of each row, after :data:`WARM_UP` that are not.
    :param gl: OpenGL backend, as for :func:`~vla_prune_ros.sim.rendering.choose_gl`.
    """

    size: int = BAR_SIZE
    steps: int = 100
    gl: str = 'auto'


def run_sim_bench(
    options: SimBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Time the two-cube scene with fast visuals, then without; one scene at a time.

    :raises VlaPruneError: robosuite is not installed, or nothing renders.
    """
    from ...sim.two_cubes import TwoCubeScene

    rows, description = [], ''
    for fast in (True, False):
        name = f'fast visuals {"on" if fast else "off"}'
        progress(f'{name}: making the scene')
        scene = TwoCubeScene(image_size=options.size, fast_visuals=fast, gl=options.gl)
        try:
            progress(f'{name}: {options.steps} steps')
            rows.append({'fast_visuals': fast, **_measure(scene, options)})
            description = scene.description
        finally:
            scene.close()
    return {
        'ok': True,
        'rows': rows,
        'size': options.size,
        'scene': description,
        'bar_steps_per_s': BAR_STEPS_PER_S,
        'machine': machine(),
    }


def sim_table(result: Mapping[str, Any]) -> Table:
    """One row with fast visuals and one without: steps per second, and the parts in ms."""
    where = f'{result["machine"]["cpu"]}, {result["machine"]["cores"]} cores'
    title = f'control loop with two {result["size"]} x {result["size"]} views on {where}'
    table = Table(title=title, caption=result['scene'], title_justify='left')
    table.add_column('fast visuals')
    for name in ('steps/s', 'step p50 ms', 'p95 ms', *(f'{part} ms' for part in PARTS)):
        table.add_column(name, justify='right')
    for row in result['rows']:
        table.add_row(
            'on' if row['fast_visuals'] else 'off',
            f'{row["steps_per_s"]:.1f}',
            f'{row["step_ms"]["p50"]:.1f}',
            f'{row["step_ms"]["p95"]:.1f}',
            *(f'{row["parts_ms"][part]["p50"]:.1f}' for part in PARTS),
        )
    return table


def sim_verdict(result: Mapping[str, Any]) -> str:
    """How the fast row stands to the bar, in words."""
    rate = next(r['steps_per_s'] for r in result['rows'] if r['fast_visuals'])
    if result['size'] != BAR_SIZE:
        return f'the bar of {BAR_STEPS_PER_S:g} steps/s is for views of {BAR_SIZE}'
    word = 'met' if rate >= result['bar_steps_per_s'] else 'missed'
    return f'bar of {result["bar_steps_per_s"]:g} steps/s {word}: {rate:.1f} with fast visuals'


def _measure(scene: Any, options: SimBenchOptions) -> dict[str, Any]:
    scene.reset(0)
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for step in range(WARM_UP + options.steps):
        with _timed(times['physics']):
            scene.step(_action(step))
        images = {}
        for camera in scene.cameras:
            with _timed(times[camera]):
                images[camera] = scene.render_image(camera, options.size)
        with _timed(times['preparation']):
            for image in upright(images).values():
                prepare_image(image)
    counted = {part: np.array(values[WARM_UP:]) for part, values in times.items()}
    whole = sum(counted.values())
    return {
        'steps': options.steps,
        'steps_per_s': float(1e3 * options.steps / whole.sum()),
        'step_ms': percentiles(whole),
        'parts_ms': {part: percentiles(values) for part, values in counted.items()},
    }


def _action(step: int) -> np.ndarray:
    """The hand goes round above the table, so that no two pictures are the same."""
    angle = 2.0 * math.pi * step / 40.0
    return np.array([0.5 * math.cos(angle), 0.5 * math.sin(angle), -0.05, 0.0, 0.0, 0.0, -1.0])


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into.append(1e3 * (time.perf_counter() - start))
