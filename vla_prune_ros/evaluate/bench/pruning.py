"""``vla-prune bench --pruning``: what each pruning method costs and saves, end to end.

All methods work on one network and see the same frames. They take turns query by query, dense
first: what else the machine does falls on all of them alike.
"""

import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...engine.load import pruner_target
from ...engine.policy import Policy
from ...model.prompt import build_prompt
from ...profiles import Profile, load_profile
from ...pruning.base import SELECTION
from ...pruning.registry import build_pruner
from ...records import Inference, MotionHint, Observation
from ..figures import figure_class, save_figure
from ..machine import machine
from ..options import PruningBenchOptions
from ..statistics import percentiles
from ..tables import Column, fixed, quantile, rich_table
from .cost import count_kept, measure_roofline, policy_flops, reference_flops
from .models import ReferenceForward, build_bench_model

# --- the scene ---------------------------------------------------------------------------------

INSTRUCTION = 'pick up the red cube and place it in the box'
SIDE = 256
NOISE_LEVELS = 3.0
PHASE_QUERIES = 2
# Far from the thresholds that coarse and fine modes have, on both sides; fast rises as well.
FAST = MotionHint(linear_m_s=0.6, angular_rad_s=0.5, vertical_m_s=0.25, source='script')
SLOW = MotionHint(linear_m_s=0.04, angular_rad_s=0.1, vertical_m_s=-0.02, source='script')
_PIXELS_PER_M = 200.0
_BLOCK = 40
_BLOCK_COLOUR = (200, 40, 30)
_CELLS = 20  # of the background: blurred squares
_START_NS = 1_000_000_000


class BenchScene:
    """Frames, motions and stamps of an episode: the time of a method depends on how much changes.

    The first camera stands still and sees a block move; the others ride on the arm and see
    everything move. Sensor noise (``noise_levels`` of 255) makes no two frames equal. Query ``q``
    sees control step ``q * chunk``. Two queries are ``FAST``, two ``SLOW`` and so on: a slow
    minute of the machine then falls on both.
    """

    def __init__(
        self, profile: Profile, queries: int, seed: int = 0, noise_levels: float = NOISE_LEVELS
    ) -> None:
        self.queries = queries
        self._profile, self._seed, self._noise_levels = profile, seed, noise_levels
        steps = np.arange(queries * profile.chunk + 1) // profile.chunk
        speeds = [self.motion(q).linear_m_s for q in steps]
        path_m = np.cumsum([0.0, *speeds[:-1]]) * profile.control_period_s
        room = SIDE - _BLOCK  # to and fro in it
        self._shift = room - np.abs(path_m * _PIXELS_PER_M % (2 * room) - room)
        self._canvas = [  # float32 (256, 512, 3), wide enough to move the view aside
            _background(np.random.default_rng((seed, i))) for i in range(len(profile.cameras))
        ]

    def motion(self, query: int) -> MotionHint:
        return SLOW if query // PHASE_QUERIES % 2 else FAST

    def stamp_ns(self, step: int) -> int:
        return _START_NS + round(1e9 * step * self._profile.control_period_s)

    def observation(self, query: int, proprio: np.ndarray | None) -> Observation:
        step = query * self._profile.chunk
        return Observation(self.frames(step), proprio, INSTRUCTION, self.stamp_ns(step))

    def steps_after(self, query: int) -> range:
        first = query * self._profile.chunk + 1
        return range(first, first + self._profile.chunk)

    def frames(self, step: int) -> dict[str, np.ndarray]:
        """Camera -> uint8 (256, 256, 3) RGB at a control step, 0 ... ``queries * chunk``."""
        return {c: self._frame(i, step) for i, c in enumerate(self._profile.cameras)}

    def _frame(self, camera: int, step: int) -> np.ndarray:
        shift, top = int(self._shift[step]), (SIDE - _BLOCK) // 2
        left = shift if camera else 0
        frame = self._canvas[camera][:, left : left + SIDE].copy()
        if not camera:
            frame[top : top + _BLOCK, shift : shift + _BLOCK] = _BLOCK_COLOUR
        random = np.random.default_rng((self._seed, camera, step))
        noise = random.standard_normal(frame.shape, np.float32) * np.float32(self._noise_levels)
        return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


def _background(random: np.random.Generator) -> np.ndarray:
    cells = random.integers(30, 226, (_CELLS, 2 * _CELLS, 3), np.uint8)
    size = (2 * SIDE, SIDE)
    return np.asarray(Image.fromarray(cells).resize(size, Image.BICUBIC), np.float32)


