"""The simulator as a process of its own, driven over real topics and services.

One process serves the module; it runs as fast as it can. Waiting is for conditions, never for a
span of time, and every wait ends in a failure that names what did not come.
"""

import collections
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
pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.client import Client
from vla_prune_ros.nodes.simulator import SimulatorParams
from vla_prune_ros.runtime.messages import status_values, to_ns

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
SEED = 4
PERIOD_NS = 50_000_000
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
    command = [sys.executable, '-m', 'vla_prune_ros.nodes.simulator', '--ros-args']
    command += ['--params-file', str(ROOT / 'config' / 'simulator.yaml')]
    command += [word for p in parameters for word in ('-p', p)]
    with open(log, 'wb') as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )


def end(process, signal_number=signal.SIGINT):
    """Exit code after a signal."""
    process.send_signal(signal_number)
    try:
        return process.wait(WAIT_S)
    finally:
        process.kill()


def stamp(message):
    return to_ns(message.clock if isinstance(message, Clock) else message.header.stamp)


class Simulator:
    """Keeps what the simulator publishes, newest last."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        self.client = Client('client', idle=self.check)
        self.seen = {topic: collections.deque(maxlen=4000) for topic in TOPICS}
        for topic in TOPICS:
            self.listen(topic, self.seen[topic])
        publisher = self.client.create_publisher
        self.twist_out = publisher(TwistStamped, '/simulator/twist', interface.command())
        # The other durability than the simulator's: it must accept both kinds of sender.
        self.gripper_out = publisher(JointTrajectory, '/simulator/gripper', interface.latched())

    def check(self):
        assert self.process.poll() is None, f'the simulator ended: {self.log.read_text()}'

    def listen(self, topic, into, kind=None, qos=None):
        return self.client.create_subscription(
            kind or TOPICS[topic],
            topic.replace('~', '/simulator'),
            lambda message: into.append(message),
            qos or interface.sensor_data(100),
        )

    def until(self, condition, what):
        assert self.client.wait(condition, WAIT_S), f'no {what}: {self.log.read_text()}'

    def until_logged(self, text):
        self.until(lambda: text in self.log.read_text(), f'line {text!r} in the log')

    def next(self, topic, count=1, **how):
        """``count`` messages that were sent after this call."""
        got = []
        subscription = self.listen(topic, got, **how)
        self.until(lambda: len(got) >= count, f'{count} messages on {topic}')
        self.client.destroy_subscription(subscription)
        return got[:count]

    def reset(self):
        return self.client.trigger('/simulator/reset')

    def episode(self):
        return status_values(self.next('~/episode')[0].status[0])

    def heights(self, count=1):
        return np.array([m.pose.position.z for m in self.next('~/ee_pose', count)])

    def opening(self):
        positions = self.seen['~/joint_states'][-1].position
        return positions[7] - positions[8]

    def send_twist(self, count, z, x=0.0):
        """Ask for this velocity at ``count`` observations."""
        message = TwistStamped()
        message.twist.linear.z, message.twist.linear.x = z, x
        episodes = self.seen['~/episode']
        for _ in range(count):
            before = stamp(episodes[-1])
            self.twist_out.publish(message)
            self.until(lambda newer=before: stamp(episodes[-1]) > newer, 'observation')


@pytest.fixture(scope='module')
def simulator(ros, renderer, tmp_path_factory):
    log = tmp_path_factory.mktemp('simulator') / 'log.txt'
    process = start(log, f'seed:={SEED}', 'real_time_factor:=0.0')
    one = Simulator(process, log)
    try:
        one.until(lambda: all(one.seen.values()), 'message on every topic')
        outs = (one.twist_out, one.gripper_out)
        one.until(lambda: all(o.get_subscription_count() == 1 for o in outs), 'subscriptions')
        yield one
        assert end(process) == 0, log.read_text()
        assert 'Traceback' not in log.read_text() and 'Exception' not in log.read_text()
    finally:
        one.client.destroy_node()
        process.kill()
        process.wait()


def test_an_observation_is_whole_and_of_one_stamp(simulator):
    seen = simulator.seen
    simulator.until(lambda: len(seen['~/image/wrist']) > 20, 'images')
    assert set.intersection(*({stamp(m) for m in messages} for messages in seen.values()))
    for camera in ('primary', 'wrist'):
        image = seen[f'~/image/{camera}'][-1]
        assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 256, 256, 768)
        assert len(image.data) == 768 * 256
        assert image.header.frame_id == f'{camera}_optical'
        assert np.frombuffer(image.data, np.uint8).std() > 10
    joints, pose = seen['~/joint_states'][-1], seen['~/ee_pose'][-1]
    fingers = ['panda_finger_joint1', 'panda_finger_joint2']
    assert list(joints.name) == [*(f'panda_joint{i}' for i in range(1, 8)), *fingers]
    assert len(joints.position) == len(joints.velocity) == 9
    assert pose.header.frame_id == 'world'
    q = pose.pose.orientation
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0)


def test_reset_starts_the_next_seed_and_publishes_its_task(simulator):
    before = simulator.episode()
    message = simulator.reset()
    number = int(before['episode']) + 1
    task = f'pick up the {("red", "green")[(SEED + number) % 2]} cube'
    assert message == f'episode {number} seed {SEED + number} {task}'
    latched = simulator.next('~/instruction', kind=String, qos=interface.latched())
    assert latched[0].data == task
    after = simulator.episode()
    assert (after['episode'], after['seed']) == (str(number), str(SEED + number))
    assert int(after['step']) < int(before['step']) or int(after['step']) < 20
    assert after['success'] == 'false'


def test_twist_moves_the_arm_and_its_timeout_stops_it(simulator):
    simulator.reset()
    low = simulator.heights()
    simulator.send_twist(25, z=0.4)  # about a quarter of 0.4 m/s * 1.25 s: 0.1 m
    assert simulator.heights() - low > 0.05
    simulator.next('~/ee_pose', 15)  # 0.2 s of timeout and the time to brake
    assert np.ptp(simulator.heights(15)) < 2e-3
    values = simulator.episode()
    assert int(values['commands']) >= 10
    assert 0.05 < float(values['moved_m']) < 0.3


def test_twist_that_is_not_finite_is_refused_by_name(simulator):
    simulator.reset()
    simulator.next('~/ee_pose', 5)
    low = simulator.heights()
    simulator.send_twist(5, z=float('nan'), x=0.3)
    assert abs(simulator.heights() - low) < 2e-3
    assert simulator.episode()['commands'] == '0'
    simulator.until_logged('/simulator/twist: twist is not finite')


def test_gripper_closes_holds_and_is_open_after_a_reset(simulator):
    simulator.reset()
    simulator.until(lambda: simulator.opening() > 0.07, 'open gripper')
    closed = [JointTrajectoryPoint(positions=[0.0])]
    simulator.gripper_out.publish(JointTrajectory(joint_names=['gripper'], points=closed))
    simulator.until(lambda: simulator.opening() < 0.01, 'closed gripper')
    simulator.next('~/joint_states', 10)
    assert simulator.opening() < 0.01
    simulator.reset()
    simulator.until(lambda: simulator.opening() > 0.07, 'open gripper')
    simulator.gripper_out.publish(JointTrajectory(joint_names=['wrist']))
    simulator.until_logged("/simulator/gripper: joint_names is ['wrist']")


def test_pause_holds_the_clock_and_a_reset_works_meanwhile(simulator):
    clocks = simulator.seen['/clock']
    assert simulator.client.set_bool('/simulator/pause', True) == 'paused'
    simulator.client.set_bool('/simulator/pause', True)  # a step in flight is through now
    before = stamp(clocks[-1])
    simulator.reset()
    simulator.until(lambda: stamp(clocks[-1]) > before, 'clock of the new episode')
    count = len(clocks)
    simulator.client.spin_for(0.5)
    assert len(clocks) == count
    assert simulator.client.set_bool('/simulator/pause', False) == 'running'
    simulator.next('/clock', 3)


def test_time_rose_by_control_periods_over_all_resets(simulator):
    for topic, messages in simulator.seen.items():
        stamps = np.array([stamp(m) for m in messages])
        assert (np.diff(stamps) > 0).all() and (stamps % PERIOD_NS == 0).all(), topic
    episodes = [int(m.status[0].values[0].value) for m in simulator.seen['~/episode']]
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


def test_shipped_parameter_file_holds_the_defaults():
    text = (ROOT / 'config' / 'simulator.yaml').read_text(encoding='utf-8')
    shipped = yaml.safe_load(text)['/**/simulator']['ros__parameters']
    assert shipped == {**asdict(SimulatorParams()), 'tasks': ['']}
