"""Motion from poses, joint states and commands.

Expected numbers: uniform motion of known speed, a lever of known length, and a twin that goes
through every step of a chunk with the definition alone: step i is active in
[stamp + i dt, stamp + (i + 1) dt).
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.records import ActionChunk, MotionHint
from vla_prune_ros.runtime.motion import (
    LISTENS,
    ActionMotion,
    JacobianMotion,
    JointSpeedMotion,
    MotionSource,
    PoseMotion,
    resolve_urdf,
)

MS = 1_000_000
NOW = 10**15
UPRIGHT = (0, 0, 0, 1)
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
GOOD = (['swing', 'slide'], [0.0, 0.1], [2.0, 0.0])


def unknown(source: MotionSource, stamp_ns: int = NOW) -> str:
    """The reason, on one line."""
    assert source.at(stamp_ns) is None
    assert source.why() and '\n' not in source.why()
    return source.why()


def lever(tip: str = 'tool', base: str = 'base') -> JacobianMotion:
    pytest.importorskip('pinocchio', reason='needs the extra motion')
    return JacobianMotion(LEVER, tip, base)


def rough() -> JointSpeedMotion:
    return JointSpeedMotion(0.5, gripper_joints=('grip', 'other_grip'))


class TestPose:
    @staticmethod
    def hint(*poses) -> MotionHint | None:
        """At the last of (nanoseconds, position, quaternion); None also where its pair is old."""
        source = PoseMotion()
        for at, position, quat in poses:
            source.on_pose(NOW + at, position, quat)
        found = source.at(NOW + poses[-1][0])
        assert bool(source.why()) == (found is None)
        return found

    @settings(deadline=None)
    @given(st.tuples(*[st.floats(-2, 2)] * 3), st.floats(0, 3), st.integers(1, 500), st.booleans())
    def test_uniform_motion(self, velocity, rate, dt_ms, flip):
        """A constant velocity in m/s and a rotation about z in rad/s, less than half a turn."""
        dt = dt_ms / 1000
        turned = np.array([0, 0, np.sin(rate * dt / 2), np.cos(rate * dt / 2)])
        moved = np.multiply(velocity, dt)
        hint = self.hint((0, (0, 0, 0), UPRIGHT), (dt_ms * MS, moved, -turned if flip else turned))
        assert hint.source == 'pose'
        assert hint.linear_m_s == pytest.approx(np.linalg.norm(velocity), abs=1e-9)
        assert hint.angular_rad_s == pytest.approx(rate, abs=1e-9)
        assert hint.vertical_m_s == pytest.approx(velocity[2], abs=1e-9)

    @pytest.mark.parametrize('step_ns', [-(10**9), 500_000_001, 10**12])
    def test_a_step_in_time_starts_anew(self, step_ns):
        first, then = (0, (0, 0, 0), UPRIGHT), (step_ns, (1, 0, 0), UPRIGHT)
        assert self.hint(first, then) is None
        assert self.hint(first, then, (step_ns + 10**8, (1, 0, 0), UPRIGHT)).linear_m_s == 0

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 120), min_size=1, max_size=30))
    def test_the_difference_is_to_the_newest_pose_50_ms_older(self, gaps_ms):
        """x grows with the square of time: the mean speed tells which pose was taken."""
        source, times = PoseMotion(), [0.0]
        source.on_pose(NOW, (0, 0, 0), UPRIGHT)
        for gap in gaps_ms:
            times.append(times[-1] + gap / 1000)
            now = times[-1]
            source.on_pose(NOW + round(now * 1e9), (now**2, 0, 0), UPRIGHT)
            old = [t for t in times[:-1] if now - t >= 0.05 - 1e-9]
            since = max(old) if old else times[0]
            hint = source.at(NOW + round(now * 1e9))
            assert hint.linear_m_s == pytest.approx(now + since, abs=1e-6)

    def moving(self) -> PoseMotion:
        """0.3 m/s to the side and 0.4 m/s down."""
        source = PoseMotion()
        source.on_pose(NOW, (0, 0, 0), UPRIGHT)
        source.on_pose(NOW + 100 * MS, (0.03, 0, -0.04), UPRIGHT)
        return source

    def test_one_pose_is_no_motion_and_a_reset_forgets(self):
        source = self.moving()
        source.reset()
        assert 'no pair of poses' in unknown(source)
        source.on_pose(NOW + 200 * MS, (0, 0, 0), UPRIGHT)
        assert 'no pair of poses' in unknown(source, NOW + 200 * MS)

    @pytest.mark.parametrize('side', [-1, 1])
    def test_a_pose_far_from_the_image(self, side):
        source, stamp = self.moving(), NOW + 100 * MS
        assert source.at(stamp + side * 500 * MS) is not None
        assert 'from the image' in unknown(source, stamp + side * (500 * MS + 1))

    def test_the_same_pose_again_changes_nothing(self):
        source = self.moving()
        before = source.at(NOW + 100 * MS)
        source.on_pose(NOW + 100 * MS, (0.03, 0, -0.04), UPRIGHT)
        assert source.at(NOW + 100 * MS) == before

    @pytest.mark.parametrize(
        'position, quat, why',
        [((np.nan, 0, 0), UPRIGHT, 'position x is nan'), ((0, 0, 0), (0, 0, 0, 0), 'rotation')],
    )
    def test_a_bad_pose_makes_it_unknown_until_the_next_good_one(self, position, quat, why):
        source = self.moving()
        source.on_pose(NOW + 150 * MS, position, quat)
        assert why in unknown(source)
        source.on_pose(NOW + 200 * MS, (0.06, 0, -0.08), UPRIGHT)
        hint = source.at(NOW + 200 * MS)
        assert (hint.linear_m_s, hint.vertical_m_s) == (pytest.approx(0.5), pytest.approx(-0.4))


class TestActions:
    @settings(deadline=None)
    @given(
        st.integers(1, 5),
        st.sampled_from([1 / 30, 1 / 60, 0.05, 0.1]),
        st.integers(-3, 12),
        st.sampled_from([-1, 0, 1]),
    )
    def test_the_active_step(self, steps, dt, boundary, off_ns):
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

    def test_the_last_chunk_counts(self):
        source = ActionMotion()
        assert 'no chunk' in unknown(source)
        for size in (0.01, 0.02):
            deltas = np.tile([0, 0, -size, 0, 0, 0], (2, 1))
            source.on_chunk(ActionChunk(NOW, 0.05, deltas, np.zeros(2)))
        hint = source.at(NOW)
        assert hint == MotionHint(pytest.approx(0.4), 0.0, pytest.approx(-0.4), 'actions')
        source.reset()
        assert 'no chunk' in unknown(source)


class TestJacobian:
    def test_a_lever_moves_its_tip_down(self):
        source = lever()
        source.on_joints(NOW, ['slide', 'swing'], [0.1, np.pi], [0.3, 2.0])
        hint = source.at(NOW)
        assert hint.source == 'joint_velocities' and source.why() == ''
        assert hint.linear_m_s == pytest.approx(np.hypot(1.2, 0.3))
        assert hint.angular_rad_s == pytest.approx(2.0)
        assert hint.vertical_m_s == pytest.approx(-1.2)

    def test_a_position_that_is_not_finite_matters_to_the_jacobian_only(self):
        source, other = lever(), rough()
        for each in (source, other):
            each.on_joints(NOW, ['swing', 'slide'], [0.0, np.nan], [1.0, 0.0])
        assert 'position slide' in unknown(source) and other.at(NOW) is not None

    def test_a_leader_alone_is_a_message_of_the_arm(self):
        """The finger follows a joint that is not above it; both belong to this tip."""
        source = lever('finger', 'tool')
        source.on_joints(NOW, ['other_grip'], [0.02], [-0.1])
        assert source.at(NOW).linear_m_s == pytest.approx(0.1)


class TestJointSpeed:
    def test_the_fastest_joint_at_the_end_of_the_reach(self):
        """Of the named joints, or of all but the gripper."""
        source, rest = JointSpeedMotion(0.8, ('b', 'c')), rough()
        source.on_joints(NOW, ['a', 'b', 'c'], [], [9.0, -0.5, 0.25])
        assert source.at(NOW) == MotionHint(0.8 * 0.5, 0.75, 0.0, 'joint_speed')
        rest.on_joints(NOW, ['grip', 'a', 'b', 'other_grip'], [], [9.0, -0.5, 0.25, 9.0])
        assert rest.at(NOW) == MotionHint(0.25, 0.75, 0.0, 'joint_speed')

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.floats(0.05, 0.5), st.floats(-3, 3), st.floats(-2, 2)), min_size=1)
    )
    def test_what_it_bounds(self, parts):
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
    def test_a_reach_that_is_none(self, reach):
        with pytest.raises(ProfileError, match='joint_speed'):
            JointSpeedMotion(reach)


@pytest.mark.parametrize('make', [lever, rough])
class TestUnknownFromJoints:
    @pytest.mark.parametrize(
        ('velocities', 'why'),
        [
            *((v, f'2 names and {len(v)} velocities') for v in ([], [1, 2, 3], np.array([]))),
            *(([0.0, bad], 'velocity slide') for bad in (np.nan, -np.inf)),
        ],
    )
    def test_bad_velocities_until_the_next_good_ones(self, make, velocities, why):
        """Many drivers leave the array empty."""
        source = make()
        source.on_joints(NOW, *GOOD)
        source.on_joints(NOW + 1, ['swing', 'slide'], [0.0, 0.1], velocities)
        assert why in unknown(source)
        source.on_joints(NOW + 2, *GOOD)
        assert source.at(NOW) is not None

    @pytest.mark.parametrize('side', [-1, 1])
    def test_a_sample_far_from_the_image(self, make, side):
        source = make()
        source.on_joints(NOW, *GOOD)
        assert source.at(NOW + side * 500_000_000) is not None
        assert '0.50 s from the image' in unknown(source, NOW + side * 500_000_001)
        assert source.at(NOW) is not None and source.why() == ''

    def test_before_the_first_joint_state_and_after_a_reset(self, make):
        source = make()
        assert 'no joint state' in unknown(source)
        source.on_joints(NOW, *GOOD)
        source.reset()
        assert source.why() == '' and 'no joint state' in unknown(source)

    def test_messages_of_the_gripper_do_not_hide_the_arm(self, make):
        source = make()
        fingers = ['grip'], [0.02], [9.0]
        source.on_joints(NOW, *fingers)
        unknown(source)
        source.on_joints(NOW + 1, *GOOD)
        expected = source.at(NOW)
        source.on_joints(NOW + 2, *fingers)
        assert source.at(NOW) == expected is not None


def test_every_source_takes_every_input_and_answers_from_its_own():
    sources = lever('arm'), rough(), PoseMotion(), ActionMotion()
    assert {source.name for source in sources} == set(LISTENS)
    for source in sources:
        for step in range(2):
            stamp = NOW + step * 50 * MS
            source.on_joints(stamp, ['swing'], [0.0], [1.0])
            source.on_pose(stamp, (0, 0, 0), UPRIGHT)
        source.on_chunk(ActionChunk(NOW, 0.05, np.zeros((2, 6)), np.zeros(2)))
        assert source.at(stamp).source == source.name


class TestResolveUrdf:
    """Of files and packages that the tests lay out themselves."""

    text = '<robot name="ä"/>'

    def write(self, path: Path, text: str = text) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        return path

    def refusal(self, value: str) -> ProfileError:
        with pytest.raises(ProfileError) as caught:
            resolve_urdf(value)
        return caught.value

    @pytest.fixture
    def shares(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        """Share folders of two prefixes of a ROS workspace, an empty entry between them."""
        prefixes = tmp_path / 'overlay', tmp_path / 'underlay'
        monkeypatch.setenv('AMENT_PREFIX_PATH', '::'.join(map(str, prefixes)))
        return tuple(prefix / 'share' for prefix in prefixes)

    @pytest.mark.parametrize('before', ['', '\n  ', '\ufeff'])
    def test_text_and_files(self, tmp_path, monkeypatch, before):
        path = self.write(tmp_path / 'arm.urdf', before + self.text)
        monkeypatch.setenv('HOME', str(tmp_path))
        for value in (before + self.text, str(path), '~/arm.urdf'):
            assert resolve_urdf(value) == self.text

    def test_what_cannot_be_read(self, tmp_path):
        error = self.refusal(str(tmp_path / 'arm.urdf'))
        assert str(tmp_path / 'arm.urdf') in error.what and 'package://' in error.remedy
        assert 'cannot be read' in self.refusal(str(tmp_path)).what
        (tmp_path / 'arm.urdf').write_bytes(b'\xff\xfe\x80')
        assert 'not UTF-8' in self.refusal(str(tmp_path / 'arm.urdf')).what

    def test_the_first_prefix_that_has_the_file_wins(self, shares):
        address = 'package://arm_description/urdf/arm.urdf'
        (shares[0] / 'arm_description').mkdir(parents=True)
        for share in reversed(shares):
            text = self.write(share / 'arm_description/urdf/arm.urdf', f'<!-- {share} -->')
            assert resolve_urdf(address) == text.read_text()

    def test_a_python_package_is_found_behind_them_and_not_imported(
        self, shares, tmp_path, monkeypatch
    ):
        package = tmp_path / 'site/some_arm_models'
        self.write(package / '__init__.py', 'raise RuntimeError("imported")')
        self.write(package / 'urdf/arm.urdf')
        monkeypatch.syspath_prepend(tmp_path / 'site')
        address = 'package://some_arm_models/urdf/arm.urdf'
        assert resolve_urdf(address) == self.text and 'some_arm_models' not in sys.modules
        self.write(shares[1] / 'some_arm_models/urdf/arm.urdf', '<robot name="share"/>')
        assert resolve_urdf(address) == '<robot name="share"/>'

    @pytest.mark.parametrize('name', ['no_such_package', 'os.path', '', '..'])
    def test_an_unknown_package(self, shares, monkeypatch, name):
        for _ in range(2):  # with prefixes and without
            assert 'no package' in self.refusal(f'package://{name}/arm.urdf').what
            monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)

    def test_a_package_without_the_file(self, shares):
        (shares[1] / 'arm_description').mkdir(parents=True)
        error = self.refusal('package://arm_description/arm.urdf')
        assert str(shares[1] / 'arm_description') in error.what
