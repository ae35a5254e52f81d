"""What the pruning benchmark shows the policy: a scene that moves fast and slowly in turn.

Frames are drawn, not photographed: the time of a method depends on how much of the picture
changes and not on what it shows. The first camera stands still and sees a block move; the others
ride on the arm and see everything move. Every frame has sensor noise of its own, so that no two
are equal and a comparison of frames has something to be robust against.

``vla-prune bench --pruning``: what each pruning method costs and saves, end to end.

All methods work on one network and see the same frames. They take turns query by query, dense
first: what else the machine does falls on all of them alike.
"""

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...engine.load import pruner_target
from ...engine.policy import Policy
from ...model.prompt import build_prompt
from ...profiles import Profile, load_profile
from ...pruning.registry import build_pruner
from ...records import Inference, MotionHint, Observation
from ..machine import machine
from .cost import Roofline, count_kept, measure_roofline, policy_flops, published_flops
from .models import BenchModel, BenchModelOptions, build_bench_model
from .reference_impl import PublishedForward
from .rows import DENSE, PUBLISHED, Sample, bench_rows, whole_run

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
    """The frames, motions and stamps of one episode, the same every time.

    The robot executes each chunk to its end: query ``q`` sees control step ``q * chunk``. It moves
    as in ``FAST`` for two queries, as in ``SLOW`` for two, and so on: a slow minute of the machine
    then falls on both.

    :param queries: queries of the episode.
    :param noise_levels: standard deviation of the sensor noise, in levels of 0 ... 255.
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
        """How the end effector moves when ``query`` is asked."""
        return SLOW if query // PHASE_QUERIES % 2 else FAST

    def stamp_ns(self, step: int) -> int:
        """Stamp of a control step."""
        return _START_NS + round(1e9 * step * self._profile.control_period_s)

    def observation(self, query: int, proprio: np.ndarray | None) -> Observation:
        """What the policy sees at ``query``, with a state that does not change."""
        step = query * self._profile.chunk
        return Observation(self.frames(step), proprio, INSTRUCTION, self.stamp_ns(step))

    def steps_after(self, query: int) -> Iterator[int]:
        """Control steps behind ``query``, up to and including the next query's."""
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
    """Positions (n,) on a line of length ``room`` after walking ``path``, turning at both ends."""
    return room - np.abs(path % (2 * room) - room)


def _background(random: np.random.Generator) -> np.ndarray:
    """Soft coloured squares, float32 (256, 512, 3), wide enough to look aside."""
    cells = random.integers(30, 226, (_CELLS, 2 * _CELLS, 3), np.uint8)
    size = (2 * SIDE, SIDE)
    return np.asarray(Image.fromarray(cells).resize(size, Image.BICUBIC), np.float32)


WARM_UP_QUERIES = 3  # dense where a method needs it, coarse, fine: every shape once


@dataclass(frozen=True)
class PruningBenchOptions:
    """What is measured.

    :param methods: as ``load_policy(pruning=...)`` takes them; dense is added where it lacks.
    :param queries: counted queries per method, after three that are not.
    :param refresh: give each method its look at the whole sequence after each query.
    :param threads: of torch; None for torch's choice.
    :param published: time the dense model as the published code executes it, too.
    """

    methods: tuple[str, ...]
    model: BenchModelOptions = field(default_factory=BenchModelOptions)
    queries: int = 16
    refresh: bool = True
    threads: int | None = None
    published: bool = True


