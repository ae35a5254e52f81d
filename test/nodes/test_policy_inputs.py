"""Bad input to a running policy node: one status line, no chunk, and recovery by itself.

One fault of each kind (the tests of the runtime have them all); the line must name the stream and
the thing that is wrong with it.
"""

import math
from operator import attrgetter

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import to_ns


def put(stream, path, value):
    """Gives every message of the stream this value of a field."""
    *parents, name = path.split('.')

    def spoil(messages):
        target = attrgetter('.'.join(parents))(messages[stream]) if parents else messages[stream]
        setattr(target, name, value)

    return spoil


def skew(messages):
    header = messages['wrist'].header
    header.stamp = build.time(to_ns(header.stamp) - 50_000_000)


NAMES = ['finger_right', 'panda_joint1', 'panda_finger_joint1']
FAULTS = {
    'encoding': (put('primary', 'encoding', 'foo8'), ("camera 'primary'", "'foo8'", 'use one of')),
    'nan pose': (put('ee_pose', 'pose.position.y', math.nan), ('position y is nan', 'driver')),
    'missing joint': (put('joint_states', 'name', NAMES), ("lacks 'panda_finger_joint2'",)),
    'absent camera': (lambda messages: messages.pop('wrist'), ('wrist: no message for',)),
    'stamp zero': (
        put('wrist', 'header.stamp', build.time(0)),
        ('WAITING', 'wrist: header stamp is zero', 'driver'),
    ),
    'skewed': (skew, ('WAITING', 'stamps do not meet within 20.0 ms', 'wrist -50.0 ms')),
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
