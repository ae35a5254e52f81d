"""What a policy remembers between queries, and how another goes on from its memory."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros import MotionHint
from vla_prune_ros.errors import DataError, InputRefused
from vla_prune_ros.evaluate.bench.models import BenchModelOptions, build_bench_model
from vla_prune_ros.evaluate.bench.pruning import BenchScene
from vla_prune_ros.pruning.base import Pruner, PruningSite
from vla_prune_ros.pruning.registry import PRUNERS
from vla_prune_ros.pruning.state import pack, unpack

FAST = MotionHint(0.9, 0.1, 0.0, 'pose')
SLOW = MotionHint(0.05, 0.1, 0.0, 'pose')
STEP_NS = 50_000_000
METHODS = """dense uniform:64 fastv:64 divprune:64 vla_adp vla_pruner:64 vla_cache specprune
    specprune:paper specprune:legacy_2026"""


@pytest.fixture(scope='module')
def policy(load):
    return load(pruning='specprune')


@pytest.fixture
def fresh(policy):
    policy.reset()
    return policy


def at(observation, step):
    return replace(observation, stamp_ns=10**9 + step * STEP_NS)


def test_first_dense_then_coarse_and_fine_by_the_preset(fresh, observation):
    """A warm-up runs these shapes, too, and leaves nothing."""
    calls, real = [], fresh.pruner.begin
    fresh.pruner.begin = lambda query: calls.append(real(query)) or calls[-1]
    try:
        fresh.warm_up()
    finally:
        del fresh.pruner.begin
    assert fresh.pruner.memory.empty
    modes, kept = [], []
    for step, motion in ((0, FAST), (8, FAST), (16, SLOW)):
        out = fresh.infer(at(observation, step), motion)
        modes.append(out.mode)
        kept.append(tuple(int(out.kept[camera].sum()) for camera in ('primary', 'wrist')))
    assert modes == calls == ['dense', 'coarse', 'fine']
    budgets = fresh.pruner.config.budgets[1]  # the last site of three layers
    assert kept == [(256, 256), tuple(budgets.coarse), tuple(budgets.fine)]


class Slow(Pruner):
    name = 'slow'
    sites = (PruningSite(-1), PruningSite(0, lambda layout: layout.task_positions))
    history_s = 0.3

    def begin(self, query):
        time.sleep(0.01)
        query.history.before('primary', query.stamp_ns, 0)
        return 'coarse'

    def keep(self, view):
        time.sleep(0.01)
        return view.ids[::2]


def test_rule_7_all_work_of_a_pruner_is_in_the_reported_time(load, observation):
    """A sleep is never shorter than asked for, so the bound does not depend on the machine."""
    policy = load(pruning=Slow())

    def decode():
        time.sleep(0.01)
        return observation.images['primary']

    policy.watch('primary', 10**9, decode)
    ms = policy.infer(at(observation, 4)).timings_ms
    assert ms['selection'] >= 40 and ms['total'] >= ms['selection'] + ms['language']


@pytest.mark.parametrize('still', [True, False])
def test_the_reference_is_the_watched_frame_of_five_steps_ago(fresh, observation, still):
    """A slow arm looks back T = 6, five control steps: from step 8 to step 3."""
    fresh.infer(at(observation, 0), SLOW)
    for step in range(1, 8):
        pixels = 0 if still and step == 3 else 40
        for camera, image in observation.images.items():
            fresh.watch(camera, 10**9 + step * STEP_NS, np.roll(image, pixels, axis=1))
    report = fresh.infer(at(observation, 8), SLOW).pruning
    assert report['look_back_steps'] == 6
    changed = report['changed_primary'], report['changed_wrist']
    assert changed == (0, 0) if still else changed[0] > 20


def test_reset_forgets_frames_scores_and_mode(fresh, observation):
    fresh.infer(at(observation, 0), SLOW)
    first = fresh.infer(at(observation, 8), SLOW)
    fresh.reset()
    assert fresh.refresh() is None
    assert fresh.infer(at(observation, 16), SLOW).pruning['reason'] == 'first'
    again = fresh.infer(at(observation, 24), SLOW)
    np.testing.assert_array_equal(again.actions, first.actions)


def test_refresh_takes_time_changes_no_chunk_and_renews_the_scores(fresh, observation):
    fresh.infer(at(observation, 0), FAST)
    out = fresh.infer(at(observation, 8), FAST)
    before = fresh.pruner.memory.age, dict(fresh.pruner.memory.scores)
    assert fresh.refresh() > 0
    assert (before[0], fresh.pruner.memory.age) == (1, 0)
    # Frames, state and instruction are those of the dense query: so are the scores.
    for layer, scores in fresh.pruner.memory.scores.items():
        torch.testing.assert_close(scores, before[1][layer], rtol=0, atol=1e-7)
    fresh.reset()
    fresh.infer(at(observation, 0), FAST)
    fresh.refresh()
    np.testing.assert_array_equal(fresh.infer(at(observation, 8), FAST).actions, out.actions)


def test_a_refresh_that_must_stop_leaves_everything(fresh, observation):
    fresh.infer(at(observation, 0), FAST)
    fresh.infer(at(observation, 8), FAST)
    asked = []
    assert fresh.refresh(lambda: asked.append(1) or len(asked) < 2) is None
    assert len(asked) == 2 and fresh.pruner.memory.age == 1
    with pytest.raises(InputRefused):
        fresh.infer(replace(at(observation, 16), proprio=None), FAST)
    assert fresh.refresh() is None  # a failed query leaves nothing to refresh


@pytest.mark.parametrize('stamp', [0, 17])
def test_queries_with_one_stamp_are_pruned_too(fresh, observation, stamp):
    modes = [fresh.infer(replace(observation, stamp_ns=stamp), FAST).mode for _ in range(3)]
    assert modes == ['dense', 'coarse', 'coarse']


@pytest.mark.parametrize(
    'frame', [np.zeros((8, 8), np.uint8), np.zeros((0, 9, 3), np.uint8), np.zeros((8, 8, 3))]
)
def test_a_watched_frame_that_is_no_image_stops_nothing(fresh, observation, frame):
    fresh.infer(at(observation, 0), SLOW)
    fresh.watch('wrist', 10**9 + 3 * STEP_NS, frame)
    assert fresh.infer(at(observation, 8), SLOW).mode == 'fine'
    with pytest.raises(InputRefused, match="camera 'front' is unknown"):
        fresh.watch('front', 0, np.zeros((8, 8, 3), np.uint8))


def test_nothing_to_refresh_without_a_pruner_that_learns(load, observation):
    dense = load(pruning='dense')
    dense.infer(observation)
    assert dense.refresh() is None
    dense.watch('primary', 0, observation.images['primary'])  # ignored


@pytest.fixture(scope='module')
def model():
    return build_bench_model(BenchModelOptions('micro'))


def drive(policy, scene, queries):
    out = []
    for number in queries:
        seen = scene.observation(number, policy.statistics.proprio.mean)
        out.append(policy.infer(seen, scene.motion(number)))
        policy.refresh()
        for step in scene.steps_after(number):
            for camera, frame in scene.frames(step).items():
                policy.watch(camera, scene.stamp_ns(step), lambda frame=frame: frame)
    return out


@pytest.mark.parametrize('method', METHODS.split())
def test_a_restored_policy_goes_on_to_the_last_bit(model, method):
    scene = BenchScene(model.profile, 6)
    first, second = model.policy(method), model.policy(method)
    drive(first, scene, range(3))
    memory = first.memory()
    drive(second, scene, range(1))  # whatever it remembers is replaced
    second.restore(memory)
    expected, found = drive(first, scene, range(3, 6)), drive(second, scene, range(3, 6))
    for mine, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.normalized, plain.normalized)
        assert (mine.mode, mine.pruning) == (plain.mode, plain.pruning)
        np.testing.assert_equal(dict(mine.kept), dict(plain.kept))


def test_every_method_is_restored():
    """``lightvla`` and its kin are not stateful, and need trained weights."""
    named = {method.partition(':')[0] for method in METHODS.split()}
    assert set(PRUNERS) - named == {'lightvla', 'lightvla_star', 'vla_acl'}


def test_frames_that_cannot_be_decoded_count_as_none(model):
    scene, policy = BenchScene(model.profile, 2), model.policy('specprune')
    drive(policy, scene, range(1))
    policy.watch('primary', 10**9, lambda: 1 / 0)
    other = model.policy('specprune')
    other.restore(policy.memory())
    drive(other, scene, range(1, 2))


def test_a_state_of_another_method_or_kind_is_refused(model):
    policy = model.policy('specprune')
    with pytest.raises(DataError, match='uniform'):
        policy.restore(model.policy('uniform:64').memory())
    policy.pruner.memory.mode = lambda: None
    with pytest.raises(DataError, match='function'):
        policy.memory()


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def nested(inner):
    lists, keys = st.lists(inner, max_size=3), st.integers() | st.text()
    return lists | lists.map(tuple) | st.dictionaries(keys, inner, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.recursive(PLAIN, nested, max_leaves=8))
def test_packing_keeps_plain_values(value):
    assert repr(unpack(pack(value))) == repr(value)


def test_packing_keeps_tensors_and_what_is_shared():
    tensor = torch.randn(3, 2).bfloat16()
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]
    scalar = torch.tensor(float('nan'), dtype=torch.float64)
    got = unpack(pack({'t': tensor, 's': scalar, 'a': image, 'b': (image,)}))
    assert got['t'].dtype == torch.bfloat16 and torch.equal(got['t'], tensor)
    assert got['s'].dtype == torch.float64 and got['s'].isnan() and got['s'].shape == ()
    np.testing.assert_array_equal(got['a'], image)
    assert got['b'][0] is got['a']