def run_pruning_bench(
    options: PruningBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """One episode with every method.

    :returns: ``ok`` (all actions finite), ``rows``, ``whole_run``, ``model``, ``settings``,
        ``untrained``, ``machine``; keys as in docs/benchmark.md.
    :raises VlaPruneError: a method, the model or the device is not usable.
    """
    load_before = os.getloadavg()[0]
    methods = tuple(dict.fromkeys((DENSE, *options.methods)))
    target = pruner_target(load_profile(options.model.profile))
    for method in methods:
        build_pruner(method, target)  # a wrong name is said before a minute of drawing weights
    with torch_threads(options.threads) as threads:
        progress('making the model')
        model = build_bench_model(options.model)
        policies = {method: model.policy(method) for method in methods}
        if options.published and model.network.size.head != 'diffusion':
            policies[PUBLISHED] = model.policy(DENSE, lambda net, _: PublishedForward(net))
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
    rows = bench_rows(samples, first)
    for row in rows:
        row['roofline_ms'] = _least_ms(row, model, roofline)
    return {
        'ok': all(s.finite for taken in samples.values() for s in taken),
        'rows': rows,
        'whole_run': whole_run(samples),
        'model': dict(model.about),
        'settings': {**_settings(options, model, threads), 'load_before': load_before},
        'untrained': bool(model.about['untrained']),
        'machine': {**machine(), 'roofline': asdict(roofline)},
        'memory_peak_gb': peak_memory_gb(model.device),
    }


def run_episode(
    policies: Mapping[str, Policy],
    scene: BenchScene,
    refresh: bool,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[Sample]]:
    """One episode: at each query all policies in turn, then the frames up to the next query.

    :returns: method -> its queries, in order.
    """
    samples: dict[str, list[Sample]] = {method: [] for method in policies}
    bounds = next(iter(policies.values())).statistics.proprio
    state = None if bounds is None else bounds.mean
    for query in range(scene.queries):
        observation = scene.observation(query, state)
        for method, policy in policies.items():
            progress(f'{query + 1} of {scene.queries}: {method}')
            samples[method].append(
                _query(policy, observation, scene, query, refresh, method == PUBLISHED)
            )
        for step in scene.steps_after(query):
            _watch(policies.values(), scene, step)
    return samples


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run the block with ``count`` torch threads; yields the number in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def peak_memory_gb(device: torch.device) -> float:
    """1e9 bytes: of the device, or of this process since it began."""
    if device.type == 'cuda':
        return 1e-9 * torch.cuda.max_memory_allocated(device)
    return 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _query(
    policy: Policy,
    observation: Observation,
    scene: BenchScene,
    query: int,
    refresh: bool,
    published: bool,
) -> Sample:
    out = policy.infer(observation, scene.motion(query))
    return Sample(
        out.mode,
        out.visual_tokens,
        out.timings_ms,
        policy.refresh() if refresh else None,
        query_flops(policy, out, published),
        bool(np.isfinite(out.actions).all()),
    )


def _least_ms(row: Mapping[str, Any], model: BenchModel, roofline: Roofline) -> float | None:
    if row['tflops'] is None:
        return None
    return roofline.least_ms(1e12 * row['tflops'], model.weight_bytes)


def query_flops(policy: Policy, out: Inference, published: bool = False) -> int | None:
    """Operations of one query in closed form; None where there is none.

    :param published: it was executed like the published code.
    """
    profile = policy.profile
    prompt_ids = len(policy.tokenizer(build_prompt(INSTRUCTION)))
    layout = policy.model.layout(profile.cameras, prompt_ids, profile.chunk)
    if published:
        return published_flops(policy.model.size, layout)
    early = {site.name for site in policy.pruner.sites if site.early}
    return policy_flops(policy.model.size, layout, count_kept(out.kept_by_site), early)


def _watch(policies: Iterable[Policy], scene: BenchScene, step: int) -> None:
    stamp_ns = scene.stamp_ns(step)
    for camera, frame in scene.frames(step).items():
        for policy in policies:
            policy.watch(camera, stamp_ns, frame)


def _settings(options: PruningBenchOptions, model: BenchModel, threads: int) -> dict[str, Any]:
    profile = model.profile
    return {
        'queries': options.queries,
        'warm_up_queries': WARM_UP_QUERIES,
        'refresh': options.refresh,
        'threads': threads,
        'noise_levels': NOISE_LEVELS,
        'chunk_ms': 1e3 * profile.chunk * profile.control_period_s,
    }
