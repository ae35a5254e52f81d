"""``vla-prune bench --pruning``: what each pruning method costs and saves, end to end.

All methods work on one network and see the same frames. They take turns query by query, dense
first: what else the machine does falls on all of them alike.
"""

import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from ..machine import machine
from ..options import PruningBenchOptions
from ..statistics import percentiles
from .cost import count_kept, measure_roofline, policy_flops, reference_flops
from .models import build_bench_model
from .reference_impl import ReferenceForward

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
        self._shift = _to_and_fro(path_m * _PIXELS_PER_M, SIDE - _BLOCK)
        self._canvas = [
            _background(np.random.default_rng((seed, i))) for i in range(len(profile.cameras))
        ]

    def motion(self, query: int) -> MotionHint:
        return SLOW if query // PHASE_QUERIES % 2 else FAST

    def stamp_ns(self, step: int) -> int:
        return _START_NS + round(1e9 * step * self._profile.control_period_s)

    def observation(self, query: int, proprio: np.ndarray | None) -> Observation:
        step = query * self._profile.chunk
        return Observation(self.frames(step), proprio, INSTRUCTION, self.stamp_ns(step))

    def steps_after(self, query: int) -> Iterator[int]:
        first = query * self._profile.chunk + 1
        yield from range(first, first + self._profile.chunk)

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


def _to_and_fro(path: np.ndarray, room: float) -> np.ndarray:
    """Positions (n,) on a line of length ``room`` after going ``path``, turning at both ends."""
    return room - np.abs(path % (2 * room) - room)


def _background(random: np.random.Generator) -> np.ndarray:
    """Soft coloured squares, float32 (256, 512, 3), wide enough to move the view aside."""
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


@dataclass(kw_only=True)
class PruningRow:
    """The queries of a method in one mode; ratios are to the dense queries of the same run, and
    to those of the reference implementation where it was run.

    :param first_ms: of the first query of the mode behind :meth:`Policy.warm_up`.
    """

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
    first_ms: float | None
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
    memory_peak_gb: float


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
        if options.published and model.network.size.head != 'diffusion':
            policies[PUBLISHED] = model.policy(DENSE, lambda net, _: ReferenceForward(net))
        progress('measuring the machine')
        roofline = measure_roofline(model.device, model.dtype)

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
    profile = model.profile
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
            'chunk_ms': 1e3 * profile.chunk * profile.control_period_s,
            'load_before': load_before,
        },
        untrained=bool(model.about['untrained']),
        machine={**machine(), 'roofline': asdict(roofline)},
        memory_peak_gb=peak_memory_gb(model.device),
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


def peak_memory_gb(device: torch.device) -> float:
    """Of the device, or of this process since it began."""
    if device.type == 'cuda':
        return 1e-9 * torch.cuda.max_memory_allocated(device)
    return 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# --- the rows ----------------------------------------------------------------------------------

Samples = Mapping[str, Sequence[Sample]]
"""Method -> its queries."""


def pruning_rows(samples: Samples, first: Samples) -> list[PruningRow]:
    """``first``: the queries behind :meth:`Policy.warm_up`."""
    totals = {method: [s.timings_ms['total'] for s in taken] for method, taken in samples.items()}
    dense = _p50(totals[DENSE])
    published = _p50(totals[PUBLISHED]) if PUBLISHED in totals else None
    rows = []
    for method, taken in samples.items():
        for mode in MODES:
            of_mode = [s for s in taken if s.mode == mode]
            early = [s.timings_ms['total'] for s in first[method] if s.mode == mode]
            if of_mode:
                rows.append(_row(method, of_mode, dense, published))
                rows[-1].first_ms = early[0] if early else None
    return rows


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


def _row(
    method: str, taken: Sequence[Sample], dense_p50: float, published_p50: float | None
) -> PruningRow:
    stages = {n: [s.timings_ms[n] for s in taken] for n in taken[0].timings_ms}
    total = stages.pop('total')
    flops = [s.flops for s in taken if s.flops is not None]
    p50 = _p50(total)
    return PruningRow(
        method=method,
        mode=taken[0].mode,
        queries=len(taken),
        visual_tokens=float(np.mean([s.visual_tokens for s in taken])),
        latency_ms=percentiles(total),
        stages_ms={name: percentiles(values) for name, values in stages.items()},
        refresh_ms=percentiles([s.refresh_ms for s in taken if s.refresh_ms is not None]),
        tflops=float(np.mean(flops)) / 1e12 if flops else None,
        speedup_vs_dense=dense_p50 / p50,
        selection_percent_of_dense=100.0 * _p50(stages[SELECTION]) / dense_p50,
        speedup_vs_published=None if published_p50 is None else published_p50 / p50,
        first_ms=None,
    )


def _p50(values: Sequence[float]) -> float:
    return percentiles(values)['p50']
