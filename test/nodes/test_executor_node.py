"""The chunk executor on real topics: what it sends, and that it stops.

Expected velocities are the chunk's own deltas divided by its period; expected pose targets are
composed with scipy from the measured pose.
"""

import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from geometry_msgs.msg import PoseStamped, TwistStamped
from scipy.spatial.transform import Rotation
from trajectory_msgs.msg import JointTrajectory

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.client import Client
from vla_prune_ros.nodes.executor import ExecutorNode
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.messages import read_pose, read_twist

NODE = '/chunk_executor'
DT_S = 0.05
WAIT_S = 120.0  # for hangs only
STEADY = np.full((100, 6), 1e-3)


def chunk(steps=8, stamp_ns=None, deltas=None, gripper=None):
    """Step i moves (i + 1) mm along x and turns (i + 1) mrad about z."""
    if deltas is None:
        deltas = np.outer(np.arange(1, steps + 1), [0.001, 0, 0, 0, 0, 0.001])
    gripper = np.ones(len(deltas)) if gripper is None else np.asarray(gripper, float)
    return ActionChunk(stamp_ns or time.time_ns(), DT_S, np.asarray(deltas), gripper, 'base')


class Arm:
    """Stands where policy and robot do: sends chunks and poses, keeps the commands."""

    def __init__(self):
        self.client = Client('arm', idle=self.tick)
        self.client.watch('chunk_executor')
        self.twists, self.poses, self.grippers = [], [], []
        command, publisher = interface.command(), self.client.create_publisher
        for kind, topic, into in (
            (TwistStamped, 'twist', self.twists),
            (PoseStamped, 'pose_target', self.poses),
            (JointTrajectory, 'gripper', self.grippers),
        ):
            self.client.create_subscription(
                kind, f'{NODE}/{topic}', lambda m, into=into: into.append(m), command
            )
        self._chunk = publisher(JointTrajectory, f'{NODE}/action_chunk', command)
        self._ee_pose = publisher(PoseStamped, f'{NODE}/ee_pose', interface.sensor_data())
        self.measured = None

    def tick(self):
        if self.measured is not None:
            now_ns = self.client.get_clock().now().nanoseconds
            self._ee_pose.publish(build.pose(*self.measured, now_ns, 'base'))

    def send(self, record):
        """A record, or a message that is not one."""
        message = build.chunk(record) if isinstance(record, ActionChunk) else record
        self.until(lambda: self._chunk.get_subscription_count() == 1, 'executor on the topic')
        self._chunk.publish(message)

    def arm(self, value=True):
        return self.client.set_bool(f'{NODE}/arm', value)

    def until(self, done, what):
        assert self.client.wait(done, WAIT_S), f'no {what}; the node says: {self.text}'

    def until_says(self, *words):
        self.until(lambda: all(w in self.text for w in words), f'status with {words}')

    def until_quiet(self):
        """Silence for ten periods of the executor."""
        seen = -1
        while seen != len(self.twists):
            seen = len(self.twists)
            self.client.spin_for(0.2)

    @property
    def velocities(self):
        return np.array([read_twist(m) for m in self.twists]).reshape(-1, 6)

    @property
    def text(self):
        return f'{self.client.state("chunk_executor")}: {self.client.message("chunk_executor")}'


@pytest.fixture
def arm(ros, spinning):
    """Makes the executor with parameters and returns the other side of its topics."""
    clients = []

    def make(**parameters):
        spinning(ExecutorNode, **{'output': 'twist', **parameters})
        one = Arm()
        clients.append(one.client)
        one.until_says('DISARMED')
        return one

    yield make
    for client in clients:
        client.destroy_node()


