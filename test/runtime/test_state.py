"""Robot state to proprioception and motion.

Expected numbers: the golden observation of the published code, rotation matrices built by
Rodrigues' formula (independent of any quaternion), and uniform motion with known speed.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from vla_prune_ros.errors import InputRefused, ProfileError
from vla_prune_ros.runtime.state import (
    GripperJoints,
    MotionEstimator,
    joints_proprio,
    pose_gripper_proprio,
    resolve_axis_angle,
)

MICRO = Path(__file__).parents[1] / 'data' / 'micro'
LIBERO_MEAN = np.array([3.0, -0.1, 0.0])
numbers = st.floats(-1, 1)
quaternions = st.tuples(numbers, numbers, numbers, numbers).filter(
    lambda q: np.linalg.norm(q) > 0.1
)


def refusal(call, *arguments) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        call(*arguments)
    return caught.value


def rodrigues(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def matrix(quat: np.ndarray) -> np.ndarray:
    """Rotation matrix of any quaternion x y z w that is not zero."""
    x, y, z, w = np.asarray(quat) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


class TestGripperJoints:
    fingers = GripperJoints(('finger_1', 'finger_2'), (1.0, -1.0))

    @settings(deadline=None)
    @given(st.permutations(['finger_1', 'elbow', 'finger_2', 'wrist']))
    def test_any_order_of_joints(self, order: list[str]) -> None:
        where = {'finger_1': 0.01, 'finger_2': 0.03, 'elbow': np.nan, 'wrist': 2.0}
        got = self.fingers.pick(order, [where[name] for name in order])
        assert got.tolist() == [0.01, -0.03]

    def test_a_missing_joint_is_named_with_those_there_are(self) -> None:
        error = refusal(self.fingers.pick, ['elbow', 'finger_1'], [0.0, 0.0])
        assert error.reason == 'missing_joint'
        assert "'finger_2'" in error.what and 'elbow, finger_1' in error.remedy

    @pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
    def test_a_finger_that_is_not_finite(self, bad: float) -> None:
        error = refusal(self.fingers.pick, ['finger_1', 'finger_2'], [0.0, bad])
        assert error.reason == 'non_finite' and 'finger_2' in error.what

    def test_names_without_positions(self) -> None:
        assert refusal(self.fingers.pick, ['finger_1', 'finger_2'], [0.0]).reason == 'length'

    @pytest.mark.parametrize(
        'names, signs',
        [((), ()), (('a', 'a'), (1, 1)), (('a',), (1, -1)), (('a',), (0.5,)), (('a',), (np.nan,))],
    )
    def test_bad_configuration(self, names: tuple, signs: tuple) -> None:
        with pytest.raises(ProfileError):
            GripperJoints(names, signs)


def test_joints_come_in_the_wanted_order() -> None:
    assert joints_proprio(['b', 'a', 'c'], [2, 1, 3], ['a', 'b']).tolist() == [1, 2]


class TestResolveAxisAngle:
    @settings(deadline=None)
    @given(quaternions)
    def test_is_the_same_rotation(self, quat: tuple) -> None:
        vector = resolve_axis_angle(quat, LIBERO_MEAN)
        np.testing.assert_allclose(rodrigues(vector), matrix(quat), atol=1e-6)

    @settings(deadline=None)
    @given(quaternions, st.tuples(*[st.floats(-4, 4)] * 3))
    def test_does_not_depend_on_the_sign(self, quat: tuple, reference: tuple) -> None:
        one = resolve_axis_angle(quat, reference)
        other = resolve_axis_angle([-v for v in quat], reference)
        np.testing.assert_array_equal(one, other)

    @settings(deadline=None)
    @given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(0.05, 2 * np.pi - 0.05), st.booleans())
    def test_finds_the_branch_of_the_reference(
        self, axis: tuple, angle: float, flip: bool
    ) -> None:
        """A reference equal to the vector itself must give that vector, on either branch."""
        assume(np.linalg.norm(axis) > 0.1)
        unit = np.array(axis) / np.linalg.norm(axis)
        quat = np.append(unit * np.sin(angle / 2), np.cos(angle / 2)) * (-1 if flip else 1)
        np.testing.assert_allclose(resolve_axis_angle(quat, unit * angle), unit * angle, atol=1e-9)

    def test_a_tie_does_not_depend_on_the_sign(self) -> None:
        half_turn = np.array([0.0, 1.0, 0.0, 0.0])
        np.testing.assert_array_equal(
            resolve_axis_angle(half_turn, np.zeros(3)), resolve_axis_angle(-half_turn, np.zeros(3))
        )

    @settings(deadline=None)
    @given(quaternions, st.floats(0.01, 100))
    def test_length_does_not_matter(self, quat: tuple, length: float) -> None:
        assume(abs(abs(quat[3]) / np.linalg.norm(quat) - 1) > 1e-6)
        unit = np.array(quat) / np.linalg.norm(quat)
        reference = resolve_axis_angle(unit, LIBERO_MEAN)
        np.testing.assert_allclose(
            resolve_axis_angle(unit * length, reference), reference, atol=1e-6
        )

    @pytest.mark.parametrize(
        'quat', [(0, 0, 0, 0), (0, 0, np.nan, 1), (0, np.inf, 0, 1), (0, 0, 1), (1e-9, 0, 0, 0)]
    )
    def test_what_is_no_rotation(self, quat: tuple) -> None:
        assert refusal(resolve_axis_angle, quat, LIBERO_MEAN).reason == 'quaternion'


class TestPoseGripperProprio:
    def test_is_the_published_state_for_either_sign(self) -> None:
        golden = load_file(MICRO / 'observation.safetensors')
        state, quat = golden['state'], golden['raw.robot0_eef_quat']
        for sign in (1, -1):
            got = pose_gripper_proprio(
                golden['raw.robot0_eef_pos'],
                sign * quat,
                golden['raw.robot0_gripper_qpos'],
                state[3:6] + 0.1,
            )
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, state)

    def test_a_position_that_is_not_finite(self) -> None:
        error = refusal(
            pose_gripper_proprio, (0, 0, np.nan), (0, 0, 0, 1), np.zeros(2), np.zeros(3)
        )
        assert error.reason == 'non_finite' and ' z ' in error.what


class TestMotionEstimator:
    @settings(deadline=None)
    @given(st.tuples(*[st.floats(-2, 2)] * 3), st.floats(0, 3), st.integers(1, 500), st.booleans())
    def test_uniform_motion(self, velocity: tuple, rate: float, dt_ms: int, flip: bool) -> None:
        """A constant velocity in m/s and a rotation about z in rad/s, less than half a turn."""
        dt = dt_ms / 1000
        turned = np.array([0, 0, np.sin(rate * dt / 2), np.cos(rate * dt / 2)])
        motion = MotionEstimator()
        assert motion.update(10**9, (0, 0, 0), (0, 0, 0, 1)) is None
        hint = motion.update(
            10**9 + dt_ms * 10**6, np.multiply(velocity, dt), -turned if flip else turned
        )
        assert hint is not None and hint.source == 'pose'
        assert hint.linear_m_s == pytest.approx(np.linalg.norm(velocity), abs=1e-9)
        assert hint.angular_rad_s == pytest.approx(rate, abs=1e-9)
        assert hint.vertical_m_s == pytest.approx(velocity[2], abs=1e-9)

    @pytest.mark.parametrize('step_ns', [0, -1, -(10**9), 500_000_001, 10**12])
    def test_a_step_in_time_gives_none_and_starts_anew(self, step_ns: int) -> None:
        motion = MotionEstimator()
        motion.update(10**13, (0, 0, 0), (0, 0, 0, 1))
        assert motion.update(10**13 + step_ns, (1, 0, 0), (0, 0, 0, 1)) is None
        hint = motion.update(10**13 + step_ns + 10**8, (1, 0, 0), (0, 0, 0, 1))
        assert hint is not None and hint.linear_m_s == 0

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 120), min_size=1, max_size=30))
    def test_the_difference_is_to_the_newest_pose_50_ms_older(self, gaps_ms: list) -> None:
        """x grows with the square of time: the mean speed tells which pose was taken."""
        motion, times = MotionEstimator(), [0.0]
        motion.update(0, (0, 0, 0), (0, 0, 0, 1))
        for gap in gaps_ms:
            times.append(times[-1] + gap / 1000)
            now = times[-1]
            hint = motion.update(round(now * 1e9), (now**2, 0, 0), (0, 0, 0, 1))
            old = [t for t in times[:-1] if now - t >= 0.05 - 1e-9]
            since = max(old) if old else times[0]
            assert hint is not None
            assert hint.linear_m_s == pytest.approx(now + since, abs=1e-6)

    def test_noise_of_a_fast_pose_source_does_not_look_like_motion(self) -> None:
        """0.1 mm at 1 kHz, at rest: single differences show 0.1 m/s and more."""
        noise = np.random.default_rng(0).normal(0, 1e-4, (500, 3))
        motion = MotionEstimator()
        hints = [motion.update(n * 10**6, x, (0, 0, 0, 1)) for n, x in enumerate(noise)]
        assert max(h.linear_m_s for h in hints[60:] if h is not None) < 0.02

    def test_reset_forgets(self) -> None:
        motion = MotionEstimator()
        motion.update(10**9, (0, 0, 0), (0, 0, 0, 1))
        motion.reset()
        assert motion.update(10**9 + 1000, (0, 0, 0), (0, 0, 0, 1)) is None

    def test_bad_poses_are_refused_and_the_last_good_one_stays(self) -> None:
        motion = MotionEstimator()
        motion.update(10**9, (0, 0, 0), (0, 0, 0, 1))
        bad = (((np.inf, 0, 0), (0, 0, 0, 1)), ((0, 0, 0), (0, 0, 0, 0)))
        reasons = [refusal(motion.update, 10**9 + 1, *pose).reason for pose in bad]
        assert reasons == ['non_finite', 'quaternion']
        hint = motion.update(10**9 + 10**8, (0, 0, -0.01), (0, 0, 0, 1))
        assert hint is not None and hint.vertical_m_s == pytest.approx(-0.1)
