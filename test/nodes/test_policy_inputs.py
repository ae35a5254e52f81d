"""Bad input to a running policy node: one status line, no chunk, and recovery by itself.

The faults are those of the project's fault list; what the line must name is the stream and the
thing that is wrong with it.
"""

import array
import math
from operator import attrgetter

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from geometry_msgs.msg import Quaternion

from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import to_ns

MS = 1_000_000


def put(stream, path, value):
    """Gives every message of the stream this value of a field."""
    *parents, name = path.split('.')

    def spoil(messages):
        target = attrgetter('.'.join(parents))(messages[stream]) if parents else messages[stream]
        setattr(target, name, value)

    return spoil


def shift(stream, ns):
    def spoil(messages):
        header = messages[stream].header
        header.stamp = build.time(to_ns(header.stamp) + ns)

    return spoil


def absent(stream):
    return lambda messages: messages.pop(stream)


def truncated(messages):
    messages['wrist'].data = messages['wrist'].data[:-7]


NO_ROTATION = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
NAMES = ['finger_right', 'panda_joint1', 'panda_finger_joint1']
INFINITE, SHORT = (array.array('d', values) for values in ([math.inf, 0.0, 0.0], [0.0]))
FAULTS = {
    'encoding': (
        put('primary', 'encoding', 'foo8'),
        ("camera 'primary'", "'foo8'", 'use one of'),
    ),
    'truncated image': (truncated, ("camera 'wrist'", 'its header says')),
    'depth image': (put('wrist', 'encoding', '16UC1'), ("camera 'wrist'", 'depth', 'colour')),
    'nan pose': (
        put('ee_pose', 'pose.position.y', math.nan),
        ('end-effector position y is nan', 'driver'),
    ),
    'no rotation': (
        put('ee_pose', 'pose.orientation', NO_ROTATION),
        ('orientation [0.0, 0.0, 0.0, 0.0]', 'unit quaternion'),
    ),
    'missing joint': (
        put('joint_states', 'name', NAMES),
        ("lacks 'panda_finger_joint2'", 'finger_right'),
    ),
    'infinite joint': (put('joint_states', 'position', INFINITE), ('panda_finger_joint2', 'inf')),
    'short joints': (put('joint_states', 'position', SHORT), ('3 names and 1 positions',)),
    'absent camera': (absent('wrist'), ('WAITING', 'wrist: no message for')),
    'absent pose': (absent('ee_pose'), ('WAITING', 'ee_pose: no message for')),
    'future': (
        shift('primary', 500 * MS),
        ('WAITING', 'primary: stamp is', 'ahead of the clock'),
    ),
    'late by the network': (
        shift('primary', -800 * MS),
        ('WAITING', 'primary: header stamp is', 'limit 0.500 s'),
    ),
    'stamp zero': (
        put('wrist', 'header.stamp', build.time(0)),
        ('WAITING', 'wrist: header stamp is zero', 'driver'),
    ),
    'pose stamp zero': (
        put('ee_pose', 'header.stamp', build.time(0)),
        ('WAITING', 'ee_pose: header stamp is zero', 'driver'),
    ),
    'skewed': (
        shift('wrist', -50 * MS),
        ('WAITING', 'stamps do not meet within 20.0 ms', 'wrist -50.0 ms'),
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_named_stops_the_chunks_and_passes(running, fault):
    robot = running.robot
    spoil, words = FAULTS[fault]
    robot.spoil = lambda messages: None
    robot.next_chunk()
    robot.spoil = spoil
    robot.until_says(*words)
    assert '\n' not in robot.status.message
    robot.no_chunk_for(3)
    robot.spoil = lambda messages: None
    robot.next_chunk()
    robot.until_state('RUNNING')
