"""Time that stands still: a policy node on a bag's clock; ``test_bag_player.py`` has loops."""

import time

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from rosgraph_msgs.msg import Clock

from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import to_ns


class BagClock:
    """Publishes the time of a bag as often as it is asked for it."""

    def __init__(self, robot):
        self._begin = time.monotonic()
        self._clock = robot.client.create_publisher(Clock, '/clock', interface.command())

    def now_ns(self):
        now_ns = 1_000_000_000_000 + int((time.monotonic() - self._begin) * 1e9)
        self._clock.publish(Clock(clock=build.time(now_ns)))
        return now_ns


def test_a_clock_that_stands_still_gives_no_chunk_and_no_fault(rig):
    one = rig(use_sim_time=True)
    bag = BagClock(one.robot)
    one.robot.now_ns = bag.now_ns
    one.bring_up()
    one.robot.next_chunk()
    stopped = bag.now_ns()
    one.robot.now_ns = lambda: stopped
    chunks = one.robot.chunks
    one.robot.until(lambda: to_ns(chunks[-1].header.stamp) == stopped, 'chunk of the last frame')
    one.robot.no_chunk_for(8)
    assert one.robot.state == 'RUNNING'
    one.robot.now_ns = bag.now_ns
    one.robot.next_chunk()
