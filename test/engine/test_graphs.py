"""Recorded queries against the same queries run operation by operation: equal to the last bit.

Recorded by ``tape.py``, which refuses what a CUDA graph cannot hold; on a CUDA device by graphs.
Frames and speeds are those of the bench: dense, coarse and fine queries, with refreshes between.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tape
import torch

from vla_prune_ros.engine import graphs
from vla_prune_ros.engine.graphs import (
    Eager,
    Graphs,
    capturing,
    choose_engine,
    cuda_graph,
    eager,
    why_eager,
)
from vla_prune_ros.engine.policy import Policy
from vla_prune_ros.errors import ProfileError
from vla_prune_ros.evaluate.bench.models import BenchModelOptions, build_bench_model
from vla_prune_ros.evaluate.bench.pruning import BenchScene
from vla_prune_ros.pruning.registry import PRUNERS, read_spec

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
    'specprune:careful',
    '{name: specprune, global_scores: false}',
    '{name: specprune, moving_patches: false}',
    '{name: specprune, fill: text}',
)
COUNTED = ('lightvla', 'lightvla_star')
DYNAMIC = (
    'specprune:paper',
    'specprune:legacy_2026',
    'vla_cache',
    'vla_pruner',
    '{name: fastv, joint: true}',
    '{name: divprune, joint: true}',
)
QUERIES = 4


@pytest.fixture(scope='module')
def bench_model():
    return build_bench_model(BenchModelOptions('micro', dtype='float32'))


def recorded(policy, record=tape.record_tape):
    return Policy(replace(policy.setup, engine=capturing(record)), policy.pruner)


def episode(policy, model):
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
    one, fast = bench_model.policy(method), recorded(bench_model.policy(method))
    assert isinstance(fast.forward, Graphs) and isinstance(one.forward, Eager)
    for _ in range(2):  # the second episode replays only
        want, got = episode(one, bench_model), episode(fast, bench_model)
        assert_same(got, want)
        assert len({answer[1].tobytes() for answer in got}) == QUERIES
        one.reset()
        fast.reset()
    assert fast.describe()['engine'] == 'graphs'


@pytest.mark.parametrize('method', COUNTED)
def test_a_set_of_any_size_is_filled_up_with_tokens_that_nobody_sees(bench_model, method):
    """Equal but for the order of sums: the same tokens count, the same are reported."""
    one, fast = bench_model.policy(method), recorded(bench_model.policy(method))
    want, got = episode(one, bench_model), episode(fast, bench_model)
    assert_same(got, want, atol=1e-5)
    counts = {sum(map(sum, kept['before_L0'].values())) for _, _, kept in got}
    sizes = {key[2] for key in fast.forward.graphs if len(key) == 3 and key[1] == 'coarse'}
    assert len(counts) > 1 and sizes == {-(-count // 32) * 32 for count in counts}


@pytest.mark.gpu
@pytest.mark.parametrize('method', (*STATIC, *COUNTED))
def test_a_graph_is_the_query(method):
    model = build_bench_model(BenchModelOptions('micro', dtype='float32', device='cuda'))
    one = model.policy(method, eager)
    fast = recorded(model.policy(method, eager), cuda_graph())
    for _ in range(2):
        assert_same(episode(fast, model), episode(one, model), atol=1e-4)
        one.reset()
        fast.reset()


def test_every_method_is_in_one_of_the_lists():
    named = {read_spec(method)['name'] for method in (*STATIC, *COUNTED, *DYNAMIC)}
    assert named == set(PRUNERS)


@pytest.mark.parametrize('method', DYNAMIC)
def test_what_cannot_be_recorded_runs_and_says_why(bench_model, method):
    policy = recorded(bench_model.policy(method))
    assert isinstance(policy.forward, Eager)
    assert 'depends on the data' in policy.describe()['engine']


def test_another_instruction_is_another_graph(bench_model):
    one, fast = bench_model.policy('uniform:40'), recorded(bench_model.policy('uniform:40'))
    scene = BenchScene(bench_model.profile, 2)
    tasks = ('pick up the cup', 'put the red cube on the green cube', 'pick up the cup')
    for query, task in enumerate(tasks):
        seen = scene.observation(query % 2, one.statistics.proprio.mean)
        seen = replace(seen, instruction=task)
        got, want = fast.infer(seen), one.infer(seen)
        assert got.normalized.tobytes() == want.normalized.tobytes()
    assert len(fast.forward.graphs) == 3  # towers, and two lengths of the prompt


@pytest.mark.parametrize('good', [0, 1])
def test_a_device_that_refuses_to_record_runs_one_by_one_and_says_so(bench_model, good):
    """``good`` graphs are recorded before it refuses: the towers', or none."""
    recordings = []

    def record(run):
        recordings.append(1)
        if len(recordings) > good:
            raise RuntimeError('operation not permitted when stream is capturing\nmore')
        return tape.record_tape(run)

    one, fast = bench_model.policy('specprune'), bench_model.policy('specprune')
    fast = recorded(fast, record)
    assert_same(episode(fast, bench_model), episode(one, bench_model))
    assert len(recordings) == good + 1
    assert fast.describe()['engine'] == (
        'eager (recording failed: operation not permitted when stream is capturing)'
    )


def test_graphs_do_not_grow_without_end(bench_model, monkeypatch):
    monkeypatch.setattr(graphs, 'MAX_GRAPHS', 3)
    policy = recorded(bench_model.policy('dense'))
    seen = BenchScene(bench_model.profile, 1).observation(0, policy.statistics.proprio.mean)
    for count in range(1, 7):
        policy.infer(replace(seen, instruction='word ' * count))
        assert len(policy.forward.graphs) <= 3


@pytest.mark.parametrize(
    ('name', 'says'), [('fast', "'fast' is unknown"), ('graphs', 'on device')]
)
def test_a_wrong_engine_is_refused(name, says):
    with pytest.raises(ProfileError, match=says):
        choose_engine(name, 'cpu')


def test_a_diffusion_head_runs_one_by_one(bench_model):
    model = SimpleNamespace(size=replace(bench_model.model.size, head='diffusion'))
    assert 'diffusion' in why_eager(model, bench_model.policy('dense').pruner)
