"""The guard against its contract: refuse, scale a little, or pass unchanged; pose targets against
homogeneous matrices, multiplied out.

Expected numbers are the limits themselves and exact binary fractions at the boundaries.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from vla_prune_ros.errors import ActionRefused, ProfileError
from vla_prune_ros.profiles import DELTA_POSE_NAMES
from vla_prune_ros.runtime.guard import Guard, Limits, PoseTarget

LIMITS = Limits(max_step_m=0.0625, max_step_rad=0.5)  # binary fractions: boundaries are exact


def chunk(*steps: dict[int, float]) -> np.ndarray:
    actions = np.zeros((len(steps), 7))
    for i, step in enumerate(steps):
        for column, value in step.items():
            actions[i, column] = value
    return actions


def reason(actions, limits: Limits = LIMITS) -> str:
    with pytest.raises(ActionRefused) as caught:
        Guard(limits).check(actions, DELTA_POSE_NAMES)
    return caught.value.reason


class TestProperties:
    @settings(deadline=None)
    @given(
        hnp.arrays(
            np.float64,
            st.tuples(st.integers(1, 8), st.just(7)),
            elements=st.floats(allow_nan=True, allow_infinity=True),
        ),
        st.floats(1e-3, 1),
        st.floats(1e-3, 1),
        st.floats(0.01, 1),
        st.floats(1, 2),
    )
    def test_whatever_goes_in_what_comes_out_is_within_limits(
        self, actions, metres, radians, speed, tolerance
    ):
        before = actions.copy()
        try:
            deltas, gripper, _ = Guard(Limits(metres, radians, None, speed, tolerance)).check(
                actions, DELTA_POSE_NAMES
            )
        except ActionRefused:
            deltas, gripper = np.zeros((1, 6)), np.zeros(1)
        assert np.isfinite(deltas).all() and np.isfinite(gripper).all()
        assert (np.sqrt((deltas[:, :3] ** 2).sum(1)) <= metres).all()
        assert (np.sqrt((deltas[:, 3:] ** 2).sum(1)) <= radians).all()
        assert (gripper >= 0).all() and (gripper <= 1).all()
        np.testing.assert_array_equal(actions, before)

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=8),
        st.floats(0.01, 1.249),
    )
    def test_scaling_keeps_directions_and_spares_the_rest(self, directions, ratio):
        """Step 0 has ``ratio`` times the limit; what is within it comes back bit for bit."""
        vectors = np.array(directions) * 0.9 / np.sqrt(3) * LIMITS.max_step_m
        length = np.linalg.norm(vectors[0])
        if length > 1e-6:
            vectors[0] *= ratio * LIMITS.max_step_m / length
        actions = np.zeros((len(vectors), 7))
        actions[:, :3] = vectors
        deltas, _, report = Guard(LIMITS).check(actions, DELTA_POSE_NAMES)
        over = np.linalg.norm(vectors, axis=1) > LIMITS.max_step_m
        np.testing.assert_array_equal(deltas[~over, :3], vectors[~over])
        np.testing.assert_array_equal(deltas[:, 3:], 0)
        assert report.scaled_translation == over.sum() and report.scaled_rotation == 0
        for got, asked in zip(deltas[over, :3], vectors[over], strict=True):
            np.testing.assert_allclose(np.cross(got, asked), 0, atol=1e-12)
            assert got @ asked > 0
            assert np.linalg.norm(got) == pytest.approx(LIMITS.max_step_m, rel=1e-12)

    def test_scaling_never_rounds_up_beyond_the_limit(self):
        vectors = np.random.default_rng(0).normal(size=(20_000, 3))
        actions = np.zeros((len(vectors), 7))
        actions[:, :3] = vectors * (0.1 * 1.1 / np.linalg.norm(vectors, axis=1))[:, None]
        deltas, _, report = Guard(Limits(0.1, 0.1)).check(actions, DELTA_POSE_NAMES)
        assert report.scaled_translation == len(vectors)
        assert np.sqrt((deltas[:, :3] ** 2).sum(1)).max() <= 0.1


class TestBoundaries:
    @pytest.mark.parametrize(
        'column, limit, name', [(1, 0.0625, 'translation'), (4, 0.5, 'rotation')]
    )
    def test_at_the_limit_passes_and_beyond_the_tolerance_does_not(self, column, limit, name):
        guard = Guard(LIMITS)
        deltas, _, report = guard.check(chunk({column: -limit}), DELTA_POSE_NAMES)
        assert deltas[0, column] == -limit and getattr(report, f'scaled_{name}') == 0
        deltas, _, report = guard.check(chunk({column: limit * 1.25}), DELTA_POSE_NAMES)
        assert deltas[0, column] == pytest.approx(limit) and deltas[0, column] <= limit
        assert getattr(report, f'scaled_{name}') == 1
        beyond = np.nextafter(limit * 1.25, 1)
        assert reason(chunk({}, {column: beyond})) == f'limit_{name}'

    def test_translation_and_rotation_are_scaled_apart(self):
        deltas, _, report = Guard(LIMITS).check(chunk({0: 0.07, 3: 0.1}), DELTA_POSE_NAMES)
        assert deltas[0, 0] == pytest.approx(0.0625) and deltas[0, 3] == 0.1
        assert (report.largest_m, report.largest_rad) == (0.07, 0.1)

    def test_speed_scale_applies_before_the_check(self):
        slow = dataclasses.replace(LIMITS, speed_scale=0.25)
        deltas, _, report = Guard(slow).check(chunk({0: 0.25, 6: 1.0}), DELTA_POSE_NAMES)
        assert deltas[0, 0] == 0.0625 and report.scaled_translation == 0

    def test_gripper_is_clipped(self):
        actions = chunk({6: -0.1}, {6: 0.0}, {6: 0.5}, {6: 1.0}, {6: 1.2})
        _, gripper, _ = Guard(LIMITS).check(actions, DELTA_POSE_NAMES)
        assert gripper.tolist() == [0, 0, 0.5, 1, 1]

    def test_a_sudden_change_between_steps(self):
        jerky = dataclasses.replace(LIMITS, max_jerk_m=0.03125)
        Guard(jerky).check(chunk({0: 0.03125}, {0: 0.0625}), DELTA_POSE_NAMES)
        assert reason(chunk({0: 0.03125}, {0: 0.0}, {1: 0.04}), jerky) == 'limit_jerk'


class TestRefusals:
    @pytest.mark.parametrize('column', range(7))
    @pytest.mark.parametrize('bad', [np.nan, -np.inf])
    def test_one_bad_number_refuses_the_chunk_by_name(self, bad, column):
        with pytest.raises(ActionRefused, match=f'step 1 {DELTA_POSE_NAMES[column]}') as caught:
            Guard(LIMITS).check(chunk({}, {column: bad}, {}), DELTA_POSE_NAMES)
        assert caught.value.reason == 'non_finite'

    def test_shapes_and_what_is_not_numbers(self):
        shapes = map(np.zeros, [(7,), (0, 7), (8, 6), (8, 14), (1, 8, 7)])
        for actions in (*shapes, None, [[0.0] * 7, [0.0]]):
            assert reason(actions) == 'shape'

    def test_huge_values(self):
        """Their squares overflow."""
        assert reason(chunk({0: 1e6})) == 'limit_translation'
        assert reason(chunk({5: 1e300})) == 'limit_rotation'


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *itertools.product(
            ('max_step_m', 'max_step_rad', 'speed_scale', 'scale_tolerance', 'max_jerk_m'),
            (np.nan, np.inf, -0.1, 0.0, '0.1', True),
        ),
        ('scale_tolerance', 0.99),
        ('speed_scale', 1.01),
    ],
)
def test_a_limit_that_would_not_limit(name, value):
    with pytest.raises(ProfileError, match=name):
        Limits(**{'max_step_m': 0.1, 'max_step_rad': 0.1, name: value})


# --- pose targets --------------------------------------------------------------------------------

HALF_S = 500_000_000
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])
STEP = np.array([0.1, 0, 0, 0, 0, 0])
STEPS = st.lists(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6), min_size=1, max_size=6)


def cross_matrix(v):
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def target_at(x):
    target = PoseTarget(0.5)
    target.measured(np.array([x, 0, 0]), IDENTITY, 0)
    target.anchor_next()
    return target


@given(STEPS, st.integers(0, 2**32 - 1))
def test_steps_add_up_from_the_measured_pose(steps, seed):
    """Translations add; the exponential of each rotation vector multiplies from the left."""
    random = np.random.default_rng(seed)
    position, start = random.normal(size=3), Rotation.random(random_state=seed % 2**31)
    target = PoseTarget(0.5)
    target.measured(position, start.as_quat() * random.uniform(0.5, 2), 0)  # of any length
    target.anchor_next()
    matrix = start.as_matrix()
    for step in np.array(steps):
        assert target.advance(step, HALF_S)
        position = position + step[:3]
        matrix = expm(cross_matrix(step[3:])) @ matrix
    np.testing.assert_allclose(target.pose[0], position, atol=1e-12)
    np.testing.assert_allclose(Rotation.from_quat(target.pose[1]).as_matrix(), matrix, atol=1e-9)


def test_inside_a_chunk_the_arm_may_go_stale_and_is_not_measured_again():
    target = target_at(0.0)
    assert target.advance(STEP, 0)
    target.measured(np.array([9.0, 9.0, 9.0]), IDENTITY, 0)
    assert target.advance(STEP, 10 * HALF_S)
    np.testing.assert_allclose(target.pose[0], [0.2, 0, 0])
    target.measured(np.array([5.0, 0, 0]), IDENTITY, 10 * HALF_S)
    target.anchor_next()  # the next chunk starts where the arm is
    assert target.advance(STEP, 10 * HALF_S)
    np.testing.assert_allclose(target.pose[0], [5.1, 0, 0])


def test_a_chunk_cannot_start_from_nowhere_or_from_the_past():
    nowhere, target = PoseTarget(0.5), target_at(0.0)
    assert not nowhere.advance(STEP, 0) and not nowhere.hold(0) and nowhere.pose is None
    assert not target.advance(STEP, HALF_S + 1) and target.pose is None
    assert target.advance(STEP, HALF_S)


def test_holding_is_where_the_arm_is_measured_and_ends_the_chunk():
    target = target_at(1.0)
    target.advance(STEP, 0)
    assert target.hold(0)
    np.testing.assert_array_equal(target.pose[0], [1, 0, 0])
    target.measured(np.full(3, 2.0), IDENTITY, 0)
    assert target.advance(STEP, 0)  # a new start, not a continuation
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
