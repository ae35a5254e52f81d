"""The simulator as a process of its own, driven over real topics and services.

One process serves the module; it runs as fast as it can. Waiting is for conditions, never for a
span of time, and every wait ends in a failure that names what did not come.
"""

import collections
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('robosuite', reason='the sim extra is not installed')
rclpy = pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_prune_ros.errors import InputRefused, VlaPruneError
from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.simulator import SimulatorParams
from vla_prune_ros.runtime.messages import read_gripper
from vla_prune_ros.sim.rendering import choose_gl

ROOT = Path(__file__).resolve().parents[2]
DOMAIN = int(os.environ.get('ROS_DOMAIN_ID', 1 + os.getpid() % 100))
ENVIRONMENT = {
    **os.environ,
    'ROS_DOMAIN_ID': str(DOMAIN),
    'PYTHONPATH': str(ROOT),
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
}
WAIT_S = 60.0
SEED = 4
TOPICS = {
    '/clock': Clock,
    '~/image/primary': Image,
    '~/image/wrist': Image,
    '~/ee_pose': PoseStamped,
    '~/joint_states': JointState,
    '~/episode': DiagnosticArray,
}


def start(log, *parameters):
    """The node as a process, its output in the file ``log``."""
    overrides = itertools.chain.from_iterable(('-p', p) for p in parameters)
    command = [
        sys.executable,
        '-m',
        'vla_prune_ros.nodes.simulator',
        '--ros-args',
        '--params-file',
        str(ROOT / 'config' / 'simulator.yaml'),
        *overrides,
    ]
    with open(log, 'wb') as out:
        return subprocess.Popen(
            command,
            env=ENVIRONMENT,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )


def end(process, signal_number=signal.SIGINT):
    """Exit code after a signal."""
    process.send_signal(signal_number)
    try:
        return process.wait(WAIT_S)
    finally:
        process.kill()


def listener(messages):
    """A callback that keeps what comes; rclpy takes no built-in function."""
    return lambda message: messages.append(message)


