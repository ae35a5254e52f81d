"""Bags as they are written, or not. What an MCAP file says of its types is taken from its records
by a parser here, by the layout of the MCAP specification, and compared with ROS's own types.
Numbers of QoS policies are those of ROS (rmw/types.h)."""

import re
import struct
import sys
from importlib import import_module

import numpy as np
import pytest
import yaml

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from rosbags.highlevel import AnyReader
from sample_messages import (
    CHUNK,
    DELTAS,
    MESSAGES,
    NAMES,
    PIXELS,
    PLAIN,
    POSITION,
    QUAT,
    SPEEDS,
    STAMP,
    write,
)

from vla_prune_ros.bags.reader import Bag, type_store
from vla_prune_ros.bags.writer import BagWriter
from vla_prune_ros.errors import DataError


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
    assert (status.level, status.message, status.hardware_id) == (1, 'late', 'hw')
    assert {pair.key: pair.value for pair in status.values} == {
        'visual_tokens': '128',
        'policy_total_ms': '12.35',
        'mode': 'fine',
        'armed': 'True',
    }
    assert m['/number'].data == 2.5


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


def test_the_bag_says_how_to_offer_its_topics(bag):
    told = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert told['version'] == 8 and told['message_count'] == len(MESSAGES)
    assert told['duration'] == {'nanoseconds': len(MESSAGES) - 1}
    offered = {
        t['topic_metadata']['name']: yaml.safe_load(t['topic_metadata']['offered_qos_profiles'])
        for t in told['topics_with_message_count']
    }
    reliable, transient_local, volatile, keep_last = 1, 1, 2, 1
    for topic, (profile,) in offered.items():
        latched = topic == '/task'
        assert profile['reliability'] == reliable and profile['history'] == keep_last
        assert profile['durability'] == (transient_local if latched else volatile)
        assert profile['depth'] == (1 if latched else 10)


def mcap_schemas(data):
    """Name -> (encoding, definition) of the schema records behind the data of an MCAP file.

    A record is its kind (1 byte), its length (8 bytes), and itself; texts have their length (4
    bytes) in front. The footer, 20 bytes and the closing magic, says where the summary begins.
    """
    magic = b'\x89MCAP0\r\n'
    assert data[: len(magic)] == magic and data[-len(magic) :] == magic
    (at,) = struct.unpack_from('<Q', data, len(data) - len(magic) - 20)
    found = {}
    while at < len(data) - len(magic):
        kind, length = struct.unpack_from('<BQ', data, at)
        record, at = data[at + 9 : at + 9 + length], at + 9 + length
        if kind == 3:
            texts, place = [], 2
            for _ in range(3):
                (size,) = struct.unpack_from('<I', record, place)
                texts.append(record[place + 4 : place + 4 + size].decode())
                place += 4 + size
            found[texts[0]] = texts[1], texts[2]
    return found


def fields(definition, name):
    """Type -> [(type, name of field)] of a message definition in ROS's text form."""
    parts = re.split(r'^=+\nMSG: (\S+)\n', definition, flags=re.MULTILINE)
    texts = dict(zip([name.replace('/msg/', '/'), *parts[1::2]], parts[::2], strict=True))
    return {
        kind: [
            (line.split()[0], line.split()[1])
            for line in text.splitlines()
            if line.strip() and not line.startswith('#') and '=' not in line
        ]
        for kind, text in texts.items()
    }


PRIMITIVE = r'(bool|byte|char|string|wstring|float(32|64)|u?int(8|16|32|64))(\[.*\])?$'


def test_every_definition_is_in_the_file_to_the_last_part(tmp_path):
    path = write(tmp_path / 'bag')
    schemas = mcap_schemas((path / 'bag.mcap').read_bytes())
    assert set(schemas) == {MESSAGES[topic]().__msgtype__ for topic in MESSAGES}
    for name, (encoding, definition) in schemas.items():
        parts = fields(definition, name)
        assert encoding == 'ros2msg' and parts[name.replace('/msg/', '/')], name
        used = {kind.split('[')[0] for part in parts.values() for kind, _ in part}
        assert {kind for kind in used if not re.match(PRIMITIVE, kind)} <= set(parts), name


