"""Bags written by ``rosbags`` itself, read back: what was written is the expectation.

Damage is done to the files by hand: bytes cut off, chunks overwritten, metadata deleted.
"""

import shutil
import sqlite3
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from bag_writer import (
    MS,
    STORE,
    T0,
    image_message,
    joints_message,
    pose_message,
    text_message,
    trajectory_message,
    twist_message,
    write,
    write_ros1,
)
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin

from vla_prune_ros.bags.reader import Bag, find_bags, type_store
from vla_prune_ros.errors import DataError, InputRefused
from vla_prune_ros.runtime.messages import read_image, read_pose

POSE = 'geometry_msgs/msg/PoseStamped'
STORAGES = ('sqlite3', 'mcap')
ENDING = {'sqlite3': '.db3', 'mcap': '.mcap'}


def poses(count, start=T0, step=10 * MS, topic='/pose'):
    """The number of a pose is its x."""
    return [
        (topic, start + i * step, pose_message(start + i * step, (i, 0, 0))) for i in range(count)
    ]


def file_of(path, storage):
    (file,) = path.glob(f'*{ENDING[storage]}')
    return file


def xs(bag, topic='/pose', **window):
    return [int(m.read(read_pose)[0][0]) for m in bag.messages([topic], **window)]


@pytest.fixture(params=STORAGES)
def storage(request):
    return request.param


def test_every_kind_of_message_comes_back(tmp_path, storage):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    late = T0 + 30 * MS
    kinds = {
        '/image': image_message(T0, pixels),
        '/pose': pose_message(T0 + 1, (1, 2, 3), (0, 0, 1, 0)),
        '/joints': joints_message(T0 + 2, ('b', 'a'), (0.5, -0.5)),
        '/gripper': trajectory_message(T0 + 3, ['gripper'], [[1.0]], 300 * MS),
        '/twist': twist_message(T0 + 4, (1, 2, 3, 4, 5, 6)),
        '/task': text_message('Pick up the cube.'),
    }
    rows = [(topic, late + i, message) for i, (topic, message) in enumerate(kinds.items())]
    with Bag(write(tmp_path / 'bag', rows, storage)) as bag:
        found = {m.topic: m for m in bag.messages(bag.topics)}
    assert [m.stamp_ns for m in found.values()] == [*range(T0, T0 + 5), late + 5]
    assert [m.receipt_ns for m in found.values()] == list(range(late, late + 6))
    for topic, message in kinds.items():
        assert found[topic].raw == bytes(STORE.serialize_cdr(message, message.__msgtype__))
    np.testing.assert_array_equal(found['/image'].read(read_image), pixels)
    with pytest.raises(DataError, match='/twist'):
        found['/twist'].read(read_pose)


@pytest.mark.parametrize(
    ('storage', 'compression'),
    [(s, c) for s in STORAGES for c in ('FILE', 'MESSAGE')] + [('mcap', 'STORAGE')],
)
def test_compressed_bags_read_the_same(tmp_path, storage, compression):
    path = write(tmp_path / 'bag', poses(30), storage, compression)
    with Bag(path) as bag:
        assert xs(bag) == list(range(30))
        assert bag.lost == []


def test_a_window_and_random_access_while_another_reading_goes_on(tmp_path, storage):
    path = write(tmp_path / 'bag', poses(50), storage)
    with Bag(path) as bag:
        window = {'start_ns': T0 + 200 * MS, 'stop_ns': T0 + 240 * MS}
        assert xs(bag, **window) == [20, 21, 22, 23]
        places = [m.place for m in bag.messages(['/pose'])]
        for number, message in enumerate(bag.messages(['/pose'])):
            assert bag.read(places[49 - number]).read(read_pose)[0][0] == 49 - number
            assert message.read(read_pose)[0][0] == number


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from('abc'), st.integers(0, 3), st.integers(1, 9)),
        min_size=1,
        max_size=12,
        unique=True,
    ),
    seed=st.integers(0, 2**16),
    storage=st.sampled_from(STORAGES),
)
def test_the_order_in_the_file_does_not_matter(tmp_path_factory, rows, seed, storage):
    """The order is that of receipt, stamp and topic, whatever the file's."""
    folder = tmp_path_factory.mktemp('order')
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    written = [(f'/{t}', T0 + r, pose_message(T0 + s, (s, 0, 0))) for t, r, s in shuffled]
    with Bag(write(folder / 'bag', written, storage)) as bag:
        found = list(bag.messages({topic for topic, _, _ in written}))
        read_again = [bag.read(m.place) for m in found]
    expected = [
        (T0 + r, T0 + s, f'/{t}') for t, r, s in sorted(rows, key=lambda x: (x[1], x[2], x[0]))
    ]
    assert [(m.receipt_ns, m.stamp_ns, m.topic) for m in found] == expected
    assert [m.raw for m in read_again] == [m.raw for m in found]