class Client:
    """Keeps what the simulator publishes, newest last."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        self.context = rclpy.Context()
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node('client', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.seen = {topic: collections.deque(maxlen=4000) for topic in TOPICS}
        for topic, kind in TOPICS.items():
            self.node.create_subscription(
                kind, self.name(topic), listener(self.seen[topic]), interface.sensor_data(100)
            )
        self.twist_out = self.node.create_publisher(
            TwistStamped, self.name('~/twist'), interface.command()
        )
        # The other durability than the simulator's: it must accept both kinds of sender.
        self.gripper_out = self.node.create_publisher(
            JointTrajectory, self.name('~/gripper'), interface.latched()
        )

    @staticmethod
    def name(topic):
        return topic.replace('~', '/simulator')

    def spin_until(self, condition, what):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, f'the simulator ended: {self.log.read_text()}'
            assert time.monotonic() < deadline, f'no {what}: {self.log.read_text()}'
            self.executor.spin_once(timeout_sec=0.05)

    def spin_until_logged(self, text):
        self.spin_until(lambda: text in self.log.read_text(), f'line {text!r} in the log')

    def next(self, topic, count=1):
        """``count`` further messages of a topic."""
        got = []
        subscription = self.node.create_subscription(
            TOPICS[topic], self.name(topic), listener(got), interface.sensor_data(100)
        )
        self.spin_until(lambda: len(got) >= count, f'{count} messages on {topic}')
        self.node.destroy_subscription(subscription)
        return got[:count]

    def call(self, kind, topic, request):
        client = self.node.create_client(kind, self.name(topic))
        self.spin_until(client.service_is_ready, f'service {topic}')
        future = client.call_async(request)
        self.spin_until(future.done, f'answer of {topic}')
        self.node.destroy_client(client)
        return future.result()

    def reset(self):
        return self.call(Trigger, '~/reset', Trigger.Request()).message

    def instruction(self):
        got = []
        subscription = self.node.create_subscription(
            String, self.name('~/instruction'), listener(got), interface.latched()
        )
        self.spin_until(lambda: got, 'latched instruction')
        self.node.destroy_subscription(subscription)
        return got[-1].data

    def episode(self):
        """Key -> text of a further episode message."""
        return {v.key: v.value for v in self.next('~/episode')[0].status[0].values}

    def height(self):
        return self.next('~/ee_pose')[0].pose.position.z

    def send_twist(self, z=0.0, x=0.0):
        message = TwistStamped()
        message.twist.linear.z, message.twist.linear.x = z, x
        self.twist_out.publish(message)

    def move_up(self, steps):
        """Ask for 0.4 m/s upwards at every observation."""
        for _ in range(steps):
            self.send_twist(z=0.4)
            self.next('~/episode')

    def close(self):
        self.node.destroy_node()
        self.executor.shutdown()
        self.context.try_shutdown()


@pytest.fixture(scope='module')
def client(tmp_path_factory):
    try:
        choose_gl()
    except VlaPruneError as error:
        pytest.skip(str(error))
    log = tmp_path_factory.mktemp('simulator') / 'log.txt'
    process = start(log, f'seed:={SEED}', 'real_time_factor:=0.0')
    client = None
    try:
        client = Client(process, log)
        client.spin_until(lambda: all(client.seen.values()), 'message on every topic')
        client.spin_until(lambda: client.twist_out.get_subscription_count() == 1, 'subscription')
        yield client
        assert end(process) == 0, log.read_text()
        assert 'Traceback' not in log.read_text() and 'Exception' not in log.read_text()
    finally:
        if client is not None:
            client.close()
        process.kill()
        process.wait()


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def test_clock_rises_by_the_control_period_from_one_second_on(client):
    times = [nanoseconds(m.clock) for m in client.next('/clock', 20)]
    assert times[0] >= 1_000_000_000
    steps = np.diff(times)
    assert (steps > 0).all() and (steps % 50_000_000 == 0).all()


@pytest.mark.parametrize('camera', ['primary', 'wrist'])
def test_images_are_rgb8_without_padding_and_stamped_in_simulated_time(client, camera):
    image = client.next(f'~/image/{camera}')[0]
    assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 256, 256, 768)
    assert len(image.data) == 768 * 256
    assert image.header.frame_id == f'{camera}_optical'
    assert nanoseconds(image.header.stamp) % 50_000_000 == 0
    pixels = np.frombuffer(image.data, np.uint8).reshape(256, 256, 3)
    assert pixels.std() > 10


def test_one_stamp_joins_all_that_belongs_together(client):
    seen = client.seen
    client.spin_until(lambda: len(seen['~/image/wrist']) > 20, 'images')
    stamps = [{nanoseconds(m.header.stamp) for m in seen[t]} for t in TOPICS if t != '/clock']
    assert set.intersection({nanoseconds(m.clock) for m in seen['/clock']}, *stamps)


def test_joints_and_pose(client):
    joints = client.next('~/joint_states')[0]
    assert list(joints.name) == [
        *(f'panda_joint{i}' for i in range(1, 8)),
        'panda_finger_joint1',
        'panda_finger_joint2',
    ]
    assert len(joints.position) == len(joints.velocity) == 9
    pose = client.next('~/ee_pose')[0]
    assert pose.header.frame_id == 'world'
    q = pose.pose.orientation
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0)


def test_reset_starts_the_next_seed_and_tells_it(client):
    before = client.episode()
    message = client.reset()
    number = int(before['episode']) + 1
    colour = ('red', 'green')[(SEED + number) % 2]
    assert message == f'episode {number} seed {SEED + number} pick up the {colour} cube'
    assert client.instruction() == f'pick up the {colour} cube'
    after = client.episode()
    assert (after['episode'], after['seed']) == (str(number), str(SEED + number))
    assert int(after['step']) < int(before['step']) or int(after['step']) < 20
    assert after['success'] == 'false'


def test_twist_moves_the_arm_and_its_timeout_stops_it(client):
    client.reset()
    low = client.height()
    client.move_up(25)  # about a quarter of 0.4 m/s * 1.25 s: 0.1 m
    assert client.height() - low > 0.05
    client.next('~/ee_pose', 15)  # 0.2 s of timeout and the time to brake
    heights = [p.pose.position.z for p in client.next('~/ee_pose', 15)]
    assert np.ptp(heights) < 2e-3
    told = client.episode()
    assert int(told['commands']) >= 10
    assert 0.05 < float(told['moved_m']) < 0.3


def test_twist_that_is_not_finite_is_refused_by_name(client):
    client.reset()
    client.next('~/ee_pose', 5)
    low = client.height()
    for _ in range(5):
        client.send_twist(z=float('nan'), x=0.3)
        client.next('~/episode')
    assert abs(client.height() - low) < 2e-3
    assert client.episode()['commands'] == '0'
    client.spin_until_logged('/simulator/twist: twist is not finite')


def fingers(client):
    positions = client.next('~/joint_states')[0].position
    return positions[7] - positions[8]


def test_gripper_closes_holds_and_is_open_after_a_reset(client):
    client.reset()
    assert fingers(client) > 0.07
    client.spin_until(lambda: client.gripper_out.get_subscription_count() == 1, 'subscription')
    client.gripper_out.publish(
        JointTrajectory(joint_names=['gripper'], points=[JointTrajectoryPoint(positions=[0.0])])
    )
    client.spin_until(lambda: fingers(client) < 0.01, 'closed gripper')
    client.next('~/joint_states', 10)
    assert fingers(client) < 0.01
    client.reset()
    assert fingers(client) > 0.07


def test_gripper_for_another_joint_is_refused_by_name(client):
    client.gripper_out.publish(JointTrajectory(joint_names=['wrist']))
    client.spin_until_logged("/simulator/gripper: joint_names is ['wrist']")


def test_pause_holds_the_clock_and_a_reset_works_meanwhile(client):
    assert client.call(SetBool, '~/pause', SetBool.Request(data=True)).message == 'paused'
    client.call(SetBool, '~/pause', SetBool.Request(data=True))  # a step in flight is through now
    before = nanoseconds(client.seen['/clock'][-1].clock)
    client.reset()
    client.spin_until(
        lambda: nanoseconds(client.seen['/clock'][-1].clock) > before, 'clock of the new episode'
    )
    count = len(client.seen['/clock'])
    for _ in range(10):
        client.executor.spin_once(timeout_sec=0.05)
    assert len(client.seen['/clock']) == count
    assert client.call(SetBool, '~/pause', SetBool.Request(data=False)).message == 'running'
    client.next('/clock', 3)


def test_time_never_went_back_over_all_resets(client):
    for topic, messages in client.seen.items():
        times = [nanoseconds(m.clock if topic == '/clock' else m.header.stamp) for m in messages]
        assert (np.diff(times) > 0).all(), topic
    episodes = [int(m.status[0].values[0].value) for m in client.seen['~/episode']]
    assert len(set(episodes)) > 1 and episodes == sorted(episodes)


def test_sigterm_during_the_start_ends_without_a_traceback(tmp_path):
    log = tmp_path / 'log.txt'
    process = start(log)
    status, sigterm = Path(f'/proc/{process.pid}/status'), 1 << (signal.SIGTERM - 1)
    while not int(re.search(r'SigCgt:\s*(\w+)', status.read_text())[1], 16) & sigterm:
        assert process.poll() is None
        time.sleep(0.01)  # until Python's own start is over; it dies of the signal as all do
    assert end(process, signal.SIGTERM) == 0, log.read_text()
    assert 'Traceback' not in log.read_text()


def test_a_bad_parameter_is_one_line_and_exit_code_one(tmp_path):
    log = tmp_path / 'log.txt'
    process = start(log, 'gl:=vulkan')
    assert process.wait(WAIT_S) == 1
    lines = log.read_text().strip().splitlines()
    assert len(lines) == 1 and 'gl' in lines[0] and 'vulkan' in lines[0]


def test_shipped_parameter_file_holds_the_defaults():
    text = (ROOT / 'config' / 'simulator.yaml').read_text(encoding='utf-8')
    shipped = yaml.safe_load(text)['/**/simulator']['ros__parameters']
    defaults = asdict(SimulatorParams())
    assert shipped == {**defaults, 'tasks': ['']}


@pytest.mark.parametrize(
    ('message', 'reason'),
    [
        (JointTrajectory(), 'joint_names'),
        (JointTrajectory(joint_names=['gripper', 'gripper']), 'joint_names'),
        (JointTrajectory(joint_names=['gripper']), 'points'),
        (JointTrajectory(joint_names=['gripper'], points=[JointTrajectoryPoint()]), 'points'),
    ],
)
def test_gripper_goal_refuses_what_it_cannot_read(message, reason):
    with pytest.raises(InputRefused) as refusal:
        read_gripper(message, 'gripper')
    assert refusal.value.reason == reason
