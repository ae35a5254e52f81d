"""Motion from joint states.

Expected numbers: one joint at the end of a lever of known length, where ``v = w r``, and sums over
plain lists. A planar arm in closed form shows what the rough measure bounds.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.records import MotionHint
from vla_prune_ros.runtime.motion import JacobianMotion, JointSpeedMotion, MotionSource

NOW = 10**15
LEVER = """
<robot name="lever">
  <link name="base"/> <link name="arm"/> <link name="tool"/> <link name="finger"/>
  <joint name="swing" type="revolute">
    <parent link="base"/> <child link="arm"/> <axis xyz="0 -1 0"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/>
  </joint>
  <joint name="slide" type="prismatic">
    <origin xyz="0.5 0 0"/> <parent link="arm"/> <child link="tool"/> <axis xyz="1 0 0"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/>
  </joint>
  <joint name="grip" type="prismatic">
    <parent link="tool"/> <child link="finger"/> <axis xyz="0 1 0"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/>
    <mimic joint="other_grip"/>
  </joint>
</robot>
"""
"""The arm points along x at 0; a positive swing lifts it, the slide makes it longer."""


def lever() -> MotionSource:
    pytest.importorskip('pinocchio', reason='needs the extra motion')
    return JacobianMotion(LEVER, 'tool', 'base')


def rough() -> MotionSource:
    return JointSpeedMotion(0.5, gripper_joints=('grip', 'other_grip'))


both = pytest.mark.parametrize('make', [lever, rough])
GOOD = (['swing', 'slide'], [0.0, 0.1], [2.0, 0.0])


def unknown(source: MotionSource, stamp_ns: int = NOW) -> str:
    """The reason, on one line."""
    assert source.at(stamp_ns) is None
    assert source.why() and '\n' not in source.why()
    return source.why()


def test_a_lever_moves_its_tip() -> None:
    source = lever()
    source.on_joints(NOW, *GOOD)
    hint = source.at(NOW)
    assert hint.source == 'joint_velocities' and source.why() == ''
    assert hint.linear_m_s == pytest.approx(0.6 * 2.0)
    assert hint.angular_rad_s == pytest.approx(2.0)
    assert hint.vertical_m_s == pytest.approx(0.6 * 2.0)


def test_a_descent_is_negative() -> None:
    source = lever()
    source.on_joints(NOW, ['slide', 'swing'], [0.1, np.pi], [0.3, 2.0])
    hint = source.at(NOW)
    assert hint.vertical_m_s == pytest.approx(-0.6 * 2.0)
    assert hint.linear_m_s == pytest.approx(np.hypot(1.2, 0.3))


@settings(deadline=None)
@given(
    st.permutations(['swing', 'slide', 'grip', 'other_grip', 'left_elbow']),
    st.sampled_from([list, tuple, np.array]),
)
def test_order_other_joints_and_containers_do_not_matter(order: list[str], kind: type) -> None:
    values = {'swing': (0.0, 2.0), 'slide': (0.1, 0.0)}
    columns = [values.get(name, (np.nan, np.nan)) for name in order]
    source, plain = lever(), lever()
    source.on_joints(NOW, order, *map(kind, zip(*columns, strict=True)))
    plain.on_joints(NOW, *GOOD)
    assert source.at(NOW) == plain.at(NOW) is not None


@both
class TestUnknown:
    def test_before_the_first_joint_state(self, make) -> None:
        assert 'no joint state' in unknown(make())

    @pytest.mark.parametrize('velocities', [[], [1.0], [1.0, 2.0, 3.0], np.array([])])
    def test_velocities_of_another_number(self, make, velocities) -> None:
        """Many drivers leave the array empty."""
        source = make()
        source.on_joints(NOW, ['swing', 'slide'], [0.0, 0.1], velocities)
        assert f'2 names and {len(velocities)} velocities' in unknown(source)

    @pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
    def test_a_velocity_that_is_not_finite(self, make, bad: float) -> None:
        source = make()
        source.on_joints(NOW, ['swing', 'slide'], [0.0, 0.1], [0.0, bad])
        assert 'velocity slide' in unknown(source)

    @pytest.mark.parametrize('side', [-1, 1])
    def test_a_sample_far_from_the_image(self, make, side: int) -> None:
        source = make()
        source.on_joints(NOW, *GOOD)
        assert source.at(NOW + side * 500_000_000) is not None
        assert '0.50 s from the image' in unknown(source, NOW + side * 500_000_001)
        assert source.at(NOW) is not None and source.why() == ''

    def test_after_a_reset(self, make) -> None:
        source = make()
        source.on_joints(NOW, *GOOD)
        source.reset()
        assert source.why() == '' and 'no joint state' in unknown(source)

    def test_the_newest_message_counts_good_or_bad(self, make) -> None:
        source = make()
        source.on_joints(NOW, *GOOD)
        source.on_joints(NOW + 1, ['swing', 'slide'], [0.0, 0.1], [])
        unknown(source)
        source.on_joints(NOW + 2, *GOOD)
        assert source.at(NOW) is not None

    def test_messages_of_the_gripper_do_not_hide_the_arm(self, make) -> None:
        source = make()
        fingers = ['grip'], [0.02], [9.0]
        source.on_joints(NOW, *fingers)
        unknown(source)
        source.on_joints(NOW + 1, *GOOD)
        expected = source.at(NOW)
        source.on_joints(NOW + 2, *fingers)
        assert source.at(NOW) == expected is not None

    def test_poses_and_chunks_are_not_its_business(self, make) -> None:
        source = make()
        source.on_pose(NOW, (0, 0, 0), (0, 0, 0, 1))
        source.on_pose(NOW + 10**8, (1, 0, 0), (0, 0, 0, 1))
        unknown(source)


def test_a_missing_joint_is_named() -> None:
    source = lever()
    source.on_joints(NOW, ['swing', 'grip'], [0.0, 0.0], [1.0, 0.0])
    assert "'slide'" in unknown(source)


def test_a_position_that_is_not_finite_matters_to_the_jacobian_only() -> None:
    sample = NOW, ['swing', 'slide'], [0.0, np.nan], [1.0, 0.0]
    source, other = lever(), rough()
    source.on_joints(*sample)
    other.on_joints(*sample)
    assert 'position slide' in unknown(source)
    assert other.at(NOW) is not None


def test_a_leader_alone_is_a_message_of_the_arm() -> None:
    """The finger follows a joint that is not above it; both belong to this tip."""
    pytest.importorskip('pinocchio', reason='needs the extra motion')
    source = JacobianMotion(LEVER, 'finger', 'tool')
    source.on_joints(NOW, ['other_grip'], [0.02], [-0.1])
    assert source.at(NOW).linear_m_s == pytest.approx(0.1)


class TestJointSpeed:
    def test_the_fastest_joint_at_the_end_of_the_reach(self) -> None:
        source = JointSpeedMotion(0.8, ('b', 'c'))
        source.on_joints(NOW, ['a', 'b', 'c'], [], [9.0, -0.5, 0.25])
        assert source.at(NOW) == MotionHint(0.8 * 0.5, 0.75, 0.0, 'joint_speed')

    def test_all_but_the_gripper_by_default(self) -> None:
        source = rough()
        source.on_joints(NOW, ['grip', 'a', 'b', 'other_grip'], [], [9.0, -0.5, 0.25, 9.0])
        assert source.at(NOW) == MotionHint(0.25, 0.75, 0.0, 'joint_speed')

    def test_a_named_joint_that_is_missing(self) -> None:
        source = JointSpeedMotion(0.8, ('b', 'c'))
        source.on_joints(NOW, ['a', 'b'], [0, 0], [0, 0])
        assert "'c'" in unknown(source)

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.floats(0.05, 0.5), st.floats(-3, 3), st.floats(-2, 2)), min_size=1)
    )
    def test_what_it_bounds(self, parts: list[tuple[float, float, float]]) -> None:
        """A planar arm of any number of joints: length, angle and rate of each.

        The tip is slower than n times the measure, and turns no faster than it says.
        """
        lengths, angles, rates = np.array(parts).T
        directions, turning = np.cumsum(angles), np.cumsum(rates)
        velocity = (1j * lengths * turning * np.exp(1j * directions)).sum()
        source = JointSpeedMotion(float(lengths.sum()))
        source.on_joints(NOW, [f'j{i}' for i in range(len(parts))], angles, rates)
        hint = source.at(NOW)
        assert abs(velocity) <= len(parts) * hint.linear_m_s + 1e-9
        assert abs(turning[-1]) <= hint.angular_rad_s + 1e-9

    @pytest.mark.parametrize('reach', [0.0, -1.0, np.nan, np.inf])
    def test_a_reach_that_is_none(self, reach: float) -> None:
        with pytest.raises(ProfileError, match='joint_speed'):
            JointSpeedMotion(reach)
