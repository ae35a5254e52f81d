"""``load_policy`` to un-normalised actions, from raw frames, against the original code."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_prune_ros import MotionHint
from vla_prune_ros.engine.timing import StageTimer
from vla_prune_ros.errors import InputRefused
from vla_prune_ros.sim.scene import gripper_to_env


@pytest.fixture(scope='module')
def policy(load):
    return load()


def test_raw_frames_to_actions(policy, load, observation, data_dir):
    golden = load_file(data_dir / 'micro' / 'l1_fp32.safetensors')
    out = policy.infer(observation)
    assert out.actions.dtype == np.float64 and out.normalized.dtype == np.float32
    np.testing.assert_allclose(out.normalized, golden['normalized_actions'][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(out.actions, golden['actions'], rtol=0, atol=1e-4)
    env = gripper_to_env(out.actions)
    np.testing.assert_allclose(env, golden['env_actions'], rtol=0, atol=1e-4)
    assert (out.mode, out.visual_tokens, out.stamp_ns) == ('dense', 512, 17)
    ms = out.timings_ms
    assert list(ms) == ['preprocess', 'vision', 'selection', 'language', 'head', 'total']
    assert 0 < sum(v for k, v in ms.items() if k != 'total') <= ms['total']
    low = load(dtype='bfloat16').infer(observation).normalized
    np.testing.assert_allclose(low, golden['normalized_actions'][0], rtol=0, atol=0.1)


def test_inference_does_not_depend_on_what_came_before(policy, observation):
    first = policy.infer(observation)
    policy.infer(replace(observation, images={c: 255 - i for c, i in observation.images.items()}))
    policy.warm_up()
    np.testing.assert_array_equal(policy.infer(observation).actions, first.actions)


def test_uniform_reports_what_it_kept(load, observation):
    out = load(pruning='uniform:64,32').infer(observation, MotionHint(0.1, 0.0, 0.0, 'pose'))
    assert {c: int(m.sum()) for c, m in out.kept.items()} == {'primary': 64, 'wrist': 32}
    assert out.kept_by_site['before_L0']['wrist'].sum() == 32
    assert out.mode == 'coarse'


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'images': {'primary': np.zeros((8, 8, 3), np.uint8)}}, 'wrist'),
        ({'proprio': np.full(8, np.nan)}, 'proprio'),
        ({'proprio': np.zeros(7)}, 'proprio'),
        ({'proprio': None}, 'proprio'),
    ],
)
def test_bad_observations_are_refused_by_name(policy, observation, change, says):
    with pytest.raises(InputRefused, match=says):
        policy.infer(replace(observation, **change))


def scripted(*milliseconds):
    times = iter(milliseconds)
    return lambda: round(next(times) * 1e6)


def test_nested_stages_add_up_and_the_total_includes_gaps():
    """Outer 0-10 with inner 1-4 and 6-7 inside, and 6.25-6.75 inside that; then inner 12-14."""
    timer = StageTimer(clock=scripted(0, 1, 4, 6, 6.25, 6.75, 7, 10, 12, 14))
    with timer.stage('outer'):
        with timer.stage('inner'):
            pass
        with timer.stage('inner'), timer.stage('innermost'):
            pass
    with timer.stage('inner'):
        pass
    assert timer.milliseconds() == {'outer': 6.0, 'inner': 5.5, 'innermost': 0.5, 'total': 14.0}


def test_a_failing_stage_is_timed_and_the_device_waited_for_before_every_reading():
    order, times = [], scripted(0, 7)
    timer = StageTimer(lambda: order.append('sync'), lambda: order.append('clock') or times())
    with pytest.raises(KeyError), timer.stage('a'):
        order.append('work')
        raise KeyError
    assert timer.milliseconds() == {'a': 7.0, 'total': 7.0}
    assert order == ['sync', 'clock', 'work', 'sync', 'clock']