def test_an_empty_bag_has_no_topics(tmp_path, storage):
    with Bag(write(tmp_path / 'empty', [], storage)) as bag:
        assert bag.topics == {}
        with pytest.raises(DataError, match='/pose'):
            bag.require('/pose')


def test_types_of_other_packages_are_ignored(tmp_path, storage):
    plugin = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}[storage]
    with Writer(tmp_path / 'bag', version=9, storage_plugin=plugin) as out:
        odd = out.add_connection(
            '/odd', 'our_msgs/msg/Odd', msgdef='gibberish % here', rihs01='RIHS01_' + '0' * 64
        )
        good = out.add_connection('/pose', POSE, typestore=STORE)
        out.write(odd, T0, b'\x00\x01\x00\x00rubbish')
        out.write(good, T0, STORE.serialize_cdr(pose_message(T0), POSE))
    with Bag(tmp_path / 'bag') as bag:
        assert bag.topics['/odd'] == ('our_msgs/msg/Odd', 1)
        assert xs(bag) == [0]
        with pytest.raises(DataError, match='our_msgs/msg/Odd'):
            bag.require('/odd')


@pytest.mark.parametrize('metadata', ['', 'rosbag2_bagfile_information: ['])
def test_metadata_is_not_needed(tmp_path, storage, metadata):
    path = write(tmp_path / 'bag', poses(20), storage)
    (path / 'metadata.yaml').unlink()
    if metadata:
        (path / 'metadata.yaml').write_text(metadata)
    for where in (path, file_of(path, storage)):
        with Bag(where) as bag:
            assert xs(bag) == list(range(20))


def test_a_split_bag_is_one_in_the_order_of_its_numbers(tmp_path, storage):
    """Twelve files: by text, number 10 would come before number 2."""
    folder = tmp_path / 'long'
    folder.mkdir()
    for number in range(12):
        part = write(tmp_path / f'part{number}', poses(5, T0 + number * 50 * MS), storage)
        shutil.copy(file_of(part, storage), folder / f'long_{number}{ENDING[storage]}')
    with Bag(folder) as bag:
        stamps = [m.stamp_ns for m in bag.messages(['/pose'])]
        assert bag.topics['/pose'].count == 60
    assert stamps == [T0 + i * 10 * MS for i in range(60)]
    assert find_bags(tmp_path / 'long') == [folder]


def test_a_missing_part_is_named(tmp_path):
    path = write(tmp_path / 'bag', poses(3))
    text = (path / 'metadata.yaml').read_text()
    (path / 'metadata.yaml').write_text(text.replace('- bag.mcap', '- bag.mcap\n  - bag_1.mcap'))
    with Bag(path) as bag:
        assert bag.lost == ['bag_1.mcap is named in metadata.yaml and missing']
        assert xs(bag) == [0, 1, 2]


@pytest.mark.parametrize('ratio', [0.3, 0.6, 0.9])
def test_a_cut_file_is_read_as_far_as_it_goes(tmp_path, storage, ratio):
    rng = np.random.default_rng(0)  # pictures, so that there are many pages and chunks
    rows = [
        ('/image', T0 + i * MS, image_message(T0 + i, rng.integers(0, 256, (64, 64, 3), np.uint8)))
        for i in range(400)
    ]
    path = write(tmp_path / 'bag', rows, storage)
    file = file_of(path, storage)
    data = file.read_bytes()
    file.write_bytes(data[: int(ratio * len(data))])
    with Bag(path) as bag:
        found = [m.stamp_ns - T0 for m in bag.messages(['/image'])]
        assert found == list(range(len(found)))
        assert 0.5 * ratio * 400 < len(found) < 400
        assert len(bag.lost) == 1 and file.name in bag.lost[0]


def test_a_damaged_chunk_costs_itself_alone(tmp_path):
    """Each picture of 1.2 MB fills a compressed chunk of its own; the second is overwritten."""
    pixels = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
    rows = [('/image', T0 + i, image_message(T0 + i, pixels)) for i in range(4)]
    path = write(tmp_path / 'bag', rows, 'mcap', 'STORAGE')
    file = file_of(path, 'mcap')
    data = bytearray(file.read_bytes())
    zstd = b'\x28\xb5\x2f\xfd'
    second = data.index(zstd, data.index(zstd) + 1)
    data[second + 4 : second + 1000] = bytes(996)
    file.write_bytes(data)
    with Bag(path) as bag:
        assert [m.stamp_ns - T0 for m in bag.messages(['/image'])] == [0, 2, 3]
        assert len(bag.lost) == 1 and '1 damaged chunk' in bag.lost[0]