# --- the run -----------------------------------------------------------------------------------

DENSE, PUBLISHED = 'dense', 'published'
MODES = ('dense', 'coarse', 'fine')
WARM_UP_QUERIES = 3  # dense where a method needs it, coarse, fine: every shape once


@dataclass(frozen=True, kw_only=True)
class Sample:
    mode: str
    visual_tokens: int
    timings_ms: Mapping[str, float]
    refresh_ms: float | None
    flops: int | None
    finite: bool


Samples = Mapping[str, Sequence[Sample]]  # method -> its queries


@dataclass(kw_only=True)
class PruningRow:
    """The queries of a method in one mode; ratios are to the dense queries of the same run, and
    to those of the reference implementation where it was run."""

    method: str
    mode: str
    queries: int
    visual_tokens: float
    latency_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]
    refresh_ms: dict[str, float] | None
    tflops: float | None
    speedup_vs_dense: float
    selection_percent_of_dense: float
    speedup_vs_published: float | None
    first_ms: float | None  # of the first query of the mode behind Policy.warm_up
    roofline_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """All queries of a method, whatever their mode, by mean times: what an episode gains, its
    dense first query included."""

    method: str
    queries: int
    modes: dict[str, int]
    mean_ms: float
    speedup_vs_dense: float
    speedup_vs_published: float | None


@dataclass(frozen=True, kw_only=True)
class PruningBench:
    ok: bool
    rows: list[PruningRow]
    whole_run: list[WholeRun]
    model: dict[str, Any]
    settings: dict[str, Any]
    untrained: bool
    machine: dict[str, Any]
    memory_peak_gb: float  # of the device, or of this process since it began


def run_pruning_bench(
    options: PruningBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> PruningBench:
    """:raises VlaPruneError: a method, the model or the device is not usable."""
    load_before = os.getloadavg()[0]
    methods = tuple(dict.fromkeys((DENSE, *options.methods)))
    target = pruner_target(load_profile(options.profile))
    for method in methods:
        build_pruner(method, target)  # a wrong name is refused before a minute of drawing weights
    with torch_threads(options.threads) as threads:
        progress('making the model')
        model = build_bench_model(options)
        policies = {method: model.policy(method) for method in methods}
        if options.published and model.model.size.head != 'diffusion':
            policies[PUBLISHED] = model.policy(DENSE, lambda net, _: ReferenceForward(net))
        progress('measuring the machine')
        device = policies[DENSE].device
        roofline = measure_roofline(device, policies[DENSE].dtype)

        def episode(queries: int, label: str) -> dict[str, list[Sample]]:
            for policy in policies.values():
                policy.reset()
            scene = BenchScene(model.profile, queries)
            return run_episode(
                policies, scene, options.refresh, lambda text: progress(f'{label} {text}')
            )

        for method, policy in policies.items():
            progress(f'warming up: {method}')
            policy.warm_up(instruction=INSTRUCTION)
        first = episode(WARM_UP_QUERIES, 'warm-up query')
        samples = episode(options.queries, 'query')
    rows = pruning_rows(samples, first)
    for row in rows:
        if row.tflops is not None:
            row.roofline_ms = roofline.least_ms(1e12 * row.tflops, model.weight_bytes)
    if device.type == 'cuda':
        peak_gb = 1e-9 * torch.cuda.max_memory_allocated(device)
    else:
        peak_gb = 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return PruningBench(
        ok=all(s.finite for taken in samples.values() for s in taken),
        rows=rows,
        whole_run=whole_run(samples),
        model=dict(model.about),
        settings={
            'queries': options.queries,
            'warm_up_queries': WARM_UP_QUERIES,
            'refresh': options.refresh,
            'threads': threads,
            'noise_levels': NOISE_LEVELS,
            'chunk_ms': 1e3 * model.profile.chunk * model.profile.control_period_s,
            'load_before': load_before,
        },
        untrained=bool(model.about['untrained']),
        machine={**machine(), 'roofline': asdict(roofline)},
        memory_peak_gb=peak_gb,
    )


def run_episode(
    policies: Mapping[str, Policy],
    scene: BenchScene,
    refresh: bool,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Sample]]:
    """At each query all policies in turn, then the frames up to the next query."""
    samples: dict[str, list[Sample]] = {method: [] for method in policies}
    bounds = next(iter(policies.values())).statistics.proprio
    state = None if bounds is None else bounds.mean
    for query in range(scene.queries):
        observation = scene.observation(query, state)
        for method, policy in policies.items():
            progress(f'{query + 1} of {scene.queries}: {method}')
            out = policy.infer(observation, scene.motion(query))
            sample = Sample(
                mode=out.mode,
                visual_tokens=out.visual_tokens,
                timings_ms=out.timings_ms,
                refresh_ms=policy.refresh() if refresh else None,
                flops=query_flops(policy, out, as_reference=method == PUBLISHED),
                finite=bool(np.isfinite(out.actions).all()),
            )
            samples[method].append(sample)
        for step in scene.steps_after(query):
            for camera, frame in scene.frames(step).items():
                for policy in policies.values():
                    policy.watch(camera, scene.stamp_ns(step), frame)
    return samples


