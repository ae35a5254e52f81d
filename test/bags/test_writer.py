"""Bags as they are written, or not. Numbers of QoS policies are those of ROS (rmw/types.h)."""

import numpy as np
import pytest
import yaml

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from rosbags.highlevel import AnyReader

from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.writer import BagWriter, message_builder
from vla_prune_ros.errors import DataError
from vla_prune_ros.records import ActionChunk

STAMP = 1_700_000_000_123_456_789
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
SMOOTH = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (1, 48, 3))
CHUNK = ActionChunk(STAMP, 0.05, RNG.normal(size=(8, 6)) * 0.01, RNG.uniform(size=8), 'base_link')
POSITION, TWIST, SPEEDS = RNG.normal(size=3), RNG.normal(size=6), np.array([1.5, 0.0])
PLAIN = {'visual_tokens': 128, 'policy_total_ms': 12.34567, 'mode': 'fine', 'armed': True}


def messages(build):
    status = build.status('n', PLAIN, message='late', level=build.WARN, hardware_id='hw')
    return {
        '/image': build.image(PIXELS, STAMP, 'optical'),
        '/jpeg': build.compressed_image(SMOOTH, STAMP, 'optical'),
        '/pose': build.pose(POSITION, np.array([0.5, -0.5, 0.5, 0.5]), STAMP, 'world'),
        '/joints': build.joints(['a', 'b'], np.array([0.1, -0.2]), SPEEDS, STAMP),
        '/task': build.text('pick up the cube'),
        '/twist': build.twist(TWIST, STAMP, 'world'),
        '/gripper': build.gripper(0.25, STAMP, 'finger', 0.3),
        '/chunk': build.chunk(CHUNK),
        '/path': build.path(CHUNK, POSITION),
        '/inference': build.diagnostics([status], STAMP),
        '/number': build.number(2.5),
    }


MESSAGES = messages(message_builder())


def write(path, storage='mcap', topics=MESSAGES, **options):
    with BagWriter(path, storage, **options) as writer:
        for i, topic in enumerate(topics):
            writer.write(topic, STAMP + i, MESSAGES[topic])
    return path


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
    assert m['/joints'].name == ['a', 'b'] and m['/task'].data == 'pick up the cube'
    np.testing.assert_array_equal(m['/joints'].velocity, SPEEDS)
    assert m['/number'].data == 2.5 and m['/inference'].status[0].message == 'late'


@pytest.mark.ros
def test_a_node_reads_the_bytes_as_what_it_would_have_sent(bag):
    from rclpy.serialization import deserialize_message

    from vla_prune_ros.nodes.messages import build

    with AnyReader([bag]) as reader:
        raws = {c.topic: bytes(raw) for c, _, raw in reader.messages()}
    for topic, message in messages(build).items():
        assert deserialize_message(raws[topic], type(message)) == message, topic


def test_the_bag_says_how_to_offer_its_topics(bag):
    info = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert info['version'] == 8 and info['message_count'] == len(MESSAGES)
    assert info['duration'] == {'nanoseconds': len(MESSAGES) - 1}
    offered = {
        t['topic_metadata']['name']: yaml.safe_load(t['topic_metadata']['offered_qos_profiles'])
        for t in info['topics_with_message_count']
    }
    reliable, transient_local, volatile, keep_last = 1, 1, 2, 1
    for topic, (profile,) in offered.items():
        latched = topic == '/task'
        assert profile['reliability'] == reliable and profile['history'] == keep_last
        assert profile['durability'] == (transient_local if latched else volatile)
        assert profile['depth'] == (1 if latched else 10)


def test_every_definition_is_in_the_file_with_its_parts(tmp_path):
    """So that a tool without ROS shows it: a header's stamp is a part of a part."""
    path = write(tmp_path / 'bag')
    with AnyReader([path]) as reader:
        texts = {c.topic: c.msgdef.data for c in reader.connections}
    assert set(texts) == set(MESSAGES) and all(texts.values())
    for part in ('geometry_msgs/PoseStamped', 'geometry_msgs/Quaternion', 'std_msgs/Header'):
        assert f'MSG: {part}\n' in texts['/path']


def test_the_same_messages_make_the_same_file(tmp_path):
    one, two = (write(tmp_path / i / 'bag') for i in ('1', '2'))
    assert (one / 'bag.mcap').read_bytes() == (two / 'bag.mcap').read_bytes()


def left(folder):
    return sorted(p.name for p in folder.rglob('*'))


def test_only_a_bag_is_overwritten_and_only_if_asked(tmp_path):
    path = write(tmp_path / 'bag', topics=['/task'])
    before = (path / 'bag.mcap').read_bytes()
    with pytest.raises(DataError, match='exists'):
        write(path)
    assert (path / 'bag.mcap').read_bytes() == before
    write(path, 'sqlite3', overwrite=True)
    assert left(tmp_path) == ['bag', 'bag.db3', 'metadata.yaml']
    (path / 'thesis.txt').write_text('years of work')
    (tmp_path / 'file').touch()
    (tmp_path / 'empty').mkdir()
    for other in (path, tmp_path / 'file', tmp_path / 'empty'):
        with pytest.raises(DataError, match=other.name):
            write(other, overwrite=True)
    assert left(path) == ['bag.db3', 'metadata.yaml', 'thesis.txt']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_after_an_error_there_is_nothing_or_what_was_there(tmp_path, storage):
    def fail(**options):
        with pytest.raises(ZeroDivisionError), BagWriter(path, storage, **options) as writer:
            for _ in range(2000):  # more than a chunk of MCAP
                writer.write('/path', STAMP, MESSAGES['/path'])
            raise ZeroDivisionError

    path = tmp_path / 'bag'
    fail()
    assert left(tmp_path) == []
    write(path, storage, topics=['/task'])
    there = left(tmp_path)
    fail(overwrite=True)
    assert left(tmp_path) == there
    with Bag(path) as read:
        assert list(read.topics) == ['/task']


def test_a_path_that_came_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / 'bag'
    with pytest.raises(DataError, match='exists'), BagWriter(path) as writer:
        writer.write('/task', STAMP, MESSAGES['/task'])
        path.mkdir()
        (path / 'thesis.txt').touch()
    assert left(tmp_path) == ['bag', 'thesis.txt']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_without_messages_is_not_made(tmp_path, storage):
    with pytest.raises(DataError, match='nothing was written'), BagWriter(tmp_path / 'b', storage):
        pass
    assert left(tmp_path) == []


def test_a_topic_has_one_type(tmp_path):
    error = pytest.raises(DataError, match="'/x'.*String.*Float64")
    with error, BagWriter(tmp_path / 'bag') as writer:
        writer.write('/x', STAMP, MESSAGES['/task'])
        writer.write('/x', STAMP, MESSAGES['/number'])
    assert left(tmp_path) == []


def test_the_writer_counts_what_it_wrote(tmp_path):
    with pytest.raises(DataError, match="'parquet'.*mcap, sqlite3"):
        write(tmp_path / 'bag', 'parquet')
    with BagWriter(tmp_path / 'bag') as writer:
        for receipt in (STAMP + 5, STAMP, STAMP + 9):
            writer.write('/task', receipt, MESSAGES['/task'])
    assert {name: tuple(topic) for name, topic in writer.topics.items()} == {
        '/task': ('std_msgs/msg/String', 3)
    }
    assert writer.span_ns == (STAMP, STAMP + 9)
