"""Messages and records are the same things: round trips, times, and refusals by name."""

import array
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.messages import read_chunk, read_image, read_pose, status_values, to_ns

NUMBERS = st.floats(-10, 10, allow_subnormal=False)
NAMES = ['delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz', 'gripper']


@st.composite
def chunks(draw):
    rows = draw(st.lists(st.lists(NUMBERS, min_size=7, max_size=7), min_size=1, max_size=25))
    values = np.array(rows)
    dt_ns = draw(st.integers(1_000_000, 1_000_000_000))
    stamp_ns = draw(st.integers(0, 2**31 * 10**9 - 1))
    return ActionChunk(stamp_ns, dt_ns / 1e9, values[:, :6], values[:, 6], 'base_link')


def a_chunk(steps=3):
    return ActionChunk(5 * 10**9, 0.05, np.full((steps, 6), 0.01), np.ones(steps), 'base')


def ns(duration):
    return duration.sec * 10**9 + duration.nanosec


@settings(max_examples=60, deadline=None)
@given(chunks())
def test_a_chunk_survives_the_message(chunk):
    back = read_chunk(build.chunk(chunk))
    assert back.stamp_ns == chunk.stamp_ns and back.frame_id == chunk.frame_id
    assert back.dt_s == pytest.approx(chunk.dt_s, abs=1e-12)
    np.testing.assert_array_equal(back.deltas, chunk.deltas)
    np.testing.assert_array_equal(back.gripper, chunk.gripper)


@settings(max_examples=60, deadline=None)
@given(chunks())
def test_points_carry_times_positions_and_velocities(chunk):
    """Step i is complete at (i + 1) dt; velocity is delta / dt, and 0 for the gripper."""
    message = build.chunk(chunk)
    assert list(message.joint_names) == NAMES
    dt_ns = round(chunk.dt_s * 1e9)
    for i, point in enumerate(message.points):
        assert ns(point.time_from_start) == (i + 1) * dt_ns
        assert list(point.positions) == [*chunk.deltas[i], chunk.gripper[i]]
        np.testing.assert_allclose(point.velocities[:6], chunk.deltas[i] / (dt_ns / 1e9))
        assert point.velocities[6] == 0.0


def rename(m):
    m.joint_names = [f'panda_joint{i}' for i in range(1, 8)]


def swap_names(m):
    m.joint_names = [NAMES[1], NAMES[0], *NAMES[2:]]


def no_points(m):
    m.points = []


def short_point(m):
    m.points[1].positions = array.array('d', [0.0] * 6)


def uneven(m):
    m.points[2].time_from_start = build.duration(170_000_000)


def backwards(m):
    m.points[1].time_from_start = build.duration(40_000_000)


def no_times(m):
    for point in m.points:
        point.time_from_start = build.duration(0)


REFUSED = {
    rename: ('joint_names', 'panda_joint1', 'delta_x'),
    swap_names: ('joint_names', "['delta_y', 'delta_x'", 'publish'),
    no_points: ('points', '0 points', '7 positions'),
    short_point: ('points', '[6, 7]', '7 positions'),
    uneven: ('times', '(i + 1) * dt', 'evenly'),
    backwards: ('times', '(i + 1) * dt', 'evenly'),
    no_times: ('times', '(i + 1) * dt', 'evenly'),
}


@pytest.mark.parametrize('spoil', REFUSED, ids=lambda f: f.__name__)
def test_what_is_no_chunk_is_refused(spoil):
    message = build.chunk(a_chunk())
    read_chunk(message)
    spoil(message)
    reason, what, remedy = REFUSED[spoil]
    with pytest.raises(InputRefused) as refusal:
        read_chunk(message)
    assert refusal.value.reason == reason
    assert what in refusal.value.what and remedy in refusal.value.remedy


def test_rounding_of_times_is_no_reason_to_refuse():
    """30 Hz written as 33333333, 66666667, 100000000 ns, as other software rounds it."""
    message = build.chunk(a_chunk())
    for point, time_ns in zip(message.points, (33333333, 66666667, 100000000), strict=True):
        point.time_from_start = build.duration(time_ns)
    assert read_chunk(message).dt_s == pytest.approx(1 / 30, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_an_image_survives_the_message(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    message = build.image(image, 3_000_000_004, 'camera')
    assert (message.encoding, message.step) == ('rgb8', 3 * width)
    assert (message.header.frame_id, message.header.stamp.nanosec) == ('camera', 4)
    np.testing.assert_array_equal(read_image(message), image)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_are_whole_nanoseconds(value):
    assert to_ns(build.time(value)) == value
    assert to_ns(build.duration(value)) == value


def test_path_adds_the_translations_to_where_the_arm_is():
    chunk = ActionChunk(7, 0.05, np.arange(18.0).reshape(3, 6), np.ones(3), 'base')
    path = build.path(chunk, np.array([1.0, 2.0, 3.0]))
    points = [(p.pose.position.x, p.pose.position.y, p.pose.position.z) for p in path.poses]
    assert points == [(1, 2, 3), (1, 3, 5), (7, 10, 13), (19, 23, 27)]
    assert to_ns(path.header.stamp) == 7 and path.header.frame_id == 'base'
    assert all(pose.header == path.header for pose in path.poses)


def test_pose_and_gripper_messages():
    position, quaternion = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.9])
    message = build.pose(position, quaternion, 10**9, 'world')
    assert message.header.frame_id == 'world'
    np.testing.assert_array_equal(read_pose(message)[0], position)
    np.testing.assert_array_equal(read_pose(message)[1], quaternion)
    gripper = build.gripper(1.0, 2 * 10**9)
    assert list(gripper.joint_names) == ['gripper']
    assert [list(p.positions) for p in gripper.points] == [[1.0]]


def test_status_values_are_text_with_four_digits():
    values = {'ms': 1.23456, 'count': 7, 'name': 'x', 'flag': True}
    status = build.status(
        'node: part', values, message='text', level=build.WARN, hardware_id='hardware'
    )
    assert status_values(status) == {'ms': '1.235', 'count': '7', 'name': 'x', 'flag': 'True'}
    assert (status.name, status.level, status.hardware_id) == ('node: part', b'\x01', 'hardware')


class FakeBridge:
    def imgmsg_to_cv2(self, message, encoding):
        assert encoding == 'rgb8'
        if message.encoding == '8UC7':
            raise TypeError('conversion is not supported')
        return np.full((message.height, message.width, 3), 9, np.uint8)


@pytest.fixture
def cv_bridge(monkeypatch):
    """A stand-in for the package of a distribution."""
    module = ModuleType('cv_bridge')
    module.CvBridge = FakeBridge
    module.__spec__ = ModuleSpec('cv_bridge', None)
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)


def strange(encoding):
    return Image(height=2, width=2, encoding=encoding, step=6, data=array.array('B', [0] * 12))


def test_cv_bridge_is_asked_only_for_what_is_unknown_here(cv_bridge):
    assert (read_image(strange('8UC3')) == 9).all()
    assert not read_image(strange('rgb8')).any()


def test_the_refusal_stays_where_cv_bridge_cannot_help_either(cv_bridge):
    with pytest.raises(InputRefused, match='8UC7'):
        read_image(strange('8UC7'))
    broken = strange('rgb8')
    broken.data = broken.data[:5]
    with pytest.raises(InputRefused, match='5 bytes'):
        read_image(broken)
