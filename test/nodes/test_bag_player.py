"""The bag player against subscribers that know nothing of it, and a policy that listens to it.

Expected bytes are those that were written to the bag, as ``rosbags`` serialises them; times are
the recorded ones; chunks come from ``load_policy`` on what a replay without ROS reads.
"""

import contextlib
import itertools
import json
import signal
import sqlite3

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')
pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer
from bag_frames import frames
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import ExternalShutdownException
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_prune_ros import load_policy
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.topics import guess_topics
from vla_prune_ros.errors import ProfileError, VlaPruneError
from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.client import Client
from vla_prune_ros.nodes.tools.bag_player import BagPlayerNode
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.runtime.messages import to_ns

STORE, T0, MS = writer.STORE, writer.T0, writer.MS
WAIT_S = 120.0
TASK = 'pick up the red cube'
CHUNK = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz', 'gripper')
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
LATE = 4 * MS  # from stamp to receipt
WIDE = {'max_step_m': 1.0, 'max_step_rad': 3.0}  # nothing is scaled down
# Topic of the bag -> where it is heard.
HEARD = {
    '/task': '/vla_policy/instruction',
    '/arm/pose': '/vla_policy/ee_pose',
    '/joint_states': '/vla_policy/joint_states',
    '/cam/primary': '/vla_policy/image/primary',
    '/cam/wrist': '/vla_policy/image/wrist',
    '/servo/cmd': '/recorded/servo/cmd',
    '/chunk_executor/pose_target': '/recorded/chunk_executor/pose_target',
    '/chunk_executor/gripper': '/recorded/chunk_executor/gripper',
    '/vla_policy/action_chunk': '/recorded/vla_policy/action_chunk',
}
KINDS = (String, PoseStamped, JointState, Image, Image, TwistStamped, PoseStamped)
KINDS = dict(zip(HEARD.values(), (*KINDS, JointTrajectory, JointTrajectory), strict=True))
INPUTS = [out for out in HEARD.values() if out.startswith('/vla_policy')]


def instant(i, period_ns=50 * MS, stamp_ns=None):
    """All messages of one instant, the state first."""
    stamp = T0 + i * period_ns if stamp_ns is None else stamp_ns
    at = T0 + i * period_ns + LATE
    random = np.random.default_rng(i)
    pixels = [random.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(2)]
    return [
        ('/arm/pose', at, writer.pose_message(stamp, (0.01 * i, 0.1, 1.1), (1, 0, 0, 0.02 * i))),
        ('/joint_states', at, writer.joints_message(stamp, FINGERS, (0.02, -0.001 * i))),
        ('/cam/primary', at + MS, writer.image_message(stamp, pixels[0])),
        ('/cam/wrist', at + 2 * MS, writer.image_message(stamp, pixels[1])),
        ('/servo/cmd', at + 3 * MS, writer.twist_message(stamp, (i, 0, 0, 0, 0, 0))),
        ('/chunk_executor/pose_target', at + 3 * MS, writer.pose_message(stamp, (i, 0, 0))),
    ]


def rows(count=12, **options):
    """A short recording: some topics at 20 Hz, others once."""
    chunk = writer.trajectory_message(T0, CHUNK, np.arange(14).reshape(2, 7) / 100, 50 * MS)
    gripper = writer.trajectory_message(T0, ['gripper'], [[1.0]], 300 * MS)
    return [
        ('/task', T0, writer.text_message(TASK)),
        *(row for i in range(count) for row in instant(i, **options)),
        ('/vla_policy/action_chunk', T0 + 10 * MS, chunk),
        ('/chunk_executor/gripper', T0 + 10 * MS, gripper),
    ]


def recorded(written, topic):
    messages = [message for name, _, message in written if name == topic]
    return [bytes(STORE.serialize_cdr(m, m.__msgtype__)) for m in messages]


@pytest.fixture(scope='module')
def written():
    return rows()


@pytest.fixture(scope='module')
def bag(tmp_path_factory, written):
    return writer.write(tmp_path_factory.mktemp('bags') / 'run', written)


