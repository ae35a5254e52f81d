"""``load_policy`` to un-normalised actions, from raw frames, against the original code."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import vla_prune_ros
from vla_prune_ros import MotionHint
from vla_prune_ros.errors import CheckpointError, InputRefused, ProfileError
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.sim.scene import gripper_to_env


@pytest.fixture(scope='module')
def load(data_dir, tokenizer):
    def make(**options):
        return vla_prune_ros.load_policy(
            data_dir / 'micro' / 'checkpoint', tokenizer=tokenizer, **options
        )

    return make


@pytest.fixture(scope='module')
def policy(load):
    return load()


def test_raw_frames_to_actions(policy, observation, data_dir):
    golden = load_file(data_dir / 'micro' / 'l1_fp32.safetensors')
    out = policy.infer(observation)
    assert out.actions.dtype == np.float64 and out.normalized.dtype == np.float32
    np.testing.assert_allclose(out.normalized, golden['normalized_actions'][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(out.actions, golden['actions'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        gripper_to_env(out.actions), golden['env_actions'], rtol=0, atol=1e-4
    )
    assert (out.mode, out.visual_tokens, out.stamp_ns) == ('dense', 512, 17)


def test_the_real_tokenizer_gives_the_same(load, observation, policy, golden_dir, data_dir):
    real = vla_prune_ros.load_policy(
        data_dir / 'micro' / 'checkpoint', tokenizer=golden_dir / 'tokenizer'
    )
    np.testing.assert_array_equal(
        real.infer(observation).actions, policy.infer(observation).actions
    )


def test_bfloat16(load, observation, data_dir):
    golden = load_file(data_dir / 'micro' / 'l1_fp32.safetensors')
    out = load(dtype='bfloat16').infer(observation)
    np.testing.assert_allclose(out.normalized, golden['normalized_actions'][0], rtol=0, atol=0.1)


def test_inference_does_not_depend_on_what_came_before(policy, observation):
    first = policy.infer(observation)
    policy.infer(replace(observation, images={c: 255 - i for c, i in observation.images.items()}))
    np.testing.assert_array_equal(policy.infer(observation).actions, first.actions)


def test_uniform_reports_what_it_kept(load, observation):
    out = load(pruning='uniform:64,32').infer(observation, MotionHint(0.1, 0.0, 0.0, 'pose'))
    assert {c: int(m.sum()) for c, m in out.kept.items()} == {'primary': 64, 'wrist': 32}
    assert out.kept_by_site['before_L0']['wrist'].sum() == 32
    assert out.mode == 'coarse'


def test_keeping_everything_is_bit_identical_to_dense(load, observation, policy):
    out = load(pruning='uniform:256').infer(observation)
    np.testing.assert_array_equal(out.actions, policy.infer(observation).actions)


def test_timings_name_every_stage_and_their_sum_is_the_total(policy, observation):
    ms = policy.infer(observation).timings_ms
    assert list(ms) == ['preprocess', 'vision', 'selection', 'language', 'head', 'total']
    stages = sum(v for k, v in ms.items() if k != 'total')
    assert 0 < stages <= ms['total']


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (
            {'images': {'primary': np.zeros((8, 8, 3), np.uint8)}},
            'wrist',
        ),
        ({'proprio': np.full(8, np.nan)}, 'proprio'),
        ({'proprio': np.zeros(7)}, 'proprio'),
        ({'proprio': None}, 'proprio'),
    ],
)
def test_bad_observations_are_refused_by_name(policy, observation, change, says):
    with pytest.raises(InputRefused, match=says):
        policy.infer(replace(observation, **change))


@pytest.mark.parametrize(
    ('options', 'error', 'says'),
    [
        ({'profile': 'ur5'}, ProfileError, "unknown profile 'ur5'; use one of"),
        ({'pruning': 'magic'}, ProfileError, 'unknown pruning method'),
        ({'dtype': 'int3'}, ProfileError, "dtype 'int3' is unknown"),
        ({'device': 'tpu9'}, ProfileError, "device 'tpu9'"),
        ({'head': 'psychic'}, ProfileError, "head 'psychic' is unknown"),
        ({'unnorm_key': 'x'}, CheckpointError, "unnorm_key 'x' is not in"),
    ],
)
def test_wrong_options_are_named(load, options, error, says):
    with pytest.raises(error, match=says):
        load(**options)


def test_an_untrained_checkpoint_says_so(tmp_path, policy):
    untrained = vla_prune_ros.load_policy(make_checkpoint(tmp_path / 'ck', 'micro'))
    assert untrained.untrained and untrained.describe()['untrained'] is True
    assert not policy.untrained


def test_warm_up_leaves_no_trace(load, observation):
    policy = load()
    want = policy.infer(observation).actions
    policy.warm_up()
    np.testing.assert_array_equal(policy.infer(observation).actions, want)