def query_flops(policy: Policy, out: Inference, as_reference: bool = False) -> int | None:
    """``as_reference``: it was executed by :class:`ReferenceForward`."""
    profile = policy.profile
    prompt_ids = len(policy.tokenizer(build_prompt(INSTRUCTION)))
    layout = policy.model.layout(profile.cameras, prompt_ids, profile.chunk)
    if as_reference:
        return reference_flops(policy.model.size, layout)
    early = {site.name for site in policy.pruner.sites if site.early}
    return policy_flops(policy.model.size, layout, count_kept(out.kept_by_site), early)


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run the block with ``count`` torch threads, or as many as there are; yields the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


# --- the rows ----------------------------------------------------------------------------------


def pruning_rows(samples: Samples, first: Samples) -> list[PruningRow]:
    """``first``: the queries behind :meth:`Policy.warm_up`."""
    medians = {m: _p50([s.timings_ms['total'] for s in taken]) for m, taken in samples.items()}
    dense, published = medians[DENSE], medians.get(PUBLISHED)
    rows = []
    for method, mode in product(samples, MODES):
        taken = [s for s in samples[method] if s.mode == mode]
        if not taken:
            continue
        stages = {n: [s.timings_ms[n] for s in taken] for n in taken[0].timings_ms}
        total = stages.pop('total')
        flops = [s.flops for s in taken if s.flops is not None]
        p50 = _p50(total)
        row = PruningRow(
            method=method,
            mode=mode,
            queries=len(taken),
            visual_tokens=float(np.mean([s.visual_tokens for s in taken])),
            latency_ms=percentiles(total),
            stages_ms={name: percentiles(values) for name, values in stages.items()},
            refresh_ms=percentiles([s.refresh_ms for s in taken if s.refresh_ms is not None]),
            tflops=float(np.mean(flops)) / 1e12 if flops else None,
            speedup_vs_dense=dense / p50,
            selection_percent_of_dense=100.0 * _p50(stages[SELECTION]) / dense,
            speedup_vs_published=None if published is None else published / p50,
            first_ms=next((s.timings_ms['total'] for s in first[method] if s.mode == mode), None),
        )
        rows.append(row)
    return rows


def _p50(values: Sequence[float]) -> float:
    return percentiles(values)['p50']


def whole_run(samples: Samples) -> list[WholeRun]:
    means = {
        method: float(np.mean([s.timings_ms['total'] for s in taken]))
        for method, taken in samples.items()
    }
    published = means.get(PUBLISHED)
    return [
        WholeRun(
            method=method,
            queries=len(samples[method]),
            modes={m: n for m in MODES if (n := sum(s.mode == m for s in samples[method]))},
            mean_ms=mean,
            speedup_vs_dense=means[DENSE] / mean,
            speedup_vs_published=None if published is None else published / mean,
        )
        for method, mean in means.items()
    ]


# --- for people --------------------------------------------------------------------------------

STAGES = {  # in the order in which they happen, with their colours
    'preprocess': '#c4c4c4',
    'vision': '#7570b3',
    'selection': '#e6ab02',
    'language': '#d95f02',
    'head': '#1b9e77',
}
_NAMES = (
    Column('method', lambda r: r.method, is_name=True),
    Column('mode', lambda r: r.mode, is_name=True),
)
_TOTALS = (
    *_NAMES,
    Column('n', lambda r: str(r.queries)),
    Column('tok.', lambda r: f'{r.visual_tokens:.0f}'),
    Column('p50', lambda r: quantile(r.latency_ms)),
    Column('p95', lambda r: quantile(r.latency_ms, 'p95')),
    Column('dense', lambda r: f'{r.speedup_vs_dense:.2f}'),
    Column('publ', lambda r: fixed(r.speedup_vs_published, '.2f')),
    Column('sel', lambda r: f'{r.selection_percent_of_dense:.1f}'),
    Column('TFLOP', lambda r: fixed(r.tflops, '.3g')),
    Column('roof', lambda r: fixed(r.roofline_ms, '.0f', 100 / r.latency_ms['p50'])),
)
_STAGES = (
    *_NAMES,
    *(Column(s, lambda r, s=s: quantile(r.stages_ms.get(s))) for s in STAGES),
    Column('refresh', lambda r: quantile(r.refresh_ms)),
)