def test_twist_is_the_due_delta_over_its_period_then_zeros_then_silence(arm):
    one = arm(zero_commands=4)
    one.send(chunk())
    one.client.spin_for(0.4)
    assert one.twists == one.grippers == [] and one.text.startswith('DISARMED')
    one.arm()
    one.send(chunk(6))
    one.until(lambda: len(one.twists) > 4 and not one.velocities[-1].any(), 'zero')
    one.until_quiet()
    got = one.velocities
    moving = got.any(axis=1)
    assert moving.sum() == len(got) - 4 and not got[-4:].any()
    steps = got[moving][:, 0] * DT_S / 0.001
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert (np.diff(steps) >= 0).all() and steps[-1] == 6
    np.testing.assert_allclose(got[:, 5], got[:, 0], atol=1e-12)
    assert not got[:, 1:5].any()
    assert {m.header.frame_id for m in one.twists} == {'base'}
    one.until_says('HOLDING', 'the chunk is used up')


@pytest.mark.parametrize(
    ('age_ns', 'deltas', 'limit_s', 'reason'),
    [(10**9, STEADY[:8], 2.0, 'used up'), (4 * 10**8, STEADY, 0.3, 'too old')],
)
def test_a_chunk_that_is_past_or_old_moves_nothing(arm, age_ns, deltas, limit_s, reason):
    one = arm(max_chunk_age_s=limit_s)
    one.arm()
    one.send(chunk(stamp_ns=time.time_ns() - age_ns, deltas=deltas))
    one.until_says('HOLDING', f'the chunk is {reason}')
    assert one.twists == []


@pytest.mark.parametrize('how', ['stop', 'disarm'])
def test_stop_and_disarming_end_motion_with_zeros(arm, how):
    one = arm()
    one.arm()
    one.send(chunk(deltas=STEADY[:40]))
    one.until(lambda: len(one.twists) > 2, 'motion')
    stop = one.client.trigger(f'{NODE}/stop') if how == 'stop' else one.arm(False)
    assert stop == 'disarmed'
    one.until_quiet()
    assert not one.velocities[-5:].any() and one.velocities[-6].any()
    one.send(chunk())
    count = len(one.twists)
    one.client.spin_for(0.3)
    assert len(one.twists) == count
    one.arm()  # the chunk from before it was armed is not run
    one.until_says('HOLDING', 'no chunk yet')
    assert len(one.twists) == count


