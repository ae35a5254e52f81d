"""Pose targets against homogeneous matrices, multiplied out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from vla_prune_ros.runtime.guard import PoseTarget

HALF_S = 500_000_000
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])
STEPS = st.lists(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6), min_size=1, max_size=6)


def cross_matrix(v):
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


@given(STEPS, st.integers(0, 2**32 - 1))
def test_steps_add_up_from_the_measured_pose(steps, seed):
    """Translations add; the exponential of each rotation vector multiplies from the left."""
    random = np.random.default_rng(seed)
    position, start = random.normal(size=3), Rotation.random(random_state=seed % 2**31)
    target = PoseTarget(0.5)
    target.measured(position, start.as_quat(), 0)
    target.anchor_next()
    matrix = start.as_matrix()
    for step in np.array(steps):
        assert target.advance(step, HALF_S)
        position = position + step[:3]
        matrix = expm(cross_matrix(step[3:])) @ matrix
    np.testing.assert_allclose(target.pose[0], position, atol=1e-12)
    np.testing.assert_allclose(Rotation.from_quat(target.pose[1]).as_matrix(), matrix, atol=1e-9)


def test_inside_a_chunk_the_arm_may_go_stale_and_is_not_looked_at():
    target = PoseTarget(0.5)
    target.measured(np.zeros(3), IDENTITY, 0)
    target.anchor_next()
    step = np.array([0.1, 0, 0, 0, 0, 0])
    assert target.advance(step, 0)
    target.measured(np.array([9.0, 9.0, 9.0]), IDENTITY, 0)
    assert target.advance(step, 10 * HALF_S)
    np.testing.assert_allclose(target.pose[0], [0.2, 0, 0])


def test_each_chunk_starts_where_the_arm_is():
    target = PoseTarget(0.5)
    for x in (0.0, 5.0):
        target.measured(np.array([x, 0, 0]), IDENTITY, 0)
        target.anchor_next()
        assert target.advance(np.array([0.1, 0, 0, 0, 0, 0]), 0)
        np.testing.assert_allclose(target.pose[0], [x + 0.1, 0, 0])


def test_a_chunk_cannot_start_from_nowhere_or_from_the_past():
    target = PoseTarget(0.5)
    assert not target.advance(np.zeros(6), 0)
    assert target.pose is None
    target.measured(np.zeros(3), IDENTITY, 0)
    target.anchor_next()
    assert not target.advance(np.zeros(6), HALF_S + 1)
    assert target.pose is None
    assert target.advance(np.zeros(6), HALF_S)


def test_holding_is_where_the_arm_is_measured_and_ends_the_chunk():
    target = PoseTarget(0.5)
    assert not target.hold(0)
    target.measured(np.ones(3), IDENTITY, 0)
    target.anchor_next()
    target.advance(np.full(6, 0.1), 0)
    assert target.hold(0)
    np.testing.assert_array_equal(target.pose[0], np.ones(3))
    target.measured(np.full(3, 2.0), IDENTITY, 0)
    assert target.advance(np.array([0.1, 0, 0, 0, 0, 0]), 0)  # a new start, not a continuation
    np.testing.assert_allclose(target.pose[0], [2.1, 2, 2])


@pytest.mark.parametrize(
    ('position', 'quaternion'),
    [
        ([np.nan, 0, 0], [0, 0, 0, 1]),
        ([0, np.inf, 0], [0, 0, 0, 1]),
        ([0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0], [np.nan, 0, 0, 1]),
    ],
)
def test_a_pose_that_is_none_is_not_taken_in(position, quaternion):
    target = PoseTarget(0.5)
    target.measured(np.array(position, float), np.array(quaternion, float), 0)
    assert not target.hold(0)


def test_a_quaternion_of_another_length_is_normalised():
    target = PoseTarget(0.5)
    target.measured(np.zeros(3), np.array([0.0, 0.0, 3.0, 4.0]), 0)
    target.hold(0)
    np.testing.assert_allclose(target.pose[1], [0, 0, 0.6, 0.8])