def pruning_report(result: PruningBench) -> list[Any]:
    title = f'pruning methods in ms, {bench_title(result)}'
    tables = [
        rich_table(title, _TOTALS, result.rows),
        rich_table('stages in ms, p50', _STAGES, result.rows),
    ]
    model, settings, machine = result.model, result.settings, result.machine
    roof = machine['roofline']
    notes = [
        'dense, publ.: p50 of dense, and of dense as the published code runs it, divided by '
        'p50 of the row. sel: selection, part of p50, in percent of dense p50. roof: the '
        'least time that this machine can need, in percent of p50.',
        f'Measured limits: {roof["tflops"]:.3g} TFLOP/s in a product of {model["dtype"]}, '
        f'{roof["gb_per_s"]:.3g} GB/s in a copy. Peak of memory {result.memory_peak_gb:.2g} GB.',
    ]
    for row in result.whole_run:
        if len(row.modes) > 1:
            modes = ', '.join(f'{count} {mode}' for mode, count in row.modes.items())
            notes.append(
                f'{row.method} over the whole run ({modes}), by mean times: '
                f'{row.speedup_vs_dense:.2f} of dense, {fixed(row.speedup_vs_published, ".2f")} '
                'of published.'
            )
    slow = max(result.rows, key=_first_in_p50)
    if slow.first_ms is not None:
        notes.append(
            'First query of a mode behind the warm-up, in p50 of that mode: at most '
            f'{_first_in_p50(slow):.2f} ({slow.method}, {slow.mode}).'
        )
    if settings['refresh']:
        notes.append(
            'refresh: dense pass between queries, not in p50; the robot executes a chunk in '
            f'{settings["chunk_ms"]:.0f} ms.'
        )
    if model['shared_layers']:
        notes.append(
            f'All {model["layers"]} decoder layers use the weights of the first: same work, '
            'memory of one.'
        )
    if model['layers'] != model['layers_published']:
        notes.append(f'{model["layers"]} of {model["layers_published"]} decoder layers.')
    if result.untrained:
        notes.append('Random weights: times mean something, actions do not.')
    if settings['load_before'] > 0.5 * machine['cores']:
        notes.append(
            f'The machine was busy: load average {settings["load_before"]:.1f} on '
            f'{machine["cores"]} cores before the run.'
        )
    if not result.ok:
        notes.append('Some actions were not finite: the times are not to be trusted.')
    return [*tables, *notes]


def _first_in_p50(row: PruningRow) -> float:
    return (row.first_ms or 0.0) / row.latency_ms['p50']


def plot_stages(result: PruningBench, path: Path) -> None:
    """A bar per method and mode: its stages' p50, one behind the other, and a tick at p95."""
    rows = result.rows
    figure = figure_class()(figsize=(8.0, 1.2 + 0.36 * len(rows)))
    axis = figure.subplots()
    names = [f'{row.method}, {row.mode}' for row in rows]
    ends = np.zeros(len(rows))
    for stage, colour in STAGES.items():
        widths = [row.stages_ms.get(stage, {'p50': 0.0})['p50'] for row in rows]
        axis.barh(names, widths, left=ends, label=stage, color=colour)
        ends = ends + widths
    for place, row in enumerate(rows):
        p50, p95 = row.latency_ms['p50'], row.latency_ms['p95']
        axis.plot([p95, p95], [place - 0.3, place + 0.3], color='black', linewidth=1)
        text = f' {p50:.0f} ms, {row.speedup_vs_dense:.2f} x'
        axis.text(max(p95, ends[place]), place, text, va='center', fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel('ms per query: p50 of the stages; line: p95 of the query', fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, ncol=len(STAGES), loc='lower center', bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(bench_title(result), fontsize=9)
    save_figure(figure, path)


def bench_title(result: Any) -> str:
    """Model, threads and machine of a result with ``model``, ``settings`` and ``machine``."""
    model, threads = result.model, result.settings['threads']
    name = model.get('preset') or model.get('checkpoint')
    device = result.machine['cpu'] if model['device'] == 'cpu' else model['device']
    note = ', random weights' if result.untrained else ''
    counts = f'{model["layers"]} layers, {threads} thread{"s" * (threads > 1)}'
    return f'{name} {model["dtype"]}, {counts}, {device}{note}'
