"""Predictions as a bag. Expected values are those of the records that went in, worked out by hand
where a message holds something else; they come back through two readers."""

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import replay_result as sample
from rosbags.highlevel import AnyReader

from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.errors import DataError
from vla_prune_ros.evaluate.replay.mcap_export import topic_names, write_predictions
from vla_prune_ros.runtime.messages import read_chunk, read_twist

T0, MS = sample.T0, sample.MS
DT = 0.05
K = 8
RNG = np.random.default_rng(3)


def query(i, tokens=(100, 28), **more):
    """Each is another one, by its number; so many tokens of each camera."""
    kept = dict(zip(('primary', 'wrist'), tokens, strict=True))
    masks = {camera: np.arange(256) < n for camera, n in kept.items()}
    record = {'mode': 'fine', 'visual_tokens': sum(tokens), 'total_ms': 10.0 + i, **more}
    actions = RNG.normal(size=(K, 7)) * 0.01
    return sample.query(i, actions, kept=masks, steps=K, stages_ms={'vision': 1.5}, **record)


def recording(count, valid=None, source='twist'):
    actions = RNG.normal(size=(count, K, 7)) * 0.01
    known = np.ones((count, K), bool) if valid is None else np.asarray(valid)
    instants = [sample.instant(i, position=np.array([0.1 * i, 0.2, 0.3])) for i in range(count)]
    return sample.recording(instants, source=source, actions=actions, valid=known)


def read(path):
    """Topic -> [(time of receipt, message)], and all topics in the order of the file."""
    found, order = {}, []
    with AnyReader([path]) as reader:
        for c, receipt, raw in reader.messages():
            found.setdefault(c.topic, []).append((receipt, reader.deserialize(raw, c.msgtype)))
            order.append((receipt, c.topic))
    assert [receipt for receipt, _ in order] == sorted(receipt for receipt, _ in order)
    return found


def plain(message):
    return {pair.key: pair.value for pair in message.status[0].values}


def test_chunks_come_back_through_the_reader_of_the_replay(tmp_path):
    taken = recording(3)
    answers = {m: [query(i) for i in range(3)] for m in ('dense', 'uniform:128')}
    count = write_predictions(tmp_path / 'p', taken, answers, DT, 'world')
    with Bag(tmp_path / 'p') as bag:
        assert count == sum(t.count for t in bag.topics.values()) == 3 * (2 * 6 + 3)
        for name, queries in (
            ('dense', answers['dense']),
            ('uniform_128', answers['uniform:128']),
        ):
            chunks = list(bag.messages([f'/replay/{name}/action_chunk']))
            steps = list(bag.messages([f'/replay/{name}/first_step']))
            for i, made in enumerate(queries):
                got = chunks[i].read(read_chunk)
                np.testing.assert_array_equal(got.deltas, made.actions[:, :6])
                np.testing.assert_array_equal(got.gripper, made.actions[:, 6])
                assert (got.stamp_ns, got.dt_s, got.frame_id) == (made.stamp_ns, DT, 'world')
                assert chunks[i].receipt_ns == T0 + 200 * MS * i + 8 * MS
                np.testing.assert_allclose(
                    steps[i].read(read_twist), made.actions[0, :6] * 20, rtol=1e-12
                )
                assert steps[i].stamp_ns == made.stamp_ns
        for i, message in enumerate(bag.messages(['/replay/recorded/action_chunk'])):
            np.testing.assert_array_equal(message.read(read_chunk).deltas, taken.actions[i, :, :6])


def test_numbers_can_be_plotted_and_the_record_says_the_rest(tmp_path):
    motion = {'motion_m_s': 0.25, 'motion_angular_rad_s': 0.5, 'motion_vertical_m_s': -0.125}
    motion['motion'] = 'pose'
    queries = [query(0, (256, 256), mode='dense'), query(1, refresh_ms=33.0, **motion)]
    write_predictions(tmp_path / 'p', recording(2, source=''), {'specprune': queries}, DT)
    found = read(tmp_path / 'p')
    prefix = '/replay/specprune'
    assert [m.data for _, m in found[f'{prefix}/visual_tokens']] == [512.0, 128.0]
    assert [m.data for _, m in found[f'{prefix}/latency_ms']] == [10.0, 11.0]
    first, second = (m for _, m in found[f'{prefix}/inference'])
    given = {'mode': 'fine', 'visual_tokens': '128', 'kept_wrist': '28', 'refresh_ms': '33',
             'motion': 'pose', 'motion_vertical_m_s': '-0.125'}  # fmt: skip
    assert given.items() <= plain(second).items()
    assert plain(first)['motion'] == 'unknown' and 'refresh_ms' not in plain(first)
    assert second.header.stamp.nanosec == 200_000_000
    assert not [topic for topic in found if 'recorded' in topic]


