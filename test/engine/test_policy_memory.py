"""What a policy remembers between queries: frames, global scores, and how it forgets them."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import vla_prune_ros
from vla_prune_ros import MotionHint
from vla_prune_ros.errors import InputRefused
from vla_prune_ros.pruning.base import Pruner, PruningSite

FAST = MotionHint(0.9, 0.1, 0.0, 'pose')
SLOW = MotionHint(0.05, 0.1, 0.0, 'pose')
STEP_NS = 50_000_000


@pytest.fixture(scope='module')
def policy(data_dir, tokenizer):
    return vla_prune_ros.load_policy(
        data_dir / 'micro' / 'checkpoint', tokenizer=tokenizer, pruning='specprune'
    )


@pytest.fixture
def fresh(policy):
    policy.reset()
    return policy


def at(observation, step, images=None):
    return replace(
        observation, images=images or observation.images, stamp_ns=10**9 + step * STEP_NS
    )


def shifted(observation, pixels):
    return {c: np.roll(i, pixels, axis=1) for c, i in observation.images.items()}


def test_first_dense_then_coarse_and_fine_by_the_preset(fresh, observation):
    modes, kept = [], []
    for step, motion in ((0, FAST), (8, FAST), (16, SLOW)):
        out = fresh.infer(at(observation, step), motion)
        modes.append(out.mode)
        kept.append({c: int(m.sum()) for c, m in out.kept.items()})
    assert modes == ['dense', 'coarse', 'fine']
    budgets = fresh.pruner.config.budgets[1]  # the last site of three layers
    assert kept == [
        {'primary': 256, 'wrist': 256},
        dict(zip(('primary', 'wrist'), budgets.coarse, strict=True)),
        dict(zip(('primary', 'wrist'), budgets.fine, strict=True)),
    ]


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


def test_rule_7_all_work_of_a_pruner_is_in_the_reported_time(data_dir, tokenizer, observation):
    """A sleep is never shorter than asked for, so the bound does not depend on the machine."""
    policy = vla_prune_ros.load_policy(
        data_dir / 'micro' / 'checkpoint', tokenizer=tokenizer, pruning=Slow()
    )

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
        for camera, image in shifted(observation, pixels).items():
            fresh.watch(camera, 10**9 + step * STEP_NS, image)
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
    # Frames, state and words are those of the dense query: so are the scores.
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

    def proceed():
        asked.append(1)
        return len(asked) < 2

    assert fresh.refresh(proceed) is None
    assert len(asked) == 2 and fresh.pruner.memory.age == 1


def test_a_failed_query_leaves_nothing_to_refresh(fresh, observation):
    fresh.infer(at(observation, 0), FAST)
    fresh.infer(at(observation, 8), FAST)
    with pytest.raises(InputRefused):
        fresh.infer(replace(at(observation, 16), proprio=None), FAST)
    assert fresh.refresh() is None


@pytest.mark.parametrize('stamp', [0, 17])
def test_queries_with_one_stamp_are_pruned_too(fresh, observation, stamp):
    modes = [fresh.infer(replace(observation, stamp_ns=stamp), FAST).mode for _ in range(3)]
    assert modes == ['dense', 'coarse', 'coarse']


@pytest.mark.parametrize(
    'frame', [np.zeros((8, 8), np.uint8), np.zeros((0, 9, 3), np.uint8), np.zeros((8, 8, 3))]
)
def test_a_watched_frame_that_is_no_picture_stops_nothing(fresh, observation, frame):
    fresh.infer(at(observation, 0), SLOW)
    fresh.watch('wrist', 10**9 + 3 * STEP_NS, frame)
    assert fresh.infer(at(observation, 8), SLOW).mode == 'fine'


def test_a_camera_that_is_not_the_profile_s_is_refused(fresh):
    with pytest.raises(InputRefused, match="camera 'front' is unknown"):
        fresh.watch('front', 0, np.zeros((8, 8, 3), np.uint8))


def test_nothing_to_refresh_without_a_pruner_that_learns(data_dir, tokenizer, observation):
    dense = vla_prune_ros.load_policy(data_dir / 'micro' / 'checkpoint', tokenizer=tokenizer)
    dense.infer(observation)
    assert dense.refresh() is None
    dense.watch('primary', 0, observation.images['primary'])  # ignored


def test_warm_up_runs_the_pruned_shapes_too(fresh):
    calls = []
    real = fresh.pruner.begin
    fresh.pruner.begin = lambda query: calls.append(real(query)) or calls[-1]
    try:
        fresh.warm_up()
    finally:
        del fresh.pruner.begin
    assert calls == ['dense', 'coarse', 'fine'] and fresh.pruner.memory.empty