@pytest.fixture
def player(listener):
    """Makes a bag player that plays whenever the listener, or another client, waits."""
    made = []

    def make(path, client=listener.client, **parameters):
        values = {'bag': str(path), 'wait_for_subscribers_s': WAIT_S, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        made.append(BagPlayerNode(parameter_overrides=overrides))
        client.executor.add_node(made[-1])
        return made[-1]

    yield make
    for node in made:
        node.destroy_node()


class Listener:
    """Keeps what it hears: ``heard`` topic -> serialised messages, ``order`` of all of them."""

    def __init__(self):
        self.client = Client('listener')
        self.heard, self.order = {}, []

    def listen(self, kind, topic, profile=None):
        self.heard[topic] = []

        def keep(raw):
            self.heard[topic].append(raw)
            self.order.append((topic, raw))

        profile = profile or interface.sensor_data(200)
        self.client.create_subscription(kind, topic, keep, profile, raw=True)

    def listen_to_the_inputs(self):
        for topic in INPUTS:
            profile = interface.latched() if 'instruction' in topic else None
            self.listen(KINDS[topic], topic, profile)

    def listen_to_all(self):
        """Inputs last: the player begins when they are heard."""
        commands = [topic for topic in KINDS if topic not in INPUTS]
        for topic in commands:
            self.listen(KINDS[topic], topic)
        self.until(lambda: all(map(self.client.count_publishers, commands)), 'publishers')
        self.listen_to_the_inputs()

    def clocks(self):
        return [clock_ns(raw) for raw in self.heard['/clock']]

    def until(self, done, what):
        assert self.client.wait(done, WAIT_S), f'no {what}'

    def until_over(self):
        with pytest.raises(ExternalShutdownException):  # ends the player's process
            self.client.spin_for(WAIT_S)
        self.client.spin_for(0.1)


@pytest.fixture
def listener(ros):
    one = Listener()
    yield one
    one.client.destroy_node()


def clock_ns(raw):
    time = STORE.deserialize_cdr(raw, 'builtin_interfaces/msg/Time')  # all that a Clock holds
    return time.sec * 10**9 + time.nanosec


def stamp_of(raw, kind='geometry_msgs/msg/PoseStamped'):
    return to_ns(STORE.deserialize_cdr(raw, kind).header.stamp)


def test_every_message_is_heard_with_its_bytes_and_in_order(player, listener, bag, written):
    node = player(bag)
    listener.listen_to_all()
    listener.until_over()
    for topic, out in HEARD.items():
        assert listener.heard[out] == recorded(written, topic), out
    sent = {topic: len(recorded(written, topic)) for topic in HEARD}
    played = {'bag': str(bag), 'finished': True, 'passes': 1, 'sent': sent}
    assert node.report == {**played, 'damaged': {}, 'lost': []}


def test_the_clock_is_that_of_the_bag_and_goes_on_between_messages(player, listener, tmp_path):
    """Messages are 200 ms apart: what is in between is the clock's own."""
    written = rows(4, period_ns=200 * MS)
    listener.listen(Clock, '/clock')
    player(writer.write(tmp_path / 'bag', written))
    listener.listen_to_all()
    listener.until_over()
    clocks = listener.clocks()
    receipts = [at for _, at, _ in written]
    assert (clocks[0], clocks[-1]) == (T0, max(receipts))
    assert clocks == sorted(set(clocks))
    instants = sorted(set(receipts))
    pauses = [(a, b) for a, b in itertools.pairwise(instants) if b - a > 100 * MS]
    assert len(pauses) == 3 and all(any(a < c < b for c in clocks) for a, b in pauses)
    newest = 0
    for topic, raw in listener.order:  # nobody receives a stamp from his future
        if topic == '/clock':
            newest = clock_ns(raw)
        elif topic == '/vla_policy/ee_pose':
            assert stamp_of(raw) + LATE - MS < newest


def test_a_loop_begins_again_with_its_time(player, listener, bag, written):
    listener.listen(Clock, '/clock')
    node = player(bag, loop=True)
    listener.listen_to_all()
    poses = listener.heard['/vla_policy/ee_pose']
    once = recorded(written, '/arm/pose')
    listener.until(lambda: len(poses) > 3 * len(once), 'fourth pass')
    assert poses[: 3 * len(once)] == 3 * once
    clocks = np.array(listener.clocks())
    back = np.flatnonzero(np.diff(clocks) < 0)
    assert len(back) >= 3
    assert (clocks[0], *clocks[back[:3] + 1]) == (T0,) * 4
    assert set(clocks[back]) == {max(at for _, at, _ in written)}
    assert node.report['passes'] >= 3 and not node.report['finished']
    node.destroy_node()
    sent = len(poses)
    listener.client.spin_for(0.2)
    assert len(poses) == sent


def test_new_stamps_rise_through_loops_at_their_recorded_distances(player, listener, bag):
    begin = listener.client.get_clock().now().nanoseconds
    node = player(bag, loop=True, clock=False, restamp=True)
    listener.listen_to_all()
    poses = listener.heard['/vla_policy/ee_pose']
    listener.until(lambda: len(poses) > 30, 'third pass')
    stamps = np.array([stamp_of(raw) for raw in poses[:24]])
    steps = np.diff(stamps)
    assert (steps > 0).all()
    inside = np.delete(steps, 11)  # but for the seam
    assert np.abs(inside - 50 * MS).max() <= 1
    end = listener.client.get_clock().now().nanoseconds
    assert begin - LATE < stamps[0] and stamps[-1] < end
    assert node.count_publishers('/clock') == 0
    pixels = listener.heard['/vla_policy/image/primary']
    images = [stamp_of(raw, 'sensor_msgs/msg/Image') for raw in pixels[:24]]
    assert np.abs(stamps - images).max() <= 1  # one instant still has one stamp


def test_compressed_images_have_their_own_topic_and_the_wrong_one_is_named(
    player, listener, tmp_path
):
    kind = writer.TYPES['sensor_msgs/msg/CompressedImage']
    data = np.arange(30, dtype=np.uint8)
    written = [
        (topic, at, kind(header=m.header, format='png', data=data) if 'cam' in topic else m)
        for topic, at, m in rows(3)
    ]
    node = player(writer.write(tmp_path / 'bag', written))
    listener.listen(Image, '/vla_policy/image/primary')
    hint = "set the policy's image_transport to compressed"
    listener.until(lambda: hint in str(node.unheard()), 'hint')
    for topic in INPUTS:
        image = '/image/' in topic
        listener.listen(CompressedImage if image else KINDS[topic], topic + '/compressed' * image)
    listener.until_over()
    heard = listener.heard['/vla_policy/image/wrist/compressed']
    assert heard == recorded(written, '/cam/wrist')


def test_topics_are_taken_from_a_file_and_the_target_may_be_elsewhere(
    player, listener, tmp_path, bag, written
):
    file = tmp_path / 'topics.yaml'
    file.write_text(
        'images: {primary: /cam/wrist, wrist: /cam/primary}\n'
        'ee_pose: /arm/pose\njoint_states: /joint_states\n'
    )
    node = player(bag, topics=str(file), target='/robot/vla', rate=2.0, start_offset_s=0.4)
    for stream in ('image/primary', 'image/wrist', 'ee_pose', 'joint_states'):
        listener.listen(KINDS[f'/vla_policy/{stream}'], f'/robot/vla/{stream}')
    listener.until_over()
    # Instants are 50 ms apart: from the ninth on.
    heard = listener.heard['/robot/vla/image/primary']
    assert heard == recorded(written, '/cam/wrist')[8:]
    assert set(node.report['sent']) == {'/cam/wrist', '/cam/primary', '/arm/pose', '/joint_states'}


def test_stamps_of_a_simulator_give_its_time(player, listener, tmp_path):
    """Recorded on wall time, stamped from 1 s on: the clock has to be that of the stamps."""
    second = 10**9
    written = [row for i in range(6) for row in instant(i, stamp_ns=second + i * 50 * MS)]
    listener.listen(Clock, '/clock')
    player(writer.write(tmp_path / 'bag', written))
    listener.listen_to_the_inputs()
    listener.until_over()
    clocks = listener.clocks()
    assert clocks == sorted(clocks) and (clocks[0], clocks[-1]) == (second, second + 250 * MS)


def test_what_is_damaged_is_counted_and_the_rest_is_heard(player, listener, tmp_path, written):
    """The fourth pose is cut short inside a good file, and the bag names a file that is gone."""
    path = writer.write(tmp_path / 'bag', written, 'sqlite3')
    (file,) = path.glob('*.db3')
    with contextlib.closing(sqlite3.connect(file)) as data, data:
        found = "topic_id = (SELECT id FROM topics WHERE name = '/arm/pose') ORDER BY timestamp"
        ids = [row[0] for row in data.execute(f'SELECT id FROM messages WHERE {found}')]
        data.execute('UPDATE messages SET data = substr(data, 1, 60) WHERE id = ?', [ids[3]])
    metadata = path / 'metadata.yaml'
    text = metadata.read_text(encoding='utf-8')
    metadata.write_text(text.replace(file.name, 'gone.db3'), encoding='utf-8')
    node = player(path)
    listener.listen_to_all()
    listener.until_over()
    want = recorded(written, '/arm/pose')
    assert listener.heard['/vla_policy/ee_pose'] == want[:3] + want[4:]
    assert listener.heard['/vla_policy/image/wrist'] == recorded(written, '/cam/wrist')
    report = node.report
    assert report['finished'] and report['damaged'] == {'/arm/pose': 1}
    assert [line.split()[0] for line in report['lost']] == ['gone.db3']


def test_a_recorded_chunk_never_goes_out_as_the_policys_own(player, bag):
    for parameters in ({'recorded_prefix': ''}, {'target': '/recorded/vla_policy/'}):
        with pytest.raises(ProfileError, match='action_chunk, which is for the chunks of the'):
            player(bag, **parameters)
    player(bag, recorded_prefix='', target='/other')


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'path': ''}, 'parameter bag is empty'),
        ({'path': 'nowhere'}, 'bag nowhere does not exist'),
        ({'restamp': True}, 'clock and restamp are both true'),
        ({'rate': 0.0}, 'parameter rate: .*Recorded seconds per wall second'),
        ({'profile': 'spot'}, "unknown profile 'spot'"),
        ({'profile': 'aloha'}, r"named for 'left_wrist'; name one of: .*/cam/wrist \(sensor_msgs"),
        ({'topics': 'none.yaml'}, 'topics file none.yaml cannot be read'),
        ({'target': '/vla policy'}, "'/vla policy/.*' is no name of a topic"),
        ({'start_offset_s': 7.0}, 'is over before 7 s'),
    ],
)
def test_what_is_not_usable_is_one_line(player, bag, parameters, words):
    with pytest.raises(VlaPruneError, match=words):
        player(**{'path': bag, **parameters})


