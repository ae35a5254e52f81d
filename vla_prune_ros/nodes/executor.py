"""``chunk_executor``: streams the due step of the newest chunk as velocity or pose commands.

A process of its own that never loads torch, so that no GPU stall or crash can take the watchdog
with it. It moves nothing until ``~/arm`` is called with true, drops steps whose time is past, and
sends zero motion and then nothing when the chunk runs dry, grows old, or the arm is disarmed.
With ``stepping`` synchronous the simulator waits for it instead: ``runtime/schedule.py``.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ..config import option
from ..errors import ActionRefused, InputRefused
from ..runtime.guard import PoseTarget
from ..runtime.messages import read_chunk, read_pose
from ..runtime.schedule import FREE, STEPPING, ChunkSchedule, Due, GripperLatch
from .interface import Service, Topic, command, rivals, sensor_data
from .messages import build
from .params import declare
from .process import on_clock_jump, require_simulated_time, run_node, steady_clock
from .status import ERROR, OK, WARN, StatusReporter


@dataclass(frozen=True)
class ExecutorParams:
    output: str = option(
        'none',
        'none: only watch; twist: TwistStamped on ~/twist; pose: PoseStamped on ~/pose_target.',
        choices=('none', 'twist', 'pose'),
    )
    rate_hz: float = option(50.0, 'Rate of the commands, in Hz.', low=5.0, high=500.0)
    stepping: str = option(
        FREE,
        'free: time runs on; synchronous: for a simulator that waits. Twist and gripper of the '
        'due step are sent together until time goes on, nothing where no step is due, and '
        'disarming only pauses.',
        choices=STEPPING,
    )
    max_chunk_age_s: float = option(
        2.0, 'Oldest chunk to move on, by stamp and by receipt, in s.', low=0.05, high=30.0
    )
    max_linear_m_s: float = option(
        1.2, 'A chunk with a faster step is refused, in m/s.', low=0.001, high=10.0
    )
    max_angular_rad_s: float = option(
        7.0, 'A chunk with a faster step is refused, in rad/s.', low=0.001, high=50.0
    )
    zero_commands: int = option(
        5, 'Zero commands sent when motion ends; then silence.', low=1, high=1000
    )
    close_below: float = option(
        0.4, 'Gripper values below close it (0 closed ... 1 open).', low=0.0, high=1.0
    )
    open_above: float = option(
        0.6, 'Gripper values above open it; in between the last command holds.', low=0.0, high=1.0
    )
    gripper_joint: str = option('gripper', 'Joint name in the commands on ~/gripper.')
    gripper_closed: float = option(
        0.0, "Position of that joint when closed, in the driver's unit.", low=-100.0, high=100.0
    )
    gripper_open: float = option(
        1.0, "Position of that joint when open, in the driver's unit.", low=-100.0, high=100.0
    )
    gripper_time_s: float = option(
        0.3, 'time_from_start of a gripper command, in s.', low=0.0, high=10.0
    )
    max_pose_age_s: float = option(
        0.5, 'Oldest ~/ee_pose to start a pose target from, in s.', low=0.01, high=10.0
    )


ACTION_CHUNK = Topic('~/action_chunk', JointTrajectory, command(), 'Chunks of `vla_policy`.')
EE_POSE = Topic(
    '~/ee_pose',
    PoseStamped,
    sensor_data(),
    'Measured pose in the frame of the chunk; each pose target starts from it.',
)
TWIST = Topic(
    '~/twist',
    TwistStamped,
    command(),
    'Velocity of the due step in the frame of the chunk, m/s and rad/s, stamped with the time '
    'from which it holds. With `output` twist.',
)
POSE_TARGET = Topic(
    '~/pose_target',
    PoseStamped,
    command(),
    'Measured pose plus the steps of the chunk so far. With `output` pose.',
)
GRIPPER = Topic(
    '~/gripper',
    JointTrajectory,
    command(),
    'Joint `gripper`, one point: 0 close or 1 open; sent when it changes, with `stepping` '
    'synchronous at every step.',
)
ARM = Service('~/arm', SetBool, 'True lets commands out, false stops. Forgets the old chunk.')
STOP = Service('~/stop', Trigger, 'The same as `~/arm` with false.')

STATES = {
    'DISARMED': ('OK', 'Nothing is sent before `~/arm`.'),
    'MOVING': ('OK', 'A step of the chunk is due now.'),
    'HOLDING': (
        'WARN or OK',
        'Armed without a due step: zero commands, then silence. OK where time waits for one.',
    ),
    'REFUSED': ('ERROR', 'The last chunk was refused; the reason says why.'),
}
DIAGNOSTICS = {
    'execution': (
        *('armed', 'loaded', 'refused', 'time_jump', 'executed', 'skipped', 'superseded'),
        'commands',
    ),
    'safety': (),
}
_WHY_HOLDING = {
    'empty': 'no chunk yet',
    'dry': 'the chunk is used up',
    'stale': 'the chunk is too old',
    'future': 'the chunk has not begun',
}


class ExecutorNode(Node):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__('chunk_executor', **kwargs)
        self._params = declare(self, ExecutorParams)
        self._schedule = ChunkSchedule(self._params.max_chunk_age_s)
        self._latch = GripperLatch(self._params.close_below, self._params.open_above)
        self._target = PoseTarget(self._params.max_pose_age_s)
        self._status = StatusReporter(self, STATES)
        self._armed = False
        self._synchronous = require_simulated_time(self, self._params.stepping)
        self._zeros_left = self._sent = 0
        self._frame_id = self._refused = ''
        self._twist = TWIST.publisher(self)
        self._pose = POSE_TARGET.publisher(self)
        self._gripper = GRIPPER.publisher(self)
        self._out = {'twist': self._twist, 'pose': self._pose}.get(self._params.output)
        ACTION_CHUNK.subscription(self, self._on_chunk)
        EE_POSE.subscription(self, self._on_pose)
        ARM.serve(self, self._arm)
        STOP.serve(self, self._stop)
        # Ticks by the steady clock: a paused /clock must not stop the watchdog. What is due is
        # decided by the ROS clock, the one the chunks are stamped with.
        steady = steady_clock()
        self.create_timer(1.0 / self._params.rate_hz, self._tick, clock=steady)
        if self._synchronous:  # and whenever simulated time goes on
            self.create_timer(1e-3, self._tick, clock=self.get_clock())
        self.create_timer(1.0, self._diagnose, clock=steady)
        self._jump = on_clock_jump(self, self._on_jump)
        self._status.set('DISARMED', armed=False, output=self._params.output)

    def destroy_node(self) -> None:
        """Send a last zero where the arm was moving."""
        if self._zeros_left and self.context.ok():
            self._send_zero()
            self._out.wait_for_all_acked(Duration(seconds=0.2))
        super().destroy_node()

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = read_chunk(message)
            steps = np.linalg.norm(chunk.deltas.reshape(-1, 2, 3), axis=2)
            speeds = steps.max(axis=0) / chunk.dt_s
            for speed, name in zip(speeds, ('max_linear_m_s', 'max_angular_rad_s'), strict=True):
                limit = getattr(self._params, name)
                if not speed <= limit:  # refuses nan as well
                    raise ActionRefused(
                        'limit',
                        f'chunk moves at {speed:.3g}, beyond {name} {limit:g}',
                        f"lower the policy's limits or raise {name}",
                    )
            if self._schedule.load(chunk, self._mono_ns()):
                self._latch.reset()
        except (InputRefused, ActionRefused) as refusal:
            self._refused = str(refusal)
            self.get_logger().warning(f'chunk refused: {refusal}', throttle_duration_sec=2.0)
            return
        self._refused, self._frame_id = '', chunk.frame_id
        self._target.anchor_next()
        if self._synchronous:  # the simulator waits for it
            self._tick()

    def _on_pose(self, message: PoseStamped) -> None:
        self._target.measured(*read_pose(message), time.monotonic_ns())

    def _tick(self) -> None:
        due = self._schedule.due(self._now_ns(), self._mono_ns()) if self._armed else None
        if due is not None and due.step is not None and self._params.output != 'none':
            self._send(due)
        elif self._zeros_left:
            self._zeros_left -= 1
            self._send_zero()
        self._report(due)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _mono_ns(self) -> int:
        """Monotonic time, by which chunks age; it stands still with a simulator that waits."""
        return 0 if self._synchronous else time.monotonic_ns()

    def _send(self, due: Due) -> None:
        if self._params.output == 'twist':
            self._send_twist(due.delta / due.dt_s)
        elif not self._send_pose(due):
            return
        self._sent += 1
        before, wanted = self._latch.command, self._latch.update(due.gripper)
        if self._synchronous:  # both of every step; before the first decision the gripper is open
            self._send_gripper(1.0 if wanted is None else wanted)
            return
        self._zeros_left = self._params.zero_commands
        if wanted is not None and wanted != before:
            self._send_gripper(wanted)

    def _send_gripper(self, opening: float) -> None:
        params = self._params
        position = params.gripper_closed + opening * (params.gripper_open - params.gripper_closed)
        self._gripper.publish(
            build.gripper(position, self._now_ns(), params.gripper_joint, params.gripper_time_s)
        )

    def _send_twist(self, velocity: np.ndarray) -> None:
        self._twist.publish(build.twist(velocity, self._now_ns(), self._frame_id))

    def _send_pose(self, due: Due) -> bool:
        if due.first and not self._target.advance(due.delta, time.monotonic_ns()):
            self.get_logger().warning(
                'no fresh ~/ee_pose to start a pose target from; remap it or check its publisher',
                throttle_duration_sec=2.0,
            )
            return False
        if self._target.pose is not None:
            self._send_target()
        return self._target.pose is not None

    def _send_zero(self) -> None:
        """Zero velocity; a pose target is held where the arm is measured, or not sent at all."""
        if self._params.output == 'twist':
            self._send_twist(np.zeros(6))
        elif self._params.output == 'pose' and self._target.hold(time.monotonic_ns()):
            self._send_target()

    def _send_target(self) -> None:
        position, quaternion = self._target.pose
        self._pose.publish(build.pose(position, quaternion, self._now_ns(), self._frame_id))

    def _rivals(self) -> str:
        return '' if self._out is None else rivals(self, self._out)[1]

    def _on_jump(self) -> None:
        # A simulator that waits may have got a chunk for the new time already.
        if not (self._synchronous and self._schedule.stamp_ns == self._now_ns()):
            self._schedule.clear()
        self._latch.reset()

    def _set_armed(self, armed: bool) -> None:
        self._armed = armed
        if not self._synchronous:  # there no time passes that could make the chunk an old one
            self._schedule.clear()  # arming never continues an old chunk
            self._latch.reset()

    def _arm(self, request: SetBool.Request) -> tuple[bool, str]:
        others = self._rivals()
        if request.data and others:
            return False, f'{others} first'
        self._set_armed(request.data)
        if self._armed and self._params.output == 'none':
            return True, "armed, but output is 'none': set it to twist or pose to move"
        return True, 'armed' if self._armed else 'disarmed'

    def _stop(self, request: Trigger.Request) -> tuple[bool, str]:
        self._set_armed(False)
        return True, 'disarmed'

    def _report(self, due: Due | None) -> None:
        values = {'armed': self._armed, 'output': self._params.output}
        if due is None:
            self._status.set('DISARMED', **values)
        elif self._refused:
            self._status.set('REFUSED', self._refused, ERROR, 'refused', **values)
        elif due.step is not None:
            self._status.set('MOVING', **values)
        else:
            text = f'{_WHY_HOLDING[due.reason]}; check that the policy runs'
            level = OK if self._synchronous else WARN  # there the next one is being waited for
            self._status.set('HOLDING', text, level, due.reason, **values)

    def _diagnose(self) -> None:
        values = {'armed': self._armed, **self._schedule.counters, 'commands': self._sent}
        level = self._status.level if self._armed else OK
        others = self._rivals()
        safety = (ERROR if others else OK, others or 'ok', {})
        self._status.diagnose(
            '', {'execution': (level, self._status.state, values), 'safety': safety}
        )


def main(args: list[str] | None = None) -> int:
    return run_node(ExecutorNode, args)


if __name__ == '__main__':
    sys.exit(main())