UNKNOWN = build.chunk(chunk())
UNKNOWN.joint_names = [f'panda_joint{i}' for i in range(1, 8)]
BAD = {
    'fast': (chunk(deltas=np.full((8, 6), [0.07, 0, 0, 0, 0, 0])), '1.4', 'max_linear_m_s'),
    'nan gripper': (chunk(gripper=[math.nan] * 8), 'not finite', 'publisher'),
    'names': (UNKNOWN, 'panda_joint1', 'delta_x'),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_chunk_is_refused_by_name_and_moves_nothing(arm, case):
    message, what, remedy = BAD[case]
    one = arm()
    one.arm()
    one.send(message)
    one.until_says('REFUSED', what, remedy)
    one.client.spin_for(0.2)
    assert one.twists == []
    one.send(chunk())
    one.until_says('MOVING')


def test_one_publisher_on_the_command_topic(arm):
    one = arm()
    rival = one.client.create_publisher(TwistStamped, f'{NODE}/twist', interface.command())
    one.until(lambda: one.client.count_publishers(f'{NODE}/twist') == 2, 'second publisher')
    with pytest.raises(VlaPruneError, match=f'1 other publishers of {NODE}/twist; stop them'):
        one.arm()
    one.send(chunk())
    one.client.spin_for(0.2)
    assert one.twists == []
    one.client.destroy_publisher(rival)
    one.until(lambda: one.client.count_publishers(f'{NODE}/twist') == 1, 'one publisher')
    assert one.arm() == 'armed'


def test_output_none_only_watches(arm):
    one = arm(output='none')
    assert 'read-only' in one.client.set_parameter('chunk_executor', 'output', 'pose')
    assert "output is 'none'" in one.arm()
    one.send(chunk())
    one.until_says('MOVING')
    one.until_says('HOLDING')
    assert one.twists == one.poses == one.grippers == []


def test_pose_targets_are_integrated_from_the_measured_pose(arm):
    """Translation added, rotation vector from the left; all targets of one chunk in its order."""
    one = arm(output='pose')
    start, quat = np.array([0.3, -0.2, 0.5]), Rotation.from_euler('xyz', [3.0, 0.2, 0.4]).as_quat()
    one.measured = start, quat
    one.client.spin_for(0.3)
    one.arm()
    deltas = np.tile([0.002, 0.001, -0.003, 0.01, -0.02, 0.03], (12, 1))
    one.send(chunk(deltas=deltas))
    one.until(lambda: len(one.poses) > 3, 'pose targets')
    one.until_says('HOLDING')
    step = Rotation.from_rotvec(deltas[0, 3:])
    turned, targets = Rotation.from_quat(quat), []
    for i in range(1, 13):
        turned = step * turned
        targets.append((start + i * deltas[0, :3], turned))
    seen = 0
    for message in one.poses:
        position, got = read_pose(message)
        distances = [np.linalg.norm(position - t) for t, _ in targets]
        i = int(np.argmin(distances))
        if np.linalg.norm(position - start) < 1e-9:  # held where it was measured, after the chunk
            continue
        assert distances[i] < 1e-9 and i + 1 >= seen
        assert (targets[i][1].inv() * Rotation.from_quat(got)).magnitude() < 1e-9
        seen = i + 1
    assert seen >= 4
    assert one.twists == []


@pytest.mark.parametrize('pose', [None, (np.full(3, math.nan), np.array([0, 0, 0, 1.0]))])
def test_no_pose_target_without_a_fresh_and_finite_pose(arm, pose):
    one = arm(output='pose')
    one.measured = pose
    one.arm()
    one.send(chunk(deltas=STEADY[:20]))
    one.client.spin_for(0.5)
    assert one.poses == [] and one.grippers == []


def test_gripper_is_commanded_once_per_change(arm):
    """Thresholds 0.4 and 0.6: in between the last command stays."""
    one = arm()
    one.arm()
    opening = [1] * 4 + [0.5] * 3 + [0.1] * 4 + [0.5] * 3 + [0.9] * 4 + [0.5] * 3
    one.send(chunk(deltas=STEADY[:21], gripper=opening))
    one.until_says('MOVING')
    one.until_says('HOLDING')
    one.until_quiet()
    sent = [list(m.points[0].positions) for m in one.grippers]
    assert sent == [[1.0], [0.0], [1.0]]
    assert all(m.joint_names == ['gripper'] for m in one.grippers)


COMMAND = [sys.executable, '-m', 'vla_prune_ros.nodes.executor', '--ros-args']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_a_last_zero(ros, tmp_path, number):
    log, one = (tmp_path / 'log').open('wb'), Arm()
    process = subprocess.Popen([*COMMAND, '-p', 'output:=twist'], stdout=log, stderr=log)
    try:
        one.until_says('DISARMED')
        one.arm()
        one.send(chunk(deltas=STEADY))
        one.until(lambda: len(one.twists) > 3, 'motion')
        assert one.velocities[-1].any()
        process.send_signal(number)
        one.until(lambda: process.poll() is not None, 'end of the process')
        one.until(lambda: not one.velocities[-1].any(), 'last zero')
    finally:
        process.kill()
        process.wait()
        one.client.destroy_node()
    assert process.returncode == 0
    assert 'Traceback' not in (tmp_path / 'log').read_text()


def test_a_bad_parameter_is_one_line_and_exit_code_one():
    done = subprocess.run([*COMMAND, '-p', 'rate_hz:=1000.0'], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith('error: parameter rate_hz') and done.stderr.count('\n') == 1


def test_the_executor_never_loads_torch():
    code = 'import sys, vla_prune_ros.nodes.executor; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {'torch', 'transformers'} & set(done.stdout.split())
