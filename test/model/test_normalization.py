"""Orientation, normalisation and gripper conventions, against the tables that the published
evaluation code produced (``table.*`` and ``state`` of the golden observation,
``normalized_actions`` and ``actions`` of the golden run), and closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vla_prune_ros.model.normalization import normalize, unnormalize
from vla_prune_ros.runtime.state import quaternion_to_axis_angle
from vla_prune_ros.sim.scene import gripper_to_env

MICRO = Path(__file__).parents[1] / 'data' / 'micro'


@pytest.fixture(scope='module')
def golden():
    return load_file(MICRO / 'observation.safetensors')


@pytest.fixture(scope='module')
def statistics():
    return json.loads((MICRO / 'checkpoint' / 'dataset_statistics.json').read_text())[
        'libero_spatial_no_noops'
    ]


def test_axis_angle_is_the_published_table(golden):
    ours = np.stack([quaternion_to_axis_angle(q) for q in golden['table.quat_xyzw']])
    np.testing.assert_array_equal(ours, golden['table.axis_angle'])
    turned = quaternion_to_axis_angle(golden['raw.robot0_eef_quat'])
    np.testing.assert_array_equal(turned, golden['state'][3:6])


@pytest.mark.parametrize(
    ('quaternion', 'vector'),
    [
        ((0, 0, 0.5**0.5, 0.5**0.5), (0, 0, np.pi / 2)),  # 90 degrees about z,
        ((0, 0, -(0.5**0.5), -(0.5**0.5)), (0, 0, -3 * np.pi / 2)),  # and 270 about -z
        ((np.sin(5e-7), 0, 0, np.cos(5e-7)), (1e-6, 0, 0)),  # not rounded to zero
        ((0, 0, 0, 1.0000001), (0, 0, 0)),
        ((0, 0, 0, -1.0000001), (0, 0, 0)),
    ],
)
def test_axis_angle_in_closed_form(quaternion, vector):
    np.testing.assert_allclose(quaternion_to_axis_angle(quaternion), vector, rtol=1e-2)


def test_normalize_is_the_published_table(golden, statistics):
    """But for its input, which the published code overwrites."""
    bounds, raw = statistics['proprio'], golden['table.proprio_raw'].copy()
    ours = normalize(raw, np.array(bounds['q01']), np.array(bounds['q99']))
    np.testing.assert_allclose(ours, golden['table.proprio_normalized'], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(raw, golden['table.proprio_raw'])


def test_masked_dimensions_pass_through_but_are_clipped():
    mask = np.array([True, False, False])
    got = normalize(np.array([5.0, 0.3, 7.0]), np.zeros(3), np.full(3, 10.0), mask)
    np.testing.assert_allclose(got, [0.0, 0.3, 1.0], atol=1e-8)


def test_unnormalize_is_the_published_run_to_the_last_bit(statistics):
    run = load_file(MICRO / 'l1_fp32.safetensors')
    bounds = {key: np.array(value) for key, value in statistics['action'].items()}
    got = unnormalize(
        run['normalized_actions'].reshape(8, 7), bounds['q01'], bounds['q99'], bounds['mask']
    )
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, run['actions'].reshape(8, 7))


def test_unnormalize_does_not_clip():
    got = unnormalize(np.array([3.0, 3.0]), np.zeros(2), np.ones(2), np.array([True, False]))
    np.testing.assert_allclose(got, [2.0, 3.0], atol=1e-7)


def test_gripper_is_the_published_table(golden):
    policy = golden['table.policy_action'].copy()
    np.testing.assert_array_equal(gripper_to_env(policy), golden['table.env_action'])
    np.testing.assert_array_equal(policy, golden['table.policy_action'])