def test_a_policy_answers_a_looping_bag_in_every_loop_as_a_replay_does(
    rig, player, tmp_path, micro
):
    """Chunks by stamp, over two seams, are those of the observations that are read without ROS."""
    path = writer.write(tmp_path / 'bag', rows(24))
    with Bag(path) as bag:
        seen = {o.stamp_ns: o for o in frames(bag, guess_topics(bag, LIBERO), LIBERO, period_s=0)}
    one = rig(use_sim_time=True, instruction='', replan_period_s=0.1, **WIDE)
    one.robot.silent = True
    one.bring_up()
    player(path, one.robot.client, loop=True)
    chunks = one.robot.chunks

    def stamps():
        return np.array([to_ns(chunk.header.stamp) for chunk in chunks], np.int64)

    one.robot.until(lambda: (np.diff(stamps()) < 0).sum() >= 3, 'chunks of a fourth loop')
    policy = load_policy(micro)
    want = {stamp: policy.infer(o).actions * LIBERO.action_scale for stamp, o in seen.items()}
    for stamp, chunk in zip(stamps(), chunks, strict=True):
        actions = want[stamp].copy()
        actions[:, 6] = actions[:, 6].clip(0, 1)
        found = np.array([point.positions for point in chunk.points])
        np.testing.assert_allclose(found, actions, rtol=0, atol=1e-6)


