"""Bags whose answer is known in closed form: constant speeds, a gripper that closes at a known
time, cameras of known rates, and faults that were put in by hand. Times are milliseconds."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer
import formula_bag as recorded
from formula_bag import MS, T0, TASK, TURN, VELOCITY, drive, grips, task, twists
from rosbags.rosbag2 import Writer

from vla_prune_ros.errors import DataError, ProfileError
from vla_prune_ros.evaluate.replay.scan import ReplaySetting, scan
from vla_prune_ros.runtime.params import SessionParams

K = 8
ROBOT = SessionParams(instruction=TASK)
PLAIN = ReplaySetting(robot=ROBOT)
# What one step of 50 ms is at the speeds of the formula: m and rad.
STEP = 0.05 * np.concatenate((VELOCITY, TURN))


def read(tmp_path, rows, setting=PLAIN, storage='mcap'):
    return scan(recorded.write(tmp_path / 'bag', rows, storage), setting)


def asked(found):
    """Epoch and stamp of each query."""
    return [(i.epoch, (i.stamp_ns - T0) / MS) for i in found.instants]


def stamps(found):
    return [ms for _, ms in asked(found)]


def codes(found):
    return [code for code, _ in found.problems]


def check_actions(found, known, moved=lambda begin: 1.0, closed=lambda begin: False):
    """By functions of the millisecond at which a step begins; ``moved``: in which part of it."""
    begins = np.array(stamps(found))[:, None] + 50 * np.arange(K)
    valid = np.vectorize(known, otypes=[bool])(begins)
    part = np.vectorize(moved, otypes=[float])(begins)
    grip = np.where(np.vectorize(closed, otypes=[bool])(begins), 0.0, 1.0)
    actions = np.concatenate((part[..., None] * STEP, grip[..., None]), axis=2)
    actions = np.where(valid[..., None], actions, 0.0)
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_allclose(found.actions, actions, rtol=0, atol=1e-9)


# --- queries ----------------------------------------------------------------------------------


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_a_bag_is_read_the_same_from_every_storage(tmp_path, storage):
    """The second camera completes the pairs; a pose of each 10 ms is the newest at 12, 212, ..."""
    rows = drive() + task(0)
    found = read(tmp_path, rows, ReplaySetting(), storage)
    assert asked(found) == [(1, 12), (1, 212), (1, 412), (1, 612), (1, 812), (1, 1012)]
    for instant, begin in zip(found.instants, range(0, 1200, 200), strict=True):
        assert instant.receipt_ns == T0 + (begin + 20) * MS
        assert instant.instruction == TASK
        places = {c: (p.topic, p.receipt_ns - T0, p.nth) for c, p in instant.images.items()}
        assert places == {
            'primary': ('/primary', (begin + 8) * MS, 0),
            'wrist': ('/wrist', (begin + 20) * MS, 0),
        }
        np.testing.assert_allclose(instant.position, recorded.position(begin + 10), atol=1e-12)
    counts = {'ee_pose': 120, 'instruction': 1, 'joint_states': 120, 'primary': 24, 'wrist': 12}
    assert found.topics == {name: f'/{name}' for name in counts}
    assert found.guessed and found.span_ns == (T0, T0 + 1191 * MS)
    assert {topic: count for topic, (_, count) in found.there.items()} == {
        f'/{name}': count for name, count in counts.items()
    }
    assert found.there['/wrist'][0] == 'sensor_msgs/msg/Image'
    assert (found.problems, found.losses) == ((), {'new_instruction': 1})
    assert found.source == 'ee_pose'
    check_actions(found, lambda begin: begin + 50 <= 1190)


@pytest.mark.parametrize(
    ('period_s', 'expected'),
    [
        (0.0, range(12, 1200, 100)),
        (0.2, range(12, 1200, 200)),
        (0.201, range(12, 1200, 300)),
        (5.0, [12]),
    ],
)
def test_queries_come_at_the_period(tmp_path, period_s, expected):
    found = read(tmp_path, drive(), replace(PLAIN, period_s=period_s))
    assert asked(found) == [(0, ms) for ms in expected]
    assert found.actions.shape == (len(found.instants), K, 7) and found.losses == {}


def test_cameras_further_apart_than_the_slop_never_pair(tmp_path):
    found = read(tmp_path, drive(), replace(PLAIN, robot=replace(ROBOT, sync_slop_s=0.0119)))
    assert found.instants == () and found.actions.shape == (0, K, 7)
    assert 'no_queries' in codes(found)


# --- what was done ----------------------------------------------------------------------------


def test_fingers_that_close_slowly_close_where_the_latch_says(tmp_path):
    """From 100 to 600 ms, below 0.4 from 410 on; opening again from 700 to 900, above 0.6 from 830
    on. A step has the opening of its end."""

    def opening(ms):
        return min(max((600 - ms) / 500, (ms - 700) / 200, 0.0), 1.0)

    found = read(tmp_path, drive(opening=opening))
    check_actions(
        found, lambda begin: begin + 50 <= 1190, closed=lambda begin: 410 <= begin + 50 < 830
    )
    assert found.actions[0, :, 6].tolist() == [1] * 7 + [0]


def test_speeds_hold_for_a_fifth_of_a_second(tmp_path):
    """Twists each 50 ms from 25 to 425 and from 825 to 1175 ms: the arm moves from 25 to 625 and
    from 825 on. All is known from the first query to the last twist."""
    rows = drive() + twists([*range(25, 426, 50), *range(825, 1176, 50)])
    found = read(tmp_path, rows + grips({30: 1.0, 500: 0.0}))
    assert (found.source, found.problems) == ('twist', ())

    def moved(begin):
        spans = (25, 625), (825, 9999)
        return sum(max(0, min(begin + 50, b) - max(begin, a)) for a, b in spans) / 50

    check_actions(
        found,
        lambda begin: begin + 50 <= 1175,
        moved=moved,
        closed=lambda begin: begin + 25 >= 500,
    )


@pytest.mark.parametrize(('last', 'known'), [(400, True), (399, False)])
def test_between_targets_too_far_apart_nothing_is_known(tmp_path, last, known):
    """The next one is of 650 ms: 250 ms may lie between two, no more."""
    targets = [*range(0, 400, 50), last, *range(650, 1200, 50)]
    rows = drive() + recorded.poses(targets, '/pose_target')
    found = read(tmp_path, rows)
    assert found.source == 'pose_target'

    def reached(ms):
        return ms <= 1150 and (known or not last < ms < 650)

    check_actions(found, lambda begin: reached(begin) and reached(begin + 50))
    assert found.valid.all(axis=1).tolist() == [known] * 4 + [False] * 2


@pytest.mark.parametrize('source', ['twist', 'pose_target', 'ee_pose', 'none'])
def test_the_source_can_be_chosen_and_commands_come_first(tmp_path, source):
    """The three disagree: targets stand still, and speeds are double."""
    still = [
        (topic, at, writer.pose_message(at, (1, 2, 3))) for topic, at, _ in
        recorded.poses(range(0, 1200, 50), '/pose_target')
    ]  # fmt: skip
    double = 2 * np.concatenate((VELOCITY, TURN))
    rows = drive() + still + twists(range(0, 1200, 50), numbers=double)
    path = recorded.write(tmp_path / 'bag', rows)
    found = scan(path, replace(PLAIN, actions=source))
    factor = {'twist': 2.0, 'pose_target': 0.0, 'ee_pose': 1.0, 'none': 0.0}[source]
    np.testing.assert_allclose(found.actions[1, 0, :6], factor * STEP, atol=1e-9)
    assert found.source == ('' if source == 'none' else source)
    assert found.valid.any() == (source != 'none') and found.problems == ()
    if source == 'twist':
        assert scan(path, PLAIN).source == source


def test_a_gripper_may_count_the_other_way_round(tmp_path):
    """A driver that is closed at 80 and open at 5: 60 is 0.27 open, 30 is 0.67, 42 neither. What
    comes behind the middle of a step is too late for it."""
    rows = drive() + twists(range(0, 1200, 50)) + grips({40: 30.0, 300: 60.0, 600: 42.0, 800: 5.0})
    found = read(tmp_path, rows, replace(PLAIN, gripper_closed=80.0, gripper_open=5.0))
    check_actions(
        found,
        lambda begin: begin + 25 >= 40 and begin + 50 <= 1150,
        closed=lambda begin: 300 <= begin + 25 < 800,
    )
    assert found.valid[0].tolist() == [False] + [True] * 7
    with pytest.raises(ProfileError, match='closed'):
        read(tmp_path / 'b', rows, replace(PLAIN, gripper_closed=5.0, gripper_open=5.0))


def test_a_new_task_divides_what_was_done(tmp_path):
    """At 600 ms: the pair of 612 is the first of the new task. Speeds before it are known up to
    the last of them, of 550 ms; those of the new one begin at 600."""
    rows = drive() + twists(range(0, 1200, 50)) + grips({0: 1.0}) + task(600, 'Stack  it. ')
    found = read(tmp_path, rows)
    assert asked(found) == [(0, 12), (0, 212), (0, 412), (1, 612), (1, 812), (1, 1012)]
    assert [i.instruction for i in found.instants] == [TASK] * 3 + ['stack it'] * 3
    assert found.losses == {'new_instruction': 1}
    last = np.array([550] * 3 + [1150] * 3)[:, None]
    ends = np.array(stamps(found))[:, None] + 50 * np.arange(1, K + 1)
    np.testing.assert_array_equal(found.valid, ends <= last)
    assert found.actions[found.valid][:, 6].tolist() == [1.0] * int((ends <= last).sum())


# --- faults -----------------------------------------------------------------------------------


def test_losses_by_reason(tmp_path):
    """An image twice, one from 100 ms ahead, and a pose 30 ms behind the newest."""
    twice = recorded.images('primary', [200], delay=9)
    ahead = recorded.images('wrist', [399], delay=-80)
    late = recorded.poses([470], delay=35)
    found = read(tmp_path, drive() + twice + ahead + late)
    assert found.losses == {'duplicate': 1, 'stamp_future': 1, 'out_of_order': 1}
    assert stamps(found) == [12, 212, 412, 612, 812, 1012]
    assert found.instants[1].images['primary'].receipt_ns == T0 + 209 * MS
    assert codes(found) == ['backward_stamps', 'unusable']


def test_stamps_that_jump_back_begin_a_new_epoch(tmp_path):
    """From 600 ms on every stamp is 300 ms behind the time of receipt."""
    rows = drive()
    for _, receipt_ns, message in rows:
        if receipt_ns >= T0 + 601 * MS:
            at = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            recorded.stamp(message, at - 300 * MS)
    found = read(tmp_path, rows)
    assert asked(found) == [(0, 12), (0, 212), (0, 412), (1, 312), (1, 512), (1, 712)]
    assert found.losses == {'time_jump': 1}
    assert codes(found) == ['backward_stamps']
    # Poses of 0 ... 590 ms, then of 300 ... 890 ms: neither epoch borrows the other's.
    last = np.array([590] * 3 + [890] * 3)[:, None]
    ends = np.array(stamps(found))[:, None] + 50 * np.arange(1, K + 1)
    np.testing.assert_array_equal(found.valid, ends <= last)


def test_zero_stamps_are_named_and_replaced_by_the_time_of_receipt(tmp_path):
    """Those of the second camera are then 20, 120, ... and pair all the same."""
    rows = drive()
    for topic, _, message in rows:
        if topic in ('/wrist', '/joint_states'):
            recorded.stamp(message, 0)
    found = read(tmp_path, rows)
    assert stamps(found) == [20, 220, 420, 620, 820, 1020]
    assert codes(found) == ['unstamped', 'unstamped']
    assert [text.split(':')[0] for _, text in found.problems] == ['/joint_states', '/wrist']


def test_a_bag_without_actions_says_where_they_were_looked_for(tmp_path):
    """No speeds; and speeds with a gripper of which nothing is known before the last moment."""
    found = read(tmp_path / 'a', drive(), replace(PLAIN, actions='twist'))
    assert codes(found) == ['no_actions'] and 'twist' in found.problems[0][1]
    found = read(tmp_path / 'b', drive() + twists(range(0, 1200, 50)) + grips({1199: 1.0}))
    assert found.source == '' and not found.valid.any() and not found.actions.any()
    assert codes(found) == ['no_actions']


def test_a_camera_that_falls_silent_is_counted_as_stale(tmp_path):
    """Its last frame, of 512 ms, is too old from 1012 ms on: three frames of the other, received
    at 1058, 1108 and 1158, wait for nothing."""
    rows = [row for row in drive() if row[0] != '/wrist' or row[1] < T0 + 600 * MS]
    found = read(tmp_path, rows)
    assert stamps(found) == [12, 212, 412] and found.losses == {'stale:wrist': 3}


def test_unusable_commands_are_counted_and_the_rest_is_taken(tmp_path):
    """Two speeds that are not finite, and a gripper command of two joints."""
    bad = twists([310, 320], numbers=[np.nan] * 6)
    odd = [('/gripper', T0 + 5 * MS, writer.trajectory_message(T0, 'ab', [[1, 2]], MS))]
    rows = drive() + twists(range(0, 1200, 50)) + grips({1: 1.0}) + bad + odd
    found = read(tmp_path, rows)
    assert codes(found) == ['unusable', 'unusable']
    assert '/twist' in found.problems[0][1] and '/gripper' in found.problems[1][1]
    check_actions(found, lambda begin: begin + 50 <= 1150)


def raw(message, length=None):
    """CDR, cut off behind so many bytes."""
    return bytes(writer.STORE.serialize_cdr(message, message.__msgtype__))[:length]


def damaged(path, rows, damage):
    """A bag in which some messages are cut: (topic, ms of receipt) -> bytes that are left."""
    with Writer(path, version=9) as out:
        connections = {}
        for topic, at, message in sorted(rows, key=lambda row: row[1]):
            if topic not in connections:
                kind = message.__msgtype__
                connections[topic] = out.add_connection(topic, kind, typestore=writer.STORE)
            cut = damage.get((topic, (at - T0) // MS))
            out.write(connections[topic], at, raw(message, cut))
    return path


def test_damaged_messages_are_lost_or_unusable(tmp_path):
    """Six bytes are not even a stamp; forty are a header without a pose. The pose of 210 ms is
    that of the second query, whose position is then unknown."""
    cuts = {('/ee_pose', 411): 6, ('/ee_pose', 211): 40, ('/wrist', 620): 6}
    found = scan(damaged(tmp_path / 'bag', drive(), cuts), PLAIN)
    assert stamps(found) == [12, 212, 412, 712, 912, 1112]  # 612 has no image of its own
    assert codes(found) == ['lost', 'lost', 'unusable']
    for (_, text), topic in zip(found.problems, ('/ee_pose', '/wrist', '/ee_pose'), strict=True):
        assert topic in text
    assert found.instants[1].position is None
    np.testing.assert_allclose(found.instants[2].position, recorded.position(400), atol=1e-12)
    check_actions(found, lambda begin: begin + 50 <= 1190)  # straight through the holes


def test_a_bag_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path):
    path = recorded.write(tmp_path / 'bag', drive(side=64), 'sqlite3')
    (file,) = path.glob('*.db3')
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = scan(path, PLAIN)
    full = [12, 212, 412, 612, 812, 1012]
    assert stamps(found) == full[: len(found.instants)] and 2 <= len(found.instants) <= 4
    assert codes(found) == ['lost'] and file.name in found.problems[0][1]
    last = ((found.span_ns[1] - T0) // MS - 1) // 10 * 10  # of the poses, each 10 ms
    check_actions(found, lambda begin: begin + 50 <= last)


def test_where_nothing_is_left_of_a_bag_what_was_lost_is_said(tmp_path):
    """All of it is one chunk of the file, which is cut in two."""
    path = recorded.write(tmp_path / 'bag', drive(600))
    (file,) = path.glob('*.mcap')
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=file.name):
        scan(path, PLAIN)


# --- what is refused --------------------------------------------------------------------------


def topics_file(tmp_path, **changes):
    named = {'ee_pose': '/ee_pose', 'joint_states': '/joint_states', **changes}
    lines = [f'{name}: {topic}' for name, topic in named.items()]
    path = tmp_path / 'topics.yaml'
    path.write_text('\n'.join(['images: {primary: /primary, wrist: /wrist}', *lines]))
    return replace(PLAIN, topics=str(path))


def test_topics_of_a_file_are_not_guessed(tmp_path):
    """The twist is not named, so it is not read."""
    rows = drive() + twists(range(0, 1200, 50), numbers=[9] * 6)
    found = read(tmp_path, rows, topics_file(tmp_path))
    assert not found.guessed and found.source == 'ee_pose'
    assert 'twist' not in found.topics and '/twist' in found.there


def test_a_named_topic_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, drive(), topics_file(tmp_path, twist='/nowhere'))
    for text in ("no topic '/nowhere'", '/ee_pose', '/joint_states', '/primary', '/wrist'):
        assert text in str(caught.value)


def test_a_setting_that_cannot_be_used_is_refused_before_a_bag_is_opened():
    PLAIN.check()
    with pytest.raises(ProfileError, match='max_step_m'):
        replace(PLAIN, robot=replace(ROBOT, max_step_m=-1.0)).check()
    with pytest.raises(DataError, match='topics file'):
        replace(PLAIN, topics='nowhere.yaml').check()
