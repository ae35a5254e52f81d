"""Time that jumps, loops or stands still: a policy node on a bag's clock."""

import time

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from rosgraph_msgs.msg import Clock

from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import to_ns


class Bag:
    """Ten frames a second of bag time, over and over, with the clock of the bag."""

    def __init__(self, robot, seconds):
        self._robot, self._length, self._begin = robot, seconds, time.monotonic()
        self._clock = robot.client.create_publisher(Clock, '/clock', interface.command())
        self.loops = 0

    def now_ns(self):
        passed = time.monotonic() - self._begin
        self.loops = int(passed / self._length)
        now_ns = 1_000_000_000_000 + int(passed % self._length * 1e9)
        self._clock.publish(Clock(clock=build.time(now_ns)))
        return now_ns


def test_a_looping_bag_gives_chunks_in_every_loop(rig):
    """The stamps of each loop repeat those of the first; old state must not outlive the seam."""
    one = rig(use_sim_time=True, replan_period_s=0.15)
    bag = Bag(one.robot, 1.2)
    one.robot.now_ns = bag.now_ns
    one.bring_up()
    resets, reset = [], one.policy.reset
    one.policy.reset = lambda: resets.append(bag.loops) or reset()
    per_loop = {}
    for loop in range(1, 4):
        one.robot.until(lambda wanted=loop: bag.loops == wanted, f'loop {loop}')
        before = len(one.robot.chunks)
        one.robot.until(lambda wanted=loop: bag.loops > wanted, f'end of loop {loop}')
        per_loop[loop] = len(one.robot.chunks) - before
    assert min(per_loop.values()) >= 3, per_loop
    assert {1, 2, 3} <= set(resets)


def test_a_clock_that_stands_still_gives_no_chunk_and_no_fault(rig):
    one = rig(use_sim_time=True)
    bag = Bag(one.robot, 3600.0)
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
