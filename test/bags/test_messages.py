"""Messages for bags. Expected values are the arrays that went in; they come back through two
readers, and as what a node would have sent, through ROS itself."""

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from rosbags.highlevel import AnyReader
from sample_messages import (
    CHUNK,
    DELTAS,
    GRIPPER,
    JOINTS,
    MESSAGES,
    NAMES,
    PIXELS,
    PLAIN,
    POSITION,
    QUAT,
    SMOOTH,
    SPEEDS,
    STAMP,
    TWIST,
    write,
)

from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.writer import BagWriter, message_builder
from vla_prune_ros.runtime.messages import (
    read_chunk,
    read_gripper,
    read_image,
    read_joints,
    read_pose,
    read_text,
    read_twist,
)


@pytest.fixture(params=['mcap', 'sqlite3'])
def bag(request, tmp_path):
    return write(tmp_path / 'new' / 'bag', request.param, latched=['/task'])


def test_another_reader_finds_every_message_with_its_values(bag):
    with AnyReader([bag]) as reader:
        found = {
            c.topic: (receipt, reader.deserialize(raw, c.msgtype))
            for c, receipt, raw in reader.messages()
        }
    assert list(found) == list(MESSAGES)
    assert [receipt - STAMP for receipt, _ in found.values()] == list(range(len(MESSAGES)))
    m = {topic: message for topic, (_, message) in found.items()}
    for topic in set(m) - {'/task', '/number'}:
        stamp = m[topic].header.stamp
        assert (stamp.sec, stamp.nanosec) == (1_700_000_000, 123_456_789), topic
    assert (m['/image'].encoding, m['/image'].step) == ('rgb8', 21)
    np.testing.assert_array_equal(m['/image'].data, PIXELS.reshape(-1))
    assert bytes(m['/jpeg'].data[:3]) == b'\xff\xd8\xff'
    assert m['/joints'].name == NAMES and m['/task'].data == 'pick up the cube'
    np.testing.assert_array_equal(m['/joints'].velocity, SPEEDS)
    point = m['/gripper'].points[0]
    assert (m['/gripper'].joint_names, *point.positions) == (['finger'], 0.25)
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 300_000_000)
    ends = [[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in m['/path'].poses]
    np.testing.assert_allclose(ends[0], POSITION)
    np.testing.assert_allclose(ends[-1], POSITION + DELTAS[:, :3].sum(axis=0))
    status = m['/inference'].status[0]
    said = {pair.key: pair.value for pair in status.values}
    assert (status.level, status.message, status.hardware_id) == (1, 'late', 'hw')
    assert said == {
        'visual_tokens': '128',
        'policy_total_ms': '12.35',
        'mode': 'fine',
        'armed': 'True',
    }
    assert m['/number'].data == 2.5


def test_the_replay_reads_what_was_written(bag):
    with Bag(bag) as read:
        types = {name: topic.type for name, topic in read.topics.items()}
        ours = [topic for topic in MESSAGES if topic not in ('/path', '/inference', '/number')]
        m = {message.topic: message for message in read.messages(ours)}
        assert not read.lost and {t.count for t in read.topics.values()} == {1}
        np.testing.assert_array_equal(m['/image'].read(read_image), PIXELS)
        back = m['/jpeg'].read(read_image).astype(int)
        assert back.shape == SMOOTH.shape and abs(back - SMOOTH).max() <= 6
        np.testing.assert_array_equal(m['/pose'].read(read_pose)[0], POSITION)
        np.testing.assert_array_equal(m['/pose'].read(read_pose)[1], QUAT)
        np.testing.assert_array_equal(m['/joints'].read(read_joints)[1], JOINTS)
        assert m['/task'].read(read_text) == 'pick up the cube'
        np.testing.assert_array_equal(m['/twist'].read(read_twist), TWIST)
        assert m['/gripper'].read(read_gripper) == 0.25
        chunk = m['/chunk'].read(read_chunk)
    np.testing.assert_array_equal(chunk.deltas, DELTAS)
    np.testing.assert_array_equal(chunk.gripper, GRIPPER)
    assert (chunk.stamp_ns, chunk.dt_s, chunk.frame_id) == (STAMP, 0.05, 'base_link')
    assert types['/path'] == 'nav_msgs/msg/Path' and types['/number'] == 'std_msgs/msg/Float64'


def test_colours_of_a_jpeg_are_not_exchanged(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write('/jpeg', STAMP, message_builder().compressed_image(red, STAMP))
    with Bag(tmp_path / 'bag') as read:
        back = next(read.messages(['/jpeg'])).read(read_image)
    assert abs(back.astype(int) - red).max() <= 6


@pytest.mark.ros
def test_a_node_reads_the_bytes_as_what_it_would_have_sent(bag):
    from rclpy.serialization import deserialize_message

    from vla_prune_ros.nodes.messages import build

    status = build.status('n', PLAIN, message='late', level=build.WARN, hardware_id='hw')
    sent = {
        '/image': build.image(PIXELS, STAMP, 'optical'),
        '/pose': build.pose(POSITION, QUAT, STAMP, 'world'),
        '/gripper': build.gripper(0.25, STAMP, 'finger', 0.3),
        '/chunk': build.chunk(CHUNK),
        '/path': build.path(CHUNK, POSITION),
        '/inference': build.diagnostics([status], STAMP),
    }
    with AnyReader([bag]) as reader:
        raws = {c.topic: bytes(raw) for c, _, raw in reader.messages()}
    for topic, message in sent.items():
        assert deserialize_message(raws[topic], type(message)) == message, topic
