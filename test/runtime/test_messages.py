"""Messages and records are the same things, in the classes of rclpy and of rosbags: round trips,
times, and refusals by name."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.messages import (
    read_chunk,
    read_gripper,
    read_image,
    read_joints,
    read_pose,
    read_text,
    read_twist,
    read_valid_pose,
    status_values,
    to_ns,
)

NUMBERS = st.floats(-10, 10, allow_subnormal=False)
NAMES = ['delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz', 'gripper']
RELAXED = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[pytest.param('rclpy', marks=pytest.mark.ros), 'rosbags'])
def build(request):
    """A builder with the classes of one of the two."""
    pytest.importorskip(request.param)
    if request.param == 'rclpy':
        from vla_prune_ros.nodes.messages import build

        return build
    from vla_prune_ros.bags.writer import message_builder

    return message_builder()


@st.composite
def chunks(draw):
    rows = draw(st.lists(st.lists(NUMBERS, min_size=7, max_size=7), min_size=1, max_size=25))
    values = np.array(rows)
    dt_ns = draw(st.integers(1_000_000, 1_000_000_000))
    stamp_ns = draw(st.integers(0, 2**31 * 10**9 - 1))
    return ActionChunk(stamp_ns, dt_ns / 1e9, values[:, :6], values[:, 6], 'base_link')


@RELAXED
@given(chunks())
def test_a_chunk_survives_the_message(build, chunk):
    """Step i is complete at (i + 1) dt; velocity is delta / dt, and 0 for the gripper."""
    message = build.chunk(chunk)
    dt_ns = round(chunk.dt_s * 1e9)
    for i, point in enumerate(message.points):
        assert to_ns(point.time_from_start) == (i + 1) * dt_ns
        assert list(point.positions) == [*chunk.deltas[i], chunk.gripper[i]]
        np.testing.assert_allclose(point.velocities[:6], chunk.deltas[i] / (dt_ns / 1e9))
        assert point.velocities[6] == 0.0
    back = read_chunk(message)
    assert list(message.joint_names) == NAMES
    assert (back.stamp_ns, back.frame_id) == (chunk.stamp_ns, chunk.frame_id)
    assert back.dt_s == pytest.approx(chunk.dt_s, abs=1e-12)
    np.testing.assert_array_equal(back.deltas, chunk.deltas)
    np.testing.assert_array_equal(back.gripper, chunk.gripper)


def a_chunk():
    return ActionChunk(5 * 10**9, 0.05, np.full((3, 6), 0.01), np.ones(3), 'base')


def changed(build, names=NAMES, positions=None, times_ns=(), points=3):
    message = build.chunk(a_chunk())
    message.joint_names = list(names)
    if positions is not None:
        message.points[1].positions = positions
    for point, time_ns in zip(message.points, times_ns, strict=False):
        point.time_from_start = build.duration(time_ns)
    del message.points[points:]
    return message


@pytest.mark.parametrize(
    ('changes', 'reason', 'what'),
    [
        ({'names': [f'panda_joint{i}' for i in range(7)]}, 'joint_names', 'panda_'),
        ({'names': [*NAMES[1::-1], *NAMES[2:]]}, 'joint_names', "'delta_y', 'delta_x'"),
        ({'points': 0}, 'points', '0 points'),
        ({'positions': [0.0] * 6}, 'points', '[6, 7]'),
        ({'times_ns': (50_000_000, 100_000_000, 170_000_000)}, 'times', ''),
        ({'times_ns': (50_000_000, 40_000_000, 150_000_000)}, 'times', ''),
        ({'times_ns': (0, 0, 0)}, 'times', ''),
        ({'positions': [np.nan] * 7}, 'non_finite', 'nan'),
    ],
)
def test_what_is_no_chunk_is_refused(build, changes, reason, what):
    read_chunk(changed(build))
    with pytest.raises(InputRefused) as refusal:
        read_chunk(changed(build, **changes))
    assert refusal.value.reason == reason and what in refusal.value.what


def test_rounding_of_times_is_no_reason_to_refuse(build):
    """30 Hz written as 33333333, 66666667, 100000000 ns, as other software rounds it."""
    message = changed(build, times_ns=(33333333, 66666667, 100000000))
    assert read_chunk(message).dt_s == pytest.approx(1 / 30, abs=1e-8)


@RELAXED
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_an_image_survives_the_message(build, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    message = build.image(image, 3_000_000_004, 'camera')
    assert (message.encoding, message.step) == ('rgb8', 3 * width)
    assert (message.header.frame_id, to_ns(message.header.stamp)) == ('camera', 3_000_000_004)
    np.testing.assert_array_equal(read_image(message), image)


def test_a_jpeg_keeps_its_colours(build):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    back = read_image(build.compressed_image(red, 7))
    assert abs(back.astype(int) - red).max() <= 6


def test_path_adds_the_translations_to_where_the_arm_is(build):
    chunk = ActionChunk(7, 0.05, np.arange(18.0).reshape(3, 6), np.ones(3), 'base')
    path = build.path(chunk, np.array([1.0, 2.0, 3.0]))
    points = [tuple(read_pose(pose)[0]) for pose in path.poses]
    assert points == [(1, 2, 3), (1, 3, 5), (7, 10, 13), (19, 23, 27)]
    for header in (path.header, *(pose.header for pose in path.poses)):
        assert to_ns(header.stamp) == 7 and header.frame_id == 'base'


def test_state_and_commands_come_back(build):
    position, quaternion = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.9])
    message = build.pose(position, quaternion, 10**9, 'world')
    assert message.header.frame_id == 'world'
    for read in (read_pose, read_valid_pose):
        np.testing.assert_array_equal(read(message)[0], position)
        np.testing.assert_array_equal(read(message)[1], quaternion)
    names, positions, velocities = read_joints(build.joints(('a', 'b'), [0.1, -0.2], [1.5, 0], 5))
    assert names == ['a', 'b']
    np.testing.assert_array_equal([positions, velocities], [[0.1, -0.2], [1.5, 0.0]])
    assert read_twist(build.twist(np.arange(6.0), 5, 'world')).tolist() == [0, 1, 2, 3, 4, 5]
    assert read_text(build.text('pick up the cube')) == 'pick up the cube'
    assert build.number(2.5).data == 2.5
    gripper = build.gripper(0.25, 5, 'finger', 0.3)
    assert read_gripper(gripper) == read_gripper(gripper, 'finger') == 0.25
    assert to_ns(gripper.points[0].time_from_start) == 300_000_000


def test_what_cannot_be_used_is_refused_by_reason(build):
    pointless = build.gripper(0.0, 5)
    pointless.points.clear()
    cases = (
        (read_gripper, ('gripper',), build.gripper(0.0, 5, 'finger'), 'joint_names'),
        (read_gripper, ('gripper',), pointless, 'points'),
        (read_gripper, (), build.chunk(a_chunk()), 'points'),
        (read_gripper, (), build.gripper(np.inf, 5), 'non_finite'),
        (read_twist, (), build.twist(np.full(6, np.nan), 5), 'non_finite'),
        (read_valid_pose, (), build.pose((0, 0, np.nan), (0, 0, 0, 1), 5, ''), 'pose'),
        (read_valid_pose, (), build.pose((0, 0, 0), (0, 0, 0, 0), 5, ''), 'pose'),
    )
    for read, arguments, message, reason in cases:
        with pytest.raises(InputRefused) as refusal:
            read(message, *arguments)
        assert refusal.value.reason == reason


def test_status_values_are_text_with_four_digits(build):
    values = {'ms': 1.23456, 'count': 7, 'name': 'x', 'flag': True}
    status = build.status('part', values, message='late', level=build.WARN, hardware_id='robot')
    assert status_values(status) == {'ms': '1.235', 'count': '7', 'name': 'x', 'flag': 'True'}
    assert (status.name, status.message, status.hardware_id) == ('part', 'late', 'robot')
    assert status.level in (1, b'\x01')
    both = build.diagnostics([status, build.status('other', {}, message='ok')], 7, 'world')
    assert [s.level in (0, b'\x00') for s in both.status] == [False, True]
    assert (to_ns(both.header.stamp), both.header.frame_id) == (7, 'world')


class FakeBridge:
    def imgmsg_to_cv2(self, message, encoding):
        assert encoding == 'rgb8'
        if message.encoding == '8UC7':
            raise TypeError('conversion is not supported')
        return np.full((message.height, message.width, 3), 9, np.uint8)


def encoded(build, encoding):
    message = build.image(np.zeros((2, 2, 3), np.uint8), 5)
    message.encoding = encoding
    return message


def test_cv_bridge_is_asked_only_for_what_is_unknown_here(build, monkeypatch):
    """And the refusal stays where it cannot help either."""
    module = ModuleType('cv_bridge')
    module.CvBridge, module.__spec__ = FakeBridge, ModuleSpec('cv_bridge', None)
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    assert (read_image(encoded(build, '8UC3')) == 9).all()
    assert not read_image(encoded(build, 'rgb8')).any()
    broken = encoded(build, 'rgb8')
    broken.data = broken.data[:5]
    for message, what in ((encoded(build, '8UC7'), '8UC7'), (broken, '5 bytes')):
        with pytest.raises(InputRefused, match=what):
            read_image(message)
