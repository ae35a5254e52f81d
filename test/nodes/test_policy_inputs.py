"""Bad input to a running policy node: one status line, no chunk, and recovery by itself.

The faults are those of the project's fault list; what the line must name is the stream and the
thing that is wrong with it.
"""

import array
import math

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import to_ns

MS = 1_000_000


def shift(message, ns):
    message.header.stamp = build.time(to_ns(message.header.stamp) + ns)


def unknown_encoding(m):
    m['primary'].encoding = 'foo8'


def truncated_image(m):
    m['wrist'].data = m['wrist'].data[:-7]


def depth_image(m):
    m['wrist'].encoding = '16UC1'


def nan_pose(m):
    m['ee_pose'].pose.position.y = math.nan


def no_rotation(m):
    q = m['ee_pose'].pose.orientation
    q.x = q.y = q.z = q.w = 0.0


def missing_joint(m):
    m['joint_states'].name = ['finger_right', 'panda_joint1', 'panda_finger_joint1']


def nan_joint(m):
    m['joint_states'].position = array.array('d', [math.inf, 0.0, 0.0])


def short_joints(m):
    m['joint_states'].position = array.array('d', [0.0])


def absent_camera(m):
    del m['wrist']


def absent_pose(m):
    del m['ee_pose']


def late_by_the_network(m):
    shift(m['primary'], -800 * MS)


def stamp_zero(m):
    m['wrist'].header.stamp = build.time(0)


def pose_stamp_zero(m):
    m['ee_pose'].header.stamp = build.time(0)


def future(m):
    shift(m['primary'], 500 * MS)


def skewed(m):
    shift(m['wrist'], -50 * MS)


FAULTS = [
    (unknown_encoding, ("camera 'primary'", "'foo8'", 'use one of')),
    (truncated_image, ("camera 'wrist'", 'its header says')),
    (depth_image, ("camera 'wrist'", 'depth', 'colour')),
    (nan_pose, ('end-effector position y is nan', 'driver')),
    (no_rotation, ('orientation [0.0, 0.0, 0.0, 0.0]', 'unit quaternion')),
    (missing_joint, ("lacks 'panda_finger_joint2'", 'finger_right')),
    (nan_joint, ('panda_finger_joint2', 'inf')),
    (short_joints, ('3 names and 1 positions',)),
    (absent_camera, ('WAITING', 'wrist: no message for')),
    (absent_pose, ('WAITING', 'ee_pose: no message for')),
    (future, ('WAITING', 'primary: stamp is', 'ahead of the clock')),
    (late_by_the_network, ('WAITING', 'primary: header stamp is', 'limit 0.500 s')),
    (stamp_zero, ('WAITING', 'wrist: header stamp is zero', 'driver')),
    (pose_stamp_zero, ('WAITING', 'ee_pose: header stamp is zero', 'driver')),
    (skewed, ('WAITING', 'stamps do not meet within 20.0 ms', 'wrist -50.0 ms')),
]


@pytest.mark.parametrize(('spoil', 'words'), FAULTS, ids=lambda v: getattr(v, '__name__', ''))
def test_a_fault_is_named_stops_the_chunks_and_passes(running, spoil, words):
    robot = running.robot
    robot.spoil = lambda messages: None
    robot.next_chunk()
    robot.spoil = spoil
    robot.until_says(*words)
    assert '\n' not in robot.status.message
    robot.no_chunk_for(3)
    robot.spoil = lambda messages: None
    robot.next_chunk()
    robot.until_state('RUNNING')
