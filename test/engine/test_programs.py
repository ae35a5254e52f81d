"""Recorded queries against the same queries run operation by operation: equal to the last bit.

Recorded by ``tape.py``, which refuses what a CUDA graph cannot hold; on a CUDA device by graphs.
Frames and speeds are those of the bench: dense, coarse and fine queries, with refreshes between.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from vla_prune_ros import load_policy
from vla_prune_ros.engine.policy import Policy
from vla_prune_ros.engine.programs import Eager, Programs, cuda_graph, why_eager
from vla_prune_ros.evaluate.bench_models import BenchModelOptions, build_bench_model
from vla_prune_ros.evaluate.bench_scene import BenchScene
from vla_prune_ros.pruning.registry import PRUNERS

spec = importlib.util.spec_from_file_location('tape', Path(__file__).with_name('tape.py'))
tape = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tape)

STATIC = (
    'dense',
    'uniform:40',
    'fastv:40',
    'divprune:12',
    'vla_adp:40',
    'vla_acl:40',
    'lightvla:40',
    'specprune',
    'specprune:recommended:40,20',
    '{name: specprune, global_scores: false}',
    '{name: specprune, moving_patches: false}',
    '{name: specprune, fill: text}',
)
DYNAMIC = ('lightvla', 'lightvla_star', 'specprune:paper', 'specprune:legacy_2026', 'vla_cache',
           'vla_pruner', '{name: fastv, joint: true}', '{name: divprune, joint: true}')  # fmt: skip
QUERIES = 9


@pytest.fixture(scope='module')
def bench_model():
    return build_bench_model(BenchModelOptions('micro', dtype='float32'))


def recorded(policy, record):
    return Policy(
        policy.model,
        policy.profile,
        policy.statistics,
        policy.tokenizer,
        policy.pruner,
        policy.describe(),
        target=policy.target,
        record=record,
    )


def episode(policy, model, instruction=None):
    """What each query answered; every second one is followed by a refresh."""
    scene = BenchScene(model.profile, QUERIES)
    state = policy.statistics.proprio.mean
    answers = []
    for query in range(QUERIES):
        observation = scene.observation(query, state)
        out = policy.infer(observation, scene.motion(query))
        kept = {k: {c: m.tolist() for c, m in v.items()} for k, v in out.kept_by_site.items()}
        answers.append((out.mode, out.normalized, kept))
        if query % 2:
            policy.refresh()
        for step in scene.steps_after(query):
            for camera, frame in scene.frames(step).items():
                policy.watch(camera, scene.stamp_ns(step), frame)
    return answers


def assert_same(got, want, atol=0.0):
    assert [mode for mode, _, _ in got] == [mode for mode, _, _ in want]
    for (_, mine, kept), (_, theirs, their_kept) in zip(got, want, strict=True):
        assert kept == their_kept
        torch.testing.assert_close(
            torch.tensor(mine), torch.tensor(theirs), rtol=0, atol=atol, equal_nan=False
        )


@pytest.mark.parametrize('method', STATIC)
def test_a_replay_is_the_query(bench_model, method):
    eager, fast = bench_model.policy(method), recorded(bench_model.policy(method), tape.record_tape)
    assert isinstance(fast._forward, Programs) and isinstance(eager._forward, Eager)
    for _ in range(2):  # the second episode replays only
        want, got = episode(eager, bench_model), episode(fast, bench_model)
        assert_same(got, want)
        assert len({answer[1].tobytes() for answer in got}) == QUERIES
        for policy in (eager, fast):
            policy.reset()
