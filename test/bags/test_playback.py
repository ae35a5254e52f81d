"""When a bag is sent, and as which bytes.

Due times come from exact fractions, stamps and values from the deserialiser of ``rosbags``.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer

from vla_prune_ros.bags.playback import JUMP_NS, LaterBag, Serializer, Timeline, stamped
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.errors import DataError, InputRefused
from vla_prune_ros.runtime.messages import read_pose, read_text

STORE, T0, MS = writer.STORE, writer.T0, writer.MS
TASK = writer.text_message('lift')
WALL = 55_123_456_789_012
MESSAGES = (
    writer.image_message(T0, np.arange(54, dtype=np.uint8).reshape(3, 6, 3)),
    writer.BUILD.compressed_image(np.zeros((3, 6, 3), np.uint8), T0, 'a frame'),
    writer.pose_message(T0, (1, 2, 3), (0, 0, 1, 0)),
    writer.joints_message(T0, ('b', 'a'), (0.5, -0.5)),
    writer.twist_message(T0, range(6)),
    writer.trajectory_message(T0, ['gripper'], [[1.0]], 300 * MS),
)


def kind(message):
    return message.__msgtype__.rpartition('/')[2]


def ns(stamp):
    return stamp.sec * 10**9 + stamp.nanosec


gaps = st.lists(st.integers(0, 3 * JUMP_NS), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(gaps, st.sampled_from([0.01, 0.3, 1.0, 3.0, 100.0]))
def test_each_message_is_due_at_its_distance_from_the_beginning(steps, rate):
    line, now = Timeline(rate), T0
    line.begin(WALL, T0)
    for step in steps:
        now += step
        exact = WALL + Fraction(now - T0) / Fraction(rate)
        assert abs(line.due_ns(now) - exact) <= 1
        line.advance(now)
        assert abs(line.due_ns(now) - exact) <= 1


def test_time_that_jumps_back_takes_none_and_goes_on_from_there():
    line = Timeline(2.0)
    line.begin(WALL, T0)
    line.advance(T0 + 100 * MS)
    back = T0 - 500 * MS
    assert line.due_ns(back) == WALL + 50 * MS
    line.advance(back)
    assert line.due_ns(back + 60 * MS) == WALL + 80 * MS


def test_a_time_that_is_not_known_yet_is_the_beginning_and_a_delay_shifts_what_follows():
    line = Timeline(1.0)
    line.begin(WALL, 0)
    line.advance(0)
    assert line.due_ns(T0) == WALL
    line.advance(T0)
    assert line.due_ns(T0 + MS) == WALL + MS
    line.delay(7 * MS)
    assert line.due_ns(T0 + MS) == WALL + 8 * MS
    line.begin(WALL, T0)
    assert line.due_ns(T0 + MS) == WALL + MS


@settings(max_examples=100, deadline=None)
@given(gaps, st.sampled_from([0.3, 1.0, 5.0]))
def test_the_clock_runs_between_messages_and_never_past_the_next(steps, rate):
    line, now, shown = Timeline(rate), T0, T0
    line.begin(WALL, T0)
    for step in steps:
        now += step
        begin, due = line.due_ns(now - step), line.due_ns(now)
        for wall in (begin - MS, begin, (begin + due) // 2, due, due + MS):
            clock = line.clock_ns(wall, now)
            assert shown <= clock <= now
            exact = now - step + (wall - begin) * Fraction(rate)
            want = min(max(exact, now - step), now) if step < JUMP_NS else now - step
            assert abs(clock - want) <= 1 + rate
            shown = clock
        line.advance(now)
        shown = now


def test_the_clock_stands_still_before_a_jump():
    line = Timeline(1.0)
    line.begin(WALL, T0)
    for other in (T0 - 1, T0 + JUMP_NS, T0 + 5 * JUMP_NS):
        assert line.clock_ns(WALL + 400 * MS, other) == T0


def test_stamps_on_wall_time_are_as_old_as_they_were():
    line = Timeline(2.0)
    line.begin(WALL, T0)
    stamps = []
    # Two images of one exposure that arrived 3 ms apart keep one stamp.
    for now, stamp in ((5, 0), (8, 0), (30, 28), (130, 100)):
        line.advance(T0 + now * MS)
        stamps.append(line.wall_stamp_ns(T0 + stamp * MS))
    assert stamps == [WALL + round(at * MS / 2) for at in (0, 0, 28, 100)]


@pytest.mark.parametrize('little', [True, False])
@pytest.mark.parametrize('message', MESSAGES, ids=kind)
def test_another_stamp_changes_nothing_else(message, little):
    name, stamp = message.__msgtype__, T0 + 12_345_678_901
    raw = bytes(STORE.serialize_cdr(message, name, little_endian=little))
    found = stamped(raw, stamp)
    assert ns(STORE.deserialize_cdr(found, name).header.stamp) == stamp
    assert stamped(found, T0) == raw and type(found) is bytes


def first(path, topic):
    with Bag(path) as bag:
        return next(bag.messages([topic]))


def test_a_stamp_of_zero_becomes_the_time_of_receipt_and_a_given_one_wins(tmp_path):
    rows = [('/pose', T0, writer.pose_message(0, (1, 2, 3))), ('/task', T0, TASK)]
    path = writer.write(tmp_path / 'bag', rows)
    serializer, message, text = Serializer(path), first(path, '/pose'), first(path, '/task')
    assert serializer.cdr(text, T0 + 5) == text.raw  # it has no stamp
    for given_ns, want in ((None, T0), (T0 + 5, T0 + 5)):
        found = STORE.deserialize_cdr(serializer.cdr(message, given_ns), message.type)
        assert ns(found.header.stamp) == want and found.pose.position.y == 2
    object.__setattr__(message, 'raw', message.raw[:-9])
    with pytest.raises(InputRefused, match='/pose') as refusal:
        serializer.cdr(message)
    assert refusal.value.reason == 'corrupt'


def test_messages_of_ros_1_become_those_of_ros_2(tmp_path):
    image = writer.image_message(5, np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    rows = [('/image', T0, image), ('/task', T0, TASK)]
    path = writer.write_ros1(tmp_path / 'old.bag', rows)
    serializer = Serializer(path)
    raw = serializer.cdr(first(path, '/image'), T0)
    found = STORE.deserialize_cdr(raw, 'sensor_msgs/msg/Image')
    assert (ns(found.header.stamp), found.header.frame_id) == (T0, 'base')
    assert (found.encoding, found.step, found.data.tolist()) == ('rgb8', 6, list(range(6)))
    raw = serializer.cdr(first(path, '/task'))
    assert STORE.deserialize_cdr(raw, 'std_msgs/msg/String').data == 'lift'


@pytest.fixture
def poses(tmp_path):
    """Ten poses at 10 Hz whose x is their number, tasks before the first and the fifth."""
    rows = [('/task', T0, writer.text_message('one'))]
    for i in range(10):
        at = T0 + 50 * MS + i * 100 * MS
        if i == 4:
            rows.append(('/task', at - MS, writer.text_message('two')))
        rows.append(('/pose', at, writer.pose_message(at, (i, 0, 0))))
    return writer.write(tmp_path / 'bag', rows)


@pytest.mark.parametrize(('offset_s', 'task', 'number'), [(0.3, 'one', 3), (0.7, 'two', 7)])
def test_a_later_beginning_says_the_last_task_again(poses, offset_s, task, number):
    with LaterBag(poses, ['/pose', '/task'], offset_s, '/task') as bag:
        for _ in range(2):
            task_message, *rest = bag.messages(['/pose', '/task'])
            begin = T0 + round(offset_s * 1000) * MS
            assert (task_message.read(read_text), task_message.receipt_ns) == (task, begin)
            assert task_message.stamp_ns == begin
            seen = [int(m.read(read_pose)[0][0]) for m in rest if m.topic == '/pose']
            assert seen == list(range(number, 10))
        (again,) = {m.topic for m in bag.messages(['/pose'])}
        assert again == '/pose'


def test_a_beginning_behind_the_end_is_named(poses):
    with pytest.raises(DataError, match='0.96 s'):
        LaterBag(poses, ['/pose'], 0.96)
    LaterBag(poses, ['/pose'], 0.9).close()
