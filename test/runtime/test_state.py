"""Robot state to proprioception, against the golden observation of the published code and rotation
matrices of scipy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation

from vla_prune_ros.errors import InputRefused, ProfileError
from vla_prune_ros.runtime.state import GripperJoints, pose_gripper_proprio, resolve_axis_angle

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


class TestGripperJoints:
    fingers = GripperJoints(('finger_1', 'finger_2'), (1.0, -1.0))

    @settings(deadline=None)
    @given(st.permutations(['finger_1', 'elbow', 'finger_2', 'wrist']))
    def test_any_order_of_joints(self, order):
        where = {'finger_1': 0.01, 'finger_2': 0.03, 'elbow': np.nan, 'wrist': 2.0}
        got = self.fingers.pick(order, [where[name] for name in order])
        assert got.tolist() == [0.01, -0.03]

    @pytest.mark.parametrize(
        'names, positions, reason, what',
        [
            (['elbow', 'finger_1'], [0.0, 0.0], 'missing_joint', "'finger_2'"),
            (['finger_1', 'finger_2'], [0.0, np.nan], 'non_finite', 'finger_2'),
            (['finger_1', 'finger_2'], [-np.inf, 0.0], 'non_finite', 'finger_1'),
            (['finger_1', 'finger_2'], [0.0], 'length', '1 positions'),
        ],
    )
    def test_refusals(self, names, positions, reason, what):
        error = refusal(self.fingers.pick, names, positions)
        assert error.reason == reason and what in error.what

    @pytest.mark.parametrize(
        'names, signs',
        [((), ()), (('a', 'a'), (1, 1)), (('a',), (1, -1)), (('a',), (0.5,)), (('a',), (np.nan,))],
    )
    def test_bad_configuration(self, names, signs):
        with pytest.raises(ProfileError):
            GripperJoints(names, signs)


class TestResolveAxisAngle:
    @settings(deadline=None)
    @given(quaternions)
    def test_is_the_same_rotation(self, quat):
        vector = resolve_axis_angle(quat, LIBERO_MEAN)
        got, want = Rotation.from_rotvec(vector), Rotation.from_quat(quat)
        np.testing.assert_allclose(got.as_matrix(), want.as_matrix(), atol=1e-6)

    @settings(deadline=None)
    @given(quaternions, st.tuples(*[st.floats(-4, 4)] * 3))
    @example((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    def test_does_not_depend_on_the_sign(self, quat, reference):
        one = resolve_axis_angle(quat, reference)
        other = resolve_axis_angle([-v for v in quat], reference)
        np.testing.assert_array_equal(one, other)

    @settings(deadline=None)
    @given(st.tuples(*[st.floats(-1, 1)] * 3), st.floats(0.05, 2 * np.pi - 0.05), st.booleans())
    def test_finds_the_branch_of_the_reference(self, axis, angle, flip):
        """A reference equal to the vector itself must give that vector, on either branch."""
        assume(np.linalg.norm(axis) > 0.1)
        unit = np.array(axis) / np.linalg.norm(axis)
        quat = np.append(unit * np.sin(angle / 2), np.cos(angle / 2)) * (-1 if flip else 1)
        np.testing.assert_allclose(resolve_axis_angle(quat, unit * angle), unit * angle, atol=1e-9)

    @pytest.mark.parametrize(
        'quat', [(0, 0, 0, 0), (0, 0, np.nan, 1), (0, np.inf, 0, 1), (0, 0, 1), (1e-9, 0, 0, 0)]
    )
    def test_what_is_no_rotation(self, quat):
        assert refusal(resolve_axis_angle, quat, LIBERO_MEAN).reason == 'quaternion'


class TestPoseGripperProprio:
    def test_is_the_published_state_for_either_sign(self):
        golden = load_file(MICRO / 'observation.safetensors')
        state, quat = golden['state'], golden['raw.robot0_eef_quat']
        for sign in (1, -1):
            position, fingers = golden['raw.robot0_eef_pos'], golden['raw.robot0_gripper_qpos']
            got = pose_gripper_proprio(position, sign * quat, fingers, state[3:6] + 0.1)
            assert got.dtype == np.float64
            np.testing.assert_array_equal(got, state)

    def test_a_position_that_is_not_finite(self):
        arguments = (0, 0, np.nan), (0, 0, 0, 1), np.zeros(2), np.zeros(3)
        error = refusal(pose_gripper_proprio, *arguments)
        assert error.reason == 'non_finite' and ' z ' in error.what