@pytest.mark.ros
def test_the_definitions_are_those_of_ros(tmp_path):
    path = write(tmp_path / 'bag')
    for name, (_, definition) in mcap_schemas((path / 'bag.mcap').read_bytes()).items():
        for part, found in fields(definition, name).items():
            package, kind = part.split('/')
            known = getattr(import_module(f'{package}.msg'), kind).get_fields_and_field_types()
            assert [field for _, field in found] == list(known), part


def test_the_same_messages_make_the_same_file(tmp_path):
    one, two = (write(tmp_path / i / 'bag') for i in ('1', '2'))
    assert (one / 'bag.mcap').read_bytes() == (two / 'bag.mcap').read_bytes()


def left(folder):
    return sorted(p.name for p in folder.rglob('*'))


def test_what_exists_is_left_alone(tmp_path):
    path = write(tmp_path / 'bag', topics=['/task'])
    before = (path / 'bag.mcap').read_bytes()
    with pytest.raises(DataError, match=r'bag exists; choose another path'):
        write(path)
    assert (path / 'bag.mcap').read_bytes() == before
    assert left(tmp_path) == ['bag', 'bag.mcap', 'metadata.yaml']


def test_only_a_bag_is_overwritten(tmp_path):
    path = write(tmp_path / 'bag', topics=['/task'])
    write(path, 'sqlite3', overwrite=True)
    assert left(tmp_path) == ['bag', 'bag.db3', 'metadata.yaml']
    (path / 'thesis.txt').write_text('years of work')
    with pytest.raises(DataError, match='exists and is no bag'):
        write(path, overwrite=True)
    (tmp_path / 'file').touch()
    with pytest.raises(DataError, match='exists and is no bag'):
        write(tmp_path / 'file', overwrite=True)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='exists and is no bag'):
        write(tmp_path / 'empty', overwrite=True)
    assert left(path) == ['bag.db3', 'metadata.yaml', 'thesis.txt']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_after_an_error_there_is_nothing_or_what_was_there(tmp_path, storage):
    def fail(**options):
        with pytest.raises(ZeroDivisionError), BagWriter(path, storage, **options) as writer:
            for _ in range(2000):  # more than a chunk of MCAP
                writer.write('/path', STAMP, MESSAGES['/path']())
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
        writer.write('/task', STAMP, MESSAGES['/task']())
        path.mkdir()
        (path / 'thesis.txt').touch()
    assert left(tmp_path) == ['bag', 'thesis.txt']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_without_messages_is_not_made(tmp_path, storage):
    with pytest.raises(DataError, match='nothing was written'), BagWriter(tmp_path / 'b', storage):
        pass
    assert left(tmp_path) == []


def test_a_topic_has_one_type(tmp_path):
    words = "'/x' has messages of std_msgs/msg/String, this one is std_msgs/msg/Float64"
    with pytest.raises(DataError, match=words), BagWriter(tmp_path / 'bag') as writer:
        writer.write('/x', STAMP, MESSAGES['/task']())
        writer.write('/x', STAMP, MESSAGES['/number']())
    assert left(tmp_path) == []


def test_an_unknown_storage_is_named(tmp_path):
    with pytest.raises(DataError, match="'parquet' is unknown; use one of mcap, sqlite3"):
        write(tmp_path / 'bag', 'parquet')


def test_without_rosbags_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rosbags.typesys', None)
    type_store.cache_clear()
    with pytest.raises(DataError, match='rosbags'):
        write(tmp_path / 'bag')
    assert left(tmp_path) == []


def test_the_writer_counts_what_it_wrote(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for receipt in (STAMP + 5, STAMP, STAMP + 9):
            writer.write('/task', receipt, MESSAGES['/task']())
    assert {name: tuple(topic) for name, topic in writer.topics.items()} == {
        '/task': ('std_msgs/msg/String', 3)
    }
    assert writer.span_ns == (STAMP, STAMP + 9)
