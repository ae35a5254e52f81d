"""``vla-prune bench --pruning``: what each pruning method costs and saves, end to end.

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

from ..engine.load import pruner_target
from ..engine.policy import Policy
from ..model.prompt import build_prompt
from ..profiles import load_profile
from ..pruning.registry import build_pruner
from ..records import Inference, Observation
from .bench_models import BenchModel, BenchModelOptions, build_bench_model
from .bench_rows import DENSE, PUBLISHED, Sample, bench_rows, whole_run
from .bench_scene import INSTRUCTION, NOISE_LEVELS, BenchScene
from .flops import count_kept, policy_flops, published_flops
from .machine import machine
from .published_path import PublishedForward
from .roofline import Roofline, measure_roofline

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
