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
from ..machine import machine
from ..options import SimBenchOptions
from ..statistics import percentiles

if TYPE_CHECKING:
    from ...sim.two_cubes import TwoCubeScene

BAR_STEPS_PER_S = 15.0
"""What the project asks for: two 224 views, fast visuals, 2 cores, software rendering."""

BAR_SIZE = 224
PARTS = ('physics', 'primary', 'wrist', 'preparation')
"""A control step of MuJoCo with the controller, each view, and both views as the model takes them
(turned, JPEG round trip, resized, cropped)."""

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
