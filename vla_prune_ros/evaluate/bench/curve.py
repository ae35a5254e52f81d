"""``vla-prune bench --curve``: what a visual token, a camera and a step of the chunk cost.

One network, one point after the other in every round, so that what else the machine does falls on
all alike. Tokens are dropped by ``uniform`` before the decoder: the curve is what is to be gained
by any method of that budget, less its own selection.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.policy import Policy
from ...profiles import Profile
from ..figures import figure_class, save_figure
from ..machine import machine
from ..options import BenchModelOptions
from ..statistics import percentiles
from ..tables import Column, fixed, quantile, rich_table
from .models import BenchModel, build_bench_model
from .pruning import STAGES, BenchScene, bench_title, query_flops, torch_threads

BUDGETS = (16, 32, 48, 64, 96, 128, 192, 256)
CAMERAS = (1, 2, 3)
CHUNKS = (1, 8, 16, 25, 50)
WARM_UP_QUERIES = 2
AXES = {
    'visual_tokens': 'visual tokens, all cameras',
    'cameras': 'cameras, dense',
    'chunk': 'steps of the chunk, dense',
}


@dataclass(frozen=True)
class Point:
    axis: str  # of AXES
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


_COLUMNS = (
    Column('axis', lambda r: AXES[r.axis], is_name=True),
    Column('value', lambda r: str(r.value)),
    Column('p50', lambda r: quantile(r.latency_ms)),
    Column('p95', lambda r: quantile(r.latency_ms, 'p95')),
    Column('TFLOP', lambda r: fixed(r.tflops, '.3g')),
)


def curve_report(result: CostCurve) -> list[Any]:
    title = f'what a query costs in ms, {bench_title(result)}'
    return [rich_table(title, _COLUMNS, result.rows)]


def plot_curve(result: CostCurve, path: Path) -> None:
    save_figure(curve_figure(result), path)


def curve_figure(result: CostCurve) -> Any:
    figure, colour = figure_class()(figsize=(9.0, 3.2)), STAGES['language']
    for axis, (name, title) in zip(figure.subplots(1, 3, sharey=True), AXES.items(), strict=True):
        rows = [row for row in result.rows if row.axis == name]
        values = [row.value for row in rows]
        p50, p95 = ([row.latency_ms[q] for row in rows] for q in ('p50', 'p95'))
        axis.plot(values, p50, 'o-', color=colour, markersize=4)
        axis.fill_between(values, p50, p95, color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel(title, fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    figure.axes[0].set_ylabel('ms per query, p50 to p95', fontsize=8)
    figure.axes[0].set_ylim(bottom=0)  # of all, once they are drawn: it ends the scaling
    figure.suptitle(bench_title(result), fontsize=9)
    return figure