def test_the_command_plays_and_ends_with_the_bag(command, listener, tmp_path, bag, written):
    one = command('play', bag, '--json', 'result.json')
    listener.listen_to_the_inputs()
    listener.until(lambda: one.process.poll() is not None, 'end')
    assert one.wait() == 0, one.err
    listener.client.spin_for(0.1)
    for topic in ('/arm/pose', '/cam/wrist', '/task'):
        pairs = zip(listener.heard[HEARD[topic]], recorded(written, topic), strict=True)
        # On its way between processes a message is filled up to a multiple of four bytes.
        assert all(got[: len(want)] == want and len(got) < len(want) + 4 for got, want in pairs)
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['ok'] and result['finished'] and sum(result['sent'].values()) == len(written)
    assert 'topics guessed by type and name: primary = /cam/primary' in one.err
    assert 'lost: nothing' in one.err


@pytest.mark.parametrize(('loop', 'code'), [(['--loop'], 0), ([], 130)])
def test_ctrl_c_ends_the_command_at_once(command, listener, tmp_path, loop, code):
    """In the middle of a pause of ten minutes in the recording."""
    pause = instant(12_000)
    one = command('play', writer.write(tmp_path / 'bag', rows() + pause), *loop)
    listener.listen_to_the_inputs()
    listener.until(lambda: listener.heard['/vla_policy/ee_pose'], 'pose')
    one.process.send_signal(signal.SIGINT)
    assert one.wait() == code, one.err