def test_a_path_begins_where_the_arm_was(tmp_path):
    taken, made = recording(2), query(1)
    write_predictions(tmp_path / 'p', taken, {'dense': [made]}, DT, 'world')
    found = read(tmp_path / 'p')
    ((receipt, path),) = found['/replay/dense/chunk_path']
    points = [[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in path.poses]
    at = np.array([0.1, 0.2, 0.3])
    assert receipt == T0 + 208 * MS and path.header.frame_id == 'world' and len(points) == K + 1
    for i, point in enumerate(points):
        np.testing.assert_allclose(point, at + sum(made.actions[:i, :3], np.zeros(3)), atol=1e-12)
    assert len(found['/replay/recorded/chunk_path']) == 2


def test_a_refused_query_has_a_record_and_nothing_else(tmp_path):
    answers = {'dense': [query(0), sample.query(1, refusal='size: 0 x 0 pixels'), query(2)]}
    write_predictions(tmp_path / 'p', recording(3, source=''), answers, DT)
    found = read(tmp_path / 'p')
    counts = {topic.rsplit('/', 1)[1]: len(rows) for topic, rows in found.items()}
    assert counts.pop('inference') == 3 and len(counts) == 5 and set(counts.values()) == {2}
    status = found['/replay/dense/inference'][1][1].status[0]
    assert (status.level, status.message) == (1, 'size: 0 x 0 pixels')
    assert plain(found['/replay/dense/inference'][1][1]) == {
        'refusal': 'size: 0 x 0 pixels',
        'motion': 'unknown',
    }


def test_recorded_actions_are_given_up_to_the_first_that_is_unknown(tmp_path):
    valid = np.ones((3, K), bool)
    valid[1, 5] = valid[2, 0] = False
    taken = recording(3, valid)
    write_predictions(tmp_path / 'p', taken, {}, DT)
    found = read(tmp_path / 'p')
    chunks = [m for _, m in found['/replay/recorded/action_chunk']]
    assert [len(m.points) for m in chunks] == [K, 5]
    assert len(found['/replay/recorded/first_step']) == 2
    np.testing.assert_array_equal(chunks[1].points[4].positions, taken.actions[1, 4])


def test_names_are_those_that_ros_takes():
    names = {
        'dense': 'dense',
        'uniform:128': 'uniform_128',
        'a@/home/x_1/my-model': 'a_my_model',
        'uniform_128': 'uniform_128_2',
        '7b': 'method_7b',
        'recorded': 'recorded_2',
        ':': 'method',
    }
    assert topic_names(list(names)) == names


def test_an_earlier_result_is_replaced_and_other_things_are_not(tmp_path):
    for count in (3, 1):
        write_predictions(tmp_path / 'p', recording(count), {}, DT)
    assert len(read(tmp_path / 'p')['/replay/recorded/action_chunk']) == 1
    (tmp_path / 'p' / 'thesis.txt').touch()
    with pytest.raises(DataError, match='is no bag'):
        write_predictions(tmp_path / 'p', recording(1), {}, DT)


def test_where_there_is_nothing_no_bag_is_made(tmp_path):
    assert write_predictions(tmp_path / 'p', recording(0), {'dense': []}, DT) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ros
def test_a_node_would_have_sent_the_same_chunk(tmp_path):
    from nav_msgs.msg import Path
    from rclpy.serialization import deserialize_message
    from trajectory_msgs.msg import JointTrajectory

    from vla_prune_ros.nodes.messages import build
    from vla_prune_ros.records import ActionChunk

    made = query(0)
    write_predictions(tmp_path / 'p', recording(1, source=''), {'dense': [made]}, DT)
    record = ActionChunk(T0, DT, made.actions[:, :6], made.actions[:, 6], 'base_link')
    with AnyReader([tmp_path / 'p']) as reader:
        raws = {c.topic: bytes(raw) for c, _, raw in reader.messages()}
    sent = deserialize_message(raws['/replay/dense/action_chunk'], JointTrajectory)
    assert sent == build.chunk(record)
    path = deserialize_message(raws['/replay/dense/chunk_path'], Path)
    assert path == build.path(record, np.array([0.0, 0.2, 0.3]))
