"""A bag as the node would have lived it. Expected frames follow from the node's documented rules
(docs/interface.md) and from the numbers that were written: the x of a pose is its number."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer
from bag_frames import frames, requests

from vla_prune_ros.bags.events import BAG_READER, Replay
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.topics import Topics, guess_topics, load_topics
from vla_prune_ros.errors import DataError, InputRefused
from vla_prune_ros.profiles import BRIDGE, LIBERO
from vla_prune_ros.runtime.params import SessionParams
from vla_prune_ros.runtime.session import Observer

T0, MS, write = writer.T0, writer.MS, writer.write
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
TOPICS = Topics(
    {'primary': '/cam/primary', 'wrist': '/cam/wrist'}, '/ee', '/joints', instruction='/task'
)
TASK = 'pick up the cube'


def picture(number, camera=0):
    """4 x 4 pixels that tell the frame's number and, first and last pixel, its way up."""
    pixels = np.full((4, 4, 3), number % 256, np.uint8)
    pixels[0, 0] = (1, camera, 0)
    return pixels


def episode(seconds, start=T0, delay=5 * MS, receipt=None):
    """Cameras at 20 Hz, states at 100 Hz, all with one delay; stamps may be of another clock."""
    shift = (start if receipt is None else receipt) - start + delay
    rows = []
    for i in range(round(100 * seconds)):
        stamp = start + i * 10 * MS
        rows.append(('/ee', stamp + shift, writer.pose_message(stamp, (i, 0, 0.5))))
        state = writer.joints_message(stamp, FINGERS, (0.01, -0.02))
        rows.append(('/joints', stamp + shift, state))
    for i in range(round(20 * seconds)):
        stamp = start + i * 50 * MS
        for camera, topic in enumerate(('/cam/primary', '/cam/wrist')):
            image = writer.image_message(stamp, picture(i, camera))
            rows.append((topic, stamp + shift, image))
    return rows


