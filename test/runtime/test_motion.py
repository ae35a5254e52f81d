"""Motion from poses and commands, and the choice of a source.

Expected numbers: uniform motion of known speed, and a twin that looks at every step of a chunk
with the definition alone: step i is active in [stamp + i dt, stamp + (i + 1) dt).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.records import ActionChunk, MotionHint
from vla_prune_ros.runtime.motion import (
    SOURCES,
    ActionMotion,
    JacobianMotion,
    JointSpeedMotion,
    MotionSource,
    PoseMotion,
    build_motion,
)

MS = 1_000_000
NOW = 10**15
UPRIGHT = (0, 0, 0, 1)
ARM = (
    '<robot name="a"><link name="x"/><link name="y"/><joint name="j" type="continuous">'
    '<parent link="x"/><child link="y"/><axis xyz="0 0 1"/></joint></robot>'
)


def unknown(source: MotionSource, stamp_ns: int = NOW) -> str:
    """The reason, on one line."""
    assert source.at(stamp_ns) is None
    assert source.why() and '\n' not in source.why()
    return source.why()


class TestPose:
    def moving(self) -> PoseMotion:
        """0.3 m/s to the side and 0.4 m/s down, without turning."""
        source = PoseMotion()
        source.on_pose(NOW, (0, 0, 0), UPRIGHT)
        source.on_pose(NOW + 100 * MS, (0.03, 0, -0.04), UPRIGHT)
        return source

    def test_the_difference_of_two_poses(self) -> None:
        source = self.moving()
        hint = source.at(NOW + 100 * MS)
        assert (hint.source, source.why()) == ('pose', '')
        speeds = hint.linear_m_s, hint.angular_rad_s, hint.vertical_m_s
        np.testing.assert_allclose(speeds, (0.5, 0.0, -0.4), atol=1e-12)

    def test_one_pose_is_no_motion(self) -> None:
        source = PoseMotion()
        assert 'no pair of poses' in unknown(source)
        source.on_pose(NOW, (0, 0, 0), UPRIGHT)
        assert 'no pair of poses' in unknown(source)

    @pytest.mark.parametrize('side', [-1, 1])
    def test_a_pose_far_from_the_image(self, side: int) -> None:
        source, stamp = self.moving(), NOW + 100 * MS
        assert source.at(stamp + side * 500 * MS) is not None
        assert 'from the image' in unknown(source, stamp + side * (500 * MS + 1))

    def test_the_same_pose_again_changes_nothing(self) -> None:
        source = self.moving()
        before = source.at(NOW + 100 * MS)
        source.on_pose(NOW + 100 * MS, (0.03, 0, -0.04), UPRIGHT)
        assert source.at(NOW + 100 * MS) == before

    def test_a_bad_pose_makes_it_unknown_until_the_next_good_one(self) -> None:
        source = self.moving()
        source.on_pose(NOW + 150 * MS, (np.nan, 0, 0), UPRIGHT)
        assert 'position x is nan' in unknown(source)
        source.on_pose(NOW + 200 * MS, (0.06, 0, -0.08), UPRIGHT)
        assert source.at(NOW + 200 * MS).linear_m_s == pytest.approx(0.5)

    def test_reset_forgets(self) -> None:
        source = self.moving()
        source.reset()
        assert 'no pair' in unknown(source)
        source.on_pose(NOW + 200 * MS, (0, 0, 0), UPRIGHT)
        assert 'no pair' in unknown(source, NOW + 200 * MS)


class TestActions:
    @settings(deadline=None)
    @given(
        st.integers(1, 5),
        st.sampled_from([1 / 30, 1 / 60, 0.05, 0.1]),
        st.integers(-3, 12),
        st.sampled_from([-1, 0, 1]),
    )
    def test_the_active_step(self, steps: int, dt: float, boundary: int, off_ns: int) -> None:
        """At the boundaries of steps and a nanosecond beside them, in whole nanoseconds."""
        deltas = np.random.default_rng(steps).normal(size=(steps, 6))
        source = ActionMotion()
        source.on_chunk(ActionChunk(NOW, dt, deltas, np.zeros(steps)))
        dt_ns = round(dt * 1e9)
        at = boundary * dt_ns + off_ns
        active = [i for i in range(steps) if i * dt_ns <= at < (i + 1) * dt_ns]
        if not active:
            assert ('is over' if at >= 0 else 'begins later') in unknown(source, NOW + at)
            return
        x, y, z, *turn = deltas[active[0]].tolist()
        hint = source.at(NOW + at)
        assert hint.source == 'actions' and source.why() == ''
        assert hint.linear_m_s == pytest.approx((x * x + y * y + z * z) ** 0.5 / dt)
        assert hint.angular_rad_s == pytest.approx(sum(v * v for v in turn) ** 0.5 / dt)
        assert hint.vertical_m_s == pytest.approx(z / dt)

    def test_the_last_chunk_counts(self) -> None:
        source = ActionMotion()
        assert 'no chunk' in unknown(source)
        for size in (0.01, 0.02):
            deltas = np.tile([0, 0, -size, 0, 0, 0], (2, 1))
            source.on_chunk(ActionChunk(NOW, 0.05, deltas, np.zeros(2)))
        hint = source.at(NOW)
        assert hint == MotionHint(pytest.approx(0.4), 0.0, pytest.approx(-0.4), 'actions')
        source.reset()
        assert 'no chunk' in unknown(source)


def test_every_source_takes_every_input() -> None:
    pytest.importorskip('pinocchio', reason='needs the extra motion')
    for name in SOURCES:
        source = build_motion(name, urdf=ARM, tip='y', reach_m=1.0)
        assert source.name == name
        for step in range(2):
            stamp = NOW + step * 50 * MS
            source.on_joints(stamp, ['j'], [0.0], [1.0])
            source.on_pose(stamp, (0, 0, 0), UPRIGHT)
        source.on_chunk(ActionChunk(NOW, 0.05, np.zeros((2, 6)), np.zeros(2)))
        assert source.at(stamp).source == name


class TestBuild:
    def test_the_kinds(self) -> None:
        assert type(build_motion('pose')) is PoseMotion
        assert type(build_motion('actions')) is ActionMotion
        assert type(build_motion('joint_speed', reach_m=0.8)) is JointSpeedMotion

    def test_the_arm_of_the_urdf(self) -> None:
        pytest.importorskip('pinocchio', reason='needs the extra motion')
        source = build_motion('joint_velocities', urdf=ARM, tip='y', base='x')
        assert isinstance(source, JacobianMotion) and source.arm.joints == ('j',)

    def test_empty_strings_name_no_joint(self) -> None:
        """ROS has no empty array of strings with a type; such parameters hold one ''."""
        source = build_motion('joint_speed', reach_m=1.0, joints=('',), gripper_joints=('g', ''))
        source.on_joints(NOW, ['a', 'g'], [], [0.5, 9.0])
        assert source.at(NOW).linear_m_s == 0.5

    @pytest.mark.parametrize(
        'source, settings, what',
        [
            ('pinocchio', {}, "'pinocchio' is unknown"),
            ('', {}, 'unknown'),
            ('joint_velocities', {'tip': 'y'}, 'URDF'),
            ('joint_velocities', {'urdf': ARM}, 'tip'),
            ('joint_velocities', {'urdf': '/no/such.urdf', 'tip': 'y'}, '/no/such.urdf'),
            ('joint_speed', {}, 'reach'),
        ],
    )
    def test_wrong_combinations(self, source: str, settings: dict, what: str) -> None:
        with pytest.raises(ProfileError) as caught:
            build_motion(source, **settings)
        assert what in caught.value.what

    def test_an_unknown_source_is_answered_with_those_there_are(self) -> None:
        with pytest.raises(ProfileError, match='joint_velocities, joint_speed, pose, actions'):
            build_motion('none')