def test_a_damaged_message_is_left_out(tmp_path, storage):
    raw = bytes(STORE.serialize_cdr(pose_message(T0 + 1), POSE))
    rows = [('/pose', T0 + i, (POSE, raw[:end])) for i, end in enumerate((6, None, 40))]
    with Bag(write(tmp_path / 'bag', rows, storage)) as bag:
        good, short = bag.messages(['/pose'])
        assert len(bag.lost) == 1 and str(T0) in bag.lost[0]
        good.read(read_pose)
        with pytest.raises(InputRefused) as caught:
            short.read(read_pose)
        assert caught.value.reason == 'corrupt'
        assert bag.read(good.place).raw == raw


@pytest.mark.parametrize('name', ['nothing', 'empty.mcap', 'empty.db3', 'text.mcap', 'folder'])
def test_what_is_no_bag_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    if name == 'folder':
        path.mkdir()
    elif name != 'nothing':
        path.write_text('' if name.startswith('empty') else 'words')
    with pytest.raises(DataError) as caught:
        Bag(path)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def unindexed(path, rows):
    """An MCAP file without chunks and summary, as a fast or a foreign recorder writes it."""

    def record(op, body):
        return bytes([op]) + len(body).to_bytes(8, 'little') + body

    def text(words):
        return len(words).to_bytes(4, 'little') + words.encode()

    magic = b'\x89MCAP0\r\n'
    data = magic + record(1, text('ros2') + text('by hand'))
    data += record(3, (1).to_bytes(2, 'little') + text(POSE) + text('ros2msg') + text(''))
    data += record(4, b'\x00\x00\x01\x00' + text('/pose') + text('cdr') + text(''))
    for receipt_ns, message in rows:
        times = receipt_ns.to_bytes(8, 'little') * 2
        body = bytes(STORE.serialize_cdr(message, POSE))
        data += record(5, b'\x00\x00' + bytes(4) + times + body)
    path.write_bytes(data + record(15, bytes(4)) + record(2, bytes(20)) + magic)
    return path


def test_mcap_without_index_and_order(tmp_path):
    """The order of receipt is 2, 0, 1: ``rosbags`` alone refuses the file half-way."""
    rows = [(T0 + t, pose_message(T0 + t, (t, 0, 0))) for t in (2, 0, 1)]
    with Bag(unindexed(tmp_path / 'odd.mcap', rows)) as bag:
        assert xs(bag) == [0, 1, 2]
        assert bag.lost == []
        places = [m.place for m in bag.messages(['/pose'])]
        assert bag.read(places[2]).read(read_pose)[0][0] == 2


def test_an_old_sqlite_bag_has_no_definitions(tmp_path):
    """Schema of Foxy and Humble: two tables, no types, no index on the times."""
    path = tmp_path / 'old.db3'
    with sqlite3.connect(path) as db:
        db.execute(
            'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, '
            'serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL)'
        )
        db.execute(
            'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, '
            'timestamp INTEGER NOT NULL, data BLOB NOT NULL)'
        )
        db.execute('INSERT INTO topics VALUES (1, ?, ?, ?, ?)', ('/pose', POSE, 'cdr', ''))
        for i in range(5):
            raw = bytes(STORE.serialize_cdr(pose_message(T0 + i, (i, 0, 0)), POSE))
            db.execute('INSERT INTO messages VALUES (?, 1, ?, ?)', (i + 1, T0 + i, raw))
    db.close()
    with Bag(path) as bag:
        assert xs(bag) == [0, 1, 2, 3, 4]


def test_a_bag_of_ros_1(tmp_path):
    rows = [('/pose', T0 + 100 + i, pose_message(T0 + i, (i, 0, 0))) for i in range(5)]
    with Bag(write_ros1(tmp_path / 'old.bag', rows)) as bag:
        assert [m.stamp_ns for m in bag.messages(['/pose'])] == [T0 + i for i in range(5)]
        assert xs(bag) == [0, 1, 2, 3, 4]


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / 'bag', poses(1))
    monkeypatch.setitem(sys.modules, 'rosbags.typesys', None)
    type_store.cache_clear()
    with pytest.raises(DataError, match='rosbags'):
        Bag(path)


def test_find_bags_looks_into_folders(tmp_path):
    first = write(tmp_path / 'all' / 'b', poses(1))
    second = write(tmp_path / 'all' / 'a', poses(1), 'sqlite3')
    loose = tmp_path / 'all' / 'loose.mcap'
    shutil.copy(file_of(first, 'mcap'), loose)
    assert find_bags(tmp_path / 'all') == [loose, second, first]
    assert find_bags(loose) == [loose]