def stamps(found, since=T0):
    return [(f.pair.stamp_ns - since) // MS for f in found]


def replay(path, profile=LIBERO, topics=TOPICS, instruction=TASK, period_s=None, **options):
    """All requests, and the observer for its losses."""
    params = SessionParams(instruction=instruction, **options)
    with Bag(path) as bag:
        return requests(bag, topics, profile, params, period_s=period_s)


def events(bag, topics, extra=(), clock='auto'):
    observer = Observer(LIBERO, SessionParams(instruction=TASK), BAG_READER)
    return list(Replay(bag, topics, observer, extra, clock).events()), observer


NO_TASK = replace(TOPICS, instruction='')


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_frames_come_at_the_period_with_the_state_of_their_instant(tmp_path, storage):
    path = write(tmp_path / 'bag', episode(1.0), storage)
    found, _ = replay(path, topics=NO_TASK)
    assert stamps(found) == [0, 200, 400, 600, 800]
    with Bag(path) as bag:
        seen = frames(bag, NO_TASK, LIBERO, SessionParams(instruction=TASK))
    assert [o.stamp_ns for o in seen] == [f.pair.stamp_ns for f in found]
    assert [o.proprio[0] for o in seen] == [0, 20, 40, 60, 80]
    assert [int(o.images['wrist'][2, 2, 0]) for o in seen] == [0, 4, 8, 12, 16]
    assert seen[0].instruction == TASK


def test_the_state_is_that_of_the_node(tmp_path):
    """Half a turn about x and a little about z: rotation vector by hand, fingers signed, base
    moved, picture turned."""
    angle = 0.1
    quat = (math.cos(angle / 2), math.sin(angle / 2), 0, 0)  # x by pi, then z by 0.1
    rows = [
        ('/ee', T0, writer.pose_message(T0, (1, 2, 3), quat)),
        ('/joints', T0, writer.joints_message(T0, (*FINGERS, 'arm'), (0.01, 0.02, 9))),
        ('/cam/primary', T0, writer.image_message(T0, picture(7))),
        ('/cam/wrist', T0, writer.image_message(T0, picture(7))),
    ]
    params = SessionParams(
        instruction=TASK,
        rotate_180=('wrist',),
        gripper_signs=(1, -1),
        pose_offset_m=(-1.0, 0.0, 0.5),
    )
    with Bag(write(tmp_path / 'bag', rows)) as bag:
        (seen,) = frames(bag, NO_TASK, LIBERO, params, rotation_mean=(3, 0, 0))
        (other,) = frames(bag, NO_TASK, LIBERO, params, rotation_mean=(-3, 0, 0))
    rotation = np.pi * np.array((math.cos(angle / 2), math.sin(angle / 2), 0))
    np.testing.assert_allclose(seen.proprio, [0, 2, 3.5, *rotation, 0.01, -0.02], atol=1e-12)
    np.testing.assert_allclose(other.proprio[3:6], -rotation, atol=1e-12)
    assert tuple(seen.images['primary'][0, 0]) == (1, 0, 0)
    assert tuple(seen.images['wrist'][3, 3]) == (1, 0, 0)


@pytest.mark.parametrize('order', [1, -1])
def test_what_is_received_together_needs_no_order(tmp_path, order):
    """A simulator's bag: all messages of an instant have one receipt, states perhaps last."""
    rows = episode(0.5, delay=0)[::order]
    found, _ = replay(write(tmp_path / 'bag', rows), topics=NO_TASK, period_s=0)
    assert stamps(found) == list(range(0, 500, 50))
    for f in found:
        assert {m.stamp_ns for m in f.pair.items.values()} == {f.pair.stamp_ns}


def test_a_looping_bag_gives_the_same_frames_in_each_pass(tmp_path):
    rows = [row for i in range(3) for row in episode(1.0, receipt=T0 + 10**14 + i * 10**9)]
    found, _ = replay(write(tmp_path / 'bag', rows), topics=NO_TASK)
    assert stamps(found) == [0, 200, 400, 600, 800] * 3
    passes = [[f.epoch for f in found[i : i + 5]] for i in (0, 5, 10)]
    assert all(len(set(epochs)) == 1 for epochs in passes)
    assert passes[0] < passes[1] < passes[2]


def test_stamps_of_a_simulator_need_no_clock(tmp_path):
    """Simulated seconds from 1 on, received at wall time, at half speed and late."""
    start = 10**9
    rows = [
        (topic, T0 + 2 * (receipt - start), message)
        for topic, receipt, message in episode(1.0, start=start)
    ]
    found, run = replay(write(tmp_path / 'bag', rows), topics=NO_TASK)
    assert stamps(found, start) == [0, 200, 400, 600, 800]
    assert not run.pairing.losses


def test_time_that_jumps_ahead_starts_afresh(tmp_path):
    rows = episode(0.5) + episode(0.5, start=T0 + 3 * 10**9)
    found, run = replay(write(tmp_path / 'bag', rows), topics=NO_TASK)
    assert stamps(found) == [0, 200, 400, 3000, 3200, 3400]
    assert [f.epoch for f in found] == [found[0].epoch] * 3 + [found[3].epoch] * 3
    assert found[3].epoch > found[0].epoch and run.pairing.losses['clock_jump'] == 1


def test_messages_behind_the_newest_are_refused(tmp_path):
    rows = episode(0.5)
    late = ('/ee', T0 + 206 * MS, writer.pose_message(T0 + 170 * MS, (999, 0, 0)))
    with Bag(write(tmp_path / 'bag', [*rows, late])) as bag:
        found, run = events(bag, NO_TASK)
    refused = [e for e in found if e.refusal]
    assert [e.refusal.reason for e in refused] == ['out_of_order']
    assert run.pairing.losses == {'out_of_order': 1}


def test_the_task_comes_from_the_bag(tmp_path):
    rows = episode(1.0)
    rows.append(('/task', T0 + 300 * MS, writer.text_message(' Pick up  the CUBE. ')))
    rows.append(('/task', T0 + 500 * MS, writer.text_message('pick up the cube')))
    rows.append(('/task', T0 + 620 * MS, writer.text_message('stack it')))
    rows.append(('/task', T0 + 640 * MS, writer.text_message(' . ')))
    path = write(tmp_path / 'bag', rows)
    found, _ = replay(path, instruction='')
    # 295 ms: the pair of 300 ms is received at 305 ms; 620 ms: the pair of 650 ms is the next.
    assert stamps(found) == [300, 500, 650, 850]
    assert [f.instruction for f in found] == [TASK, TASK, 'stack it', 'stack it']
    assert found[1].epoch < found[2].epoch
    before, _ = replay(path, instruction='wait')
    assert before[0].instruction == 'wait' and stamps(before)[0] == 0
    assert replay(path, topics=NO_TASK, instruction='')[0] == []


def test_synchronous_stepping_asks_once_a_chunk(tmp_path):
    """Eight steps of 50 ms; a state of another stamp than the images is not paired."""
    rows = episode(1.0, delay=0)
    found, _ = replay(write(tmp_path / 'bag', rows), topics=NO_TASK, stepping='synchronous')
    assert stamps(found) == [0, 400, 800]
    rows = [r for r in rows if r[0] != '/ee' or r[1] != T0 + 400 * MS]
    found, _ = replay(write(tmp_path / 'odd', rows), topics=NO_TASK, stepping='synchronous')
    assert stamps(found) == [0, 450, 850]


def test_a_broken_image_costs_its_frame_alone(tmp_path):
    rows = episode(0.5)
    for topic, receipt, message in rows:
        if topic == '/cam/wrist' and receipt == T0 + 205 * MS:
            message.data = message.data[:-3]
    with Bag(write(tmp_path / 'bag', rows)) as bag:
        found, run = requests(bag, NO_TASK, LIBERO, SessionParams(instruction=TASK))
        assert stamps(found) == [0, 200, 400]
        for request in (found[0], found[2]):
            run.observe(request.pair.items, TASK, request.stamp_ns)
        with pytest.raises(InputRefused, match="camera 'wrist'"):
            run.observe(found[1].pair.items, TASK, found[1].stamp_ns)


def test_extra_streams_pass_unpaired(tmp_path):
    rows = episode(0.2)
    rows += [('/twist', T0 + i * MS, writer.twist_message(0, np.zeros(6))) for i in range(3)]
    topics = replace(NO_TASK, twist='/twist')
    with Bag(write(tmp_path / 'bag', rows)) as bag:
        found, _ = events(bag, topics, ['twist'])
        assert sum(e.stream == 'twist' for e in found) == 3
        silent, _ = events(bag, topics)
        assert all(e.stream != 'twist' for e in silent)


def test_a_stream_without_a_topic_is_named(tmp_path):
    path = write(tmp_path / 'bag', episode(0.1))
    with Bag(path) as bag:
        for topics, name in (
            (replace(TOPICS, ee_pose=''), 'ee_pose'),
            (replace(TOPICS, images={'primary': '/cam/primary'}), 'wrist'),
            (replace(TOPICS, joint_states='/nothing'), '/nothing'),
            (replace(TOPICS, joint_states='/ee'), '/ee'),
            (replace(NO_TASK, images=dict.fromkeys(LIBERO.cameras, '/cam/wrist')), 'several'),
            (replace(NO_TASK, pose_target=TOPICS.ee_pose), "topic '/ee' is named for several"),
        ):
            with pytest.raises(DataError, match=name):
                events(bag, topics)
        with pytest.raises(DataError, match='clock'):
            events(bag, NO_TASK, clock='wall')


def test_topics_are_guessed_by_type_and_name(tmp_path):
    rows = episode(0.1)
    rows.append(('/tf_pose/pose_target', T0, writer.pose_message(T0)))
    rows.append(('/cmd', T0, writer.twist_message(T0, np.zeros(6))))
    rows.append(('/vla/gripper', T0, writer.trajectory_message(T0, ['g'], [[1]], MS)))
    rows.append(('/task', T0, writer.text_message('x')))
    with Bag(write(tmp_path / 'bag', rows)) as bag:
        assert guess_topics(bag, LIBERO) == replace(
            TOPICS, pose_target='/tf_pose/pose_target', twist='/cmd', gripper='/vla/gripper'
        )
        # Two topics for a camera that is in neither's name: nothing is guessed.
        assert guess_topics(bag, replace(BRIDGE, cameras=('front',))).images == {}
    rows = [('/x/image_raw', T0, writer.image_message(T0, picture(0)))]
    with Bag(write(tmp_path / 'only', rows)) as bag:
        assert guess_topics(bag, BRIDGE).images == {'primary': '/x/image_raw'}


def test_topics_come_from_a_file(tmp_path):
    path = tmp_path / 'topics.yaml'
    path.write_text('images: {primary: /a, wrist: /b}\nee_pose: /c\njoint_states: /d\n')
    assert load_topics(path) == Topics({'primary': '/a', 'wrist': '/b'}, '/c', '/d')
    for text in ('camera: /a', 'images: /a', 'ee_pose: {a: /b}', '- a', 'images: {a: 3}', 'a: ['):
        path.write_text(text)
        with pytest.raises(DataError, match='topics'):
            load_topics(path)
