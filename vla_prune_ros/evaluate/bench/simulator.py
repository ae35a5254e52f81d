"""``vla-prune bench --sim``: what a control step of the simulated loop costs, part by part."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.images import prepare_image
from ..closed_loop.rollout import upright
from ..machine import machine, where
from ..options import SimBenchOptions
from ..statistics import percentiles
from ..tables import Column, quantile, rich_table

if TYPE_CHECKING:
    from ...sim.two_cubes import TwoCubeScene

# What the project asks for: two 224 views, fast visuals, 2 cores, software rendering.
BAR_STEPS_PER_S, BAR_SIZE = 15.0, 224
# A control step of MuJoCo with the controller, each view, and both views as the model takes them
# (turned, JPEG round trip, resized, cropped).
PARTS = ('physics', 'primary', 'wrist', 'preparation')
WARM_UP = 20


@dataclass(frozen=True, kw_only=True)
class SimRow:
    fast_visuals: bool
    steps: int
    steps_per_s: float
    step_ms: dict[str, float]
    parts_ms: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class SimBench:
    ok: bool
    rows: list[SimRow]
    size: int
    scene: str
    bar_steps_per_s: float
    machine: dict[str, Any]


def run_sim_bench(
    options: SimBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> SimBench:
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
            rows.append(_measure(scene, options, fast))
            description = scene.description
        finally:
            scene.close()
    return SimBench(
        ok=True,
        rows=rows,
        size=options.size,
        scene=description,
        bar_steps_per_s=BAR_STEPS_PER_S,
        machine=machine(),
    )


def _measure(scene: 'TwoCubeScene', options: SimBenchOptions, fast: bool) -> SimRow:
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
    return SimRow(
        fast_visuals=fast,
        steps=options.steps,
        steps_per_s=float(1e3 * options.steps / whole.sum()),
        step_ms=percentiles(whole),
        parts_ms={part: percentiles(values) for part, values in counted.items()},
    )


def _action(step: int) -> np.ndarray:
    angle = 2.0 * math.pi * step / 40.0
    return np.array([0.5 * math.cos(angle), 0.5 * math.sin(angle), -0.05, 0.0, 0.0, 0.0, -1.0])


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into.append(1e3 * (time.perf_counter() - start))


_COLUMNS = (
    Column('fast visuals', lambda r: 'on' if r.fast_visuals else 'off', is_name=True),
    Column('steps/s', lambda r: f'{r.steps_per_s:.1f}'),
    Column('step p50 ms', lambda r: quantile(r.step_ms)),
    Column('p95 ms', lambda r: quantile(r.step_ms, 'p95')),
    *(Column(f'{part} ms', lambda r, part=part: quantile(r.parts_ms[part])) for part in PARTS),
)


def sim_report(result: SimBench) -> list[Any]:
    views = f'{result.size} x {result.size}'
    title = f'control loop with two {views} views on {where(result.machine)}'
    rate = next(row.steps_per_s for row in result.rows if row.fast_visuals)
    bar = f'bar of {result.bar_steps_per_s:g} steps/s'
    if result.size == BAR_SIZE:
        met = 'met' if rate >= result.bar_steps_per_s else 'missed'
        verdict = f'{bar} {met}: {rate:.1f} with fast visuals'
    else:
        verdict = f'the {bar} is for views of {BAR_SIZE}'
    return [rich_table(title, _COLUMNS, result.rows), result.scene, verdict]
