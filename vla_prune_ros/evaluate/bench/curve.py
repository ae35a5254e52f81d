"""``vla-prune bench --curve``: what a visual token, a camera and a step of the chunk cost.

One network, one point after the other in every round, so that what else the machine does falls on
all alike. Tokens are dropped by ``uniform`` before the decoder: the curve is what is to be gained
by any method of that budget, less its own selection.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...engine.policy import Policy
from ...profiles import Profile
from ..machine import machine
from ..options import BenchModelOptions
from ..statistics import percentiles
from .models import BenchModel, build_bench_model
from .pruning import BenchScene, query_flops, torch_threads

BUDGETS = (16, 32, 48, 64, 96, 128, 192, 256)
CAMERAS = (1, 2, 3)
CHUNKS = (1, 8, 16, 25, 50)
WARM_UP_QUERIES = 2


@dataclass(frozen=True)
class Point:
    """``axis``: ``'visual_tokens'``, ``'cameras'`` or ``'chunk'``."""

    axis: str
    value: int
    profile: Profile
    method: str


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    axis: str
    value: int
    latency_ms: dict[str, float]
    tflops: float | None


@dataclass(frozen=True, kw_only=True)
class CostCurve:
    ok: bool
    rows: list[CurveRow]
    model: dict[str, Any]
    settings: dict[str, Any]
    untrained: bool
    machine: dict[str, Any]


def curve_points(profile: Profile) -> list[Point]:
    """Tokens of all cameras together, cameras and steps of the dense model."""
    names = (*profile.cameras, *(f'more_{i}' for i in range(max(CAMERAS))))
    return [
        *(
            Point('visual_tokens', budget * len(profile.cameras), profile, f'uniform:{budget}')
            for budget in BUDGETS
        ),
        *(Point('cameras', n, replace(profile, cameras=names[:n]), 'dense') for n in CAMERAS),
        *(Point('chunk', n, replace(profile, chunk=n), 'dense') for n in CHUNKS),
    ]


def run_cost_curve(
    options: BenchModelOptions, progress: Callable[[str], None] = lambda text: None
) -> CostCurve:
    """:raises VlaPruneError: the model or the device is not usable."""
    with torch_threads(options.threads) as threads:
        progress('making the model')
        model = build_bench_model(options)
        points = curve_points(model.profile)
        policies = [_policy(model, point) for point in points]
        rounds = WARM_UP_QUERIES + options.queries
        scenes = [BenchScene(point.profile, rounds) for point in points]
        times: list[list[float]] = [[] for _ in points]
        flops: list[int | None] = [None for _ in points]
        finite = True
        bounds = model.statistics.proprio
        state = None if bounds is None else bounds.mean
        for number in range(rounds):
            for i, (point, policy) in enumerate(zip(points, policies, strict=True)):
                progress(f'round {number + 1} of {rounds}: {point.axis} {point.value}')
                out = policy.infer(scenes[i].observation(number, state))
                finite = finite and bool(np.isfinite(out.actions).all())
                flops[i] = query_flops(policy, out)
                if number >= WARM_UP_QUERIES:
                    times[i].append(out.timings_ms['total'])
    return CostCurve(
        ok=finite,
        rows=[
            CurveRow(
                axis=point.axis,
                value=point.value,
                latency_ms=percentiles(taken),
                tflops=None if count is None else count / 1e12,
            )
            for point, taken, count in zip(points, times, flops, strict=True)
        ],
        model=dict(model.about),
        settings={'queries': options.queries, 'threads': threads},
        untrained=bool(model.about['untrained']),
        machine=machine(),
    )


def _policy(model: BenchModel, point: Point) -> Policy:
    target = replace(model.target, cameras=point.profile.cameras, chunk=point.profile.chunk)
    return replace(model, profile=point.profile, target=target).policy(point.method)
