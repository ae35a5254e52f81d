"""The simulator as a ROS 2 node: cameras, pose, joints and ``/clock`` out, twist and gripper in.

The executor's thread does all of it, between callbacks: an OpenGL context cannot change threads.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ..config import option
from ..errors import InputRefused, VlaPruneError
from ..runtime.messages import read_gripper, read_twist, to_ns
from ..runtime.schedule import FREE, STEPPING, SYNCHRONOUS
from ..sim.scene import SIMULATORS, Scene, make_scene
from ..sim.session import GAP_NS, START_NS, Lockstep, Pacer, Session
from .interface import Service, Topic, command, latched, lossless, sensor_data
from .messages import build
from .params import declare
from .process import Turns, run_node


@dataclass(frozen=True)
class SimulatorParams:
    simulator: str = option(
        'two_cubes',
        f'Scene to open: {", ".join(SIMULATORS)}. Setting it opens the other scene at once.',
        live=True,
    )
    tasks: tuple[str, ...] = option(
        (),
        'Tasks of the episodes in turn: seed s has task s % N; empty for the '
        "simulator's own choice. Setting them opens the scene anew.",
        live=True,
    )
    seed: int = option(
        0,
        'Seed of the next episode; those after it count on. With the tasks of two_cubes even '
        'seeds ask for the red cube, odd ones for the green cube.',
        low=0,
        high=1_000_000_000,
        live=True,
    )
    stepping: str = option(
        FREE,
        'free: time runs on; synchronous: each step waits for the twist and the gripper command '
        'that are stamped with its time.',
        choices=STEPPING,
    )
    step_timeout_s: float = option(
        5.0,
        'With stepping synchronous: wall seconds without the commands of a step after which the '
        'node says what is missing; simulated time stands still until they come.',
        low=0.1,
        high=3600.0,
    )
    image_hz: float = option(
        20.0,
        'Images per camera and simulated second; at most one per control step, 20 Hz.',
        low=0.1,
        high=20.0,
    )
    real_time_factor: float = option(
        1.0, 'Simulated seconds per wall second; 0 for as fast as possible.', low=0.0, high=10.0
    )
    image_size: int = option(256, 'Side of the square pictures in pixels.', low=16, high=1024)
    gl: str = option(
        'auto',
        'OpenGL backend; auto takes MUJOCO_GL where it is set, else the first that renders.',
        choices=('auto', 'egl', 'osmesa'),
    )
    command_timeout_s: float = option(
        0.2, 'Simulated seconds after which a twist no longer moves the arm.', low=0.0, high=10.0
    )


def open_scene(params: SimulatorParams) -> Scene:
    """MuJoCo and robosuite are imported here.

    :raises VlaPruneError: unknown simulator or task, or something is not installed.
    """
    return make_scene(params.simulator, params.tasks, image_size=params.image_size, gl=params.gl)


IMAGE = Topic(
    '~/image/<camera>',
    Image,
    sensor_data(),
    'rgb8 as the renderer makes it, row 0 at the bottom; turn it with `rotate_180`.',
)
EE_POSE = Topic('~/ee_pose', PoseStamped, sensor_data(), 'Grip point in the world frame, m.')
JOINT_STATES = Topic('~/joint_states', JointState, sensor_data(), 'Arm in rad, fingers in m.')
INSTRUCTION = Topic('~/instruction', String, latched(), 'The task of the episode.')
EPISODE = Topic(
    '~/episode',
    DiagnosticArray,
    command(),
    'Episode, step, seed, path length, success; `generated_assets` true where shapes stand in for '
    'files that are missing. At WARN while it waits for commands.',
)
CLOCK = Topic('/clock', Clock, command(), 'Simulated time; starts at 1 s, never goes back.')

# Volatile on purpose: what was commanded before this node came up must not move the arm.
TWIST = Topic('~/twist', TwistStamped, command(), 'Velocity along world axes, m/s and rad/s.')
GRIPPER = Topic('~/gripper', JointTrajectory, command(), 'Joint `gripper`, 0 closed ... 1 open.')
RESET = Service('~/reset', Trigger, 'Start the next episode; answers its number, seed and task.')
PAUSE = Service('~/pause', SetBool, 'Stop and go on; `/clock` stands still meanwhile.')

_WORLD = 'world'
_WARN_EVERY_S = 5.0
_REPEAT_EVERY_S = 0.25  # below the age at which the policy calls an input stale
_IDLE_S = 0.05
_ACKNOWLEDGED_WITHIN_S = 0.5


class SimulatorOutputs:
    """:param synchronous: camera and state topics are reliable, so that nothing is lost."""

    def __init__(self, node: Node, synchronous: bool) -> None:
        self._node, self._synchronous = node, synchronous
        self._sensor = lossless() if synchronous else sensor_data()
        self._images: dict[str, Publisher] = {}
        self._clock = CLOCK.publisher(node)
        self._pose = EE_POSE.publisher(node, self._sensor)
        self._joints = JOINT_STATES.publisher(node, self._sensor)
        self._instruction = INSTRUCTION.publisher(node)
        self._episode = EPISODE.publisher(node)
        self._sent: list[tuple[Publisher, Any]] = []

    def advertise_images(self, cameras: Iterable[str]) -> None:
        for camera in cameras:
            if camera not in self._images:
                self._images[camera] = IMAGE.publisher(self._node, self._sensor, camera=camera)

    def instruct(self, text: str) -> None:
        """Publish the task; in synchronous stepping it arrives before the first observation."""
        self._instruction.publish(build.text(text))
        if self._synchronous:
            self._instruction.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_WITHIN_S))

    def observe(self, session: Session, with_images: bool) -> None:
        stamp_ns, state = session.now_ns, session.state
        # The clock comes first: nobody receives a stamp from his future. Images come last: who
        # waits for them has the state already.
        pose = build.pose(state.ee_position, state.ee_quat_xyzw, stamp_ns, _WORLD)
        joints = build.joints(
            state.joint_names, state.joint_positions, state.joint_velocities, stamp_ns
        )
        self._sent = [
            (self._clock, Clock(clock=build.time(stamp_ns))),
            (self._pose, pose),
            (self._joints, joints),
        ]
        self.repeat()
        for camera, rgb in session.scene.images().items() if with_images else ():
            image = build.image(rgb, stamp_ns, f'{camera}_optical')
            self._images[camera].publish(image)
            self._sent.append((self._images[camera], image))

    def repeat(self) -> None:
        """Publish the last observation once more, for whoever joined late."""
        for publisher, message in self._sent:
            publisher.publish(message)

    def report(self, session: Session, values: Mapping[str, Any], waits_for: str) -> None:
        """:param waits_for: what it waits for longer than it should; empty where nothing."""
        success = session.scene.success()
        status = build.status(
            f'{self._node.get_name()}: episode',
            {**session.report(), **values, 'success': str(success).lower()},
            message=waits_for or ('success' if success else 'running'),
            level=build.WARN if waits_for else build.OK,
            hardware_id='simulation',
        )
        self._episode.publish(build.diagnostics([status], session.now_ns, _WORLD))


class SimulatorNode(Node):
    """Publishes a scene and obeys commands: one session on the clock, from scene to scene.

    :param make_scene: opens what the parameters name.
    :raises VlaPruneError: a parameter is out of range, or the default scene cannot start. Where
        another one is named and cannot start, the node logs it and waits for a name that can.
    """

    def __init__(
        self, make_scene: Callable[[SimulatorParams], Scene] = open_scene, **kwargs: Any
    ) -> None:
        super().__init__('simulator', **kwargs)
        self._params, self._make_scene = declare(self, SimulatorParams), make_scene
        synchronous = self._params.stepping == SYNCHRONOUS
        self._lockstep = Lockstep() if synchronous else None
        self._session: Session | None = None
        self._paused = False
        self._outputs = SimulatorOutputs(self, synchronous)
        self._published_at = self._repeated_at = 0.0
        self._warned_missing = False
        self._warned_at: dict[str, float] = {}
        TWIST.subscription(self, self._on_twist)
        GRIPPER.subscription(self, self._on_gripper)
        RESET.serve(self, self._on_reset)
        PAUSE.serve(self, self._on_pause)
        self.add_on_set_parameters_callback(self._on_parameters)
        try:
            self._open(self._params)
        except VlaPruneError as error:
            if (self._params.simulator, self._params.tasks) == (SimulatorParams.simulator, ()):
                raise
            self.get_logger().error(
                f'no scene: {error}; then set the parameters simulator and tasks of this node'
            )
        self._turns = Turns(self, self._turn)

    def destroy_node(self) -> None:
        """Free the scene, in the thread that made it."""
        if self._session is not None:
            self._session.scene.close()
        super().destroy_node()

    def _open(self, params: SimulatorParams) -> None:
        """Replace the scene; the one before lives on where this one cannot start.

        :raises VlaPruneError: it cannot.
        """
        scene, before = self._make_scene(params), self._session
        start_ns = START_NS if before is None else before.now_ns + GAP_NS
        seed = self.get_parameter('seed').value
        self._session = Session(scene, seed, params.command_timeout_s, start_ns)
        if before is not None:
            before.scene.close()
        self._params = params
        self._pacer = Pacer(self._session.period_ns / 1e9, params.real_time_factor)
        self._outputs.advertise_images(scene.cameras)
        log = self.get_logger()
        log.info(f'{scene.description}; episode 0: {scene.instruction}')
        if scene.generated_assets:
            log.warning(
                'the scene is made of generated shapes in place of files that are missing: its '
                "results are not that simulator's"
            )
        self._begin(self._session)

    def _begin(self, session: Session) -> None:
        """Publish the first observation of an episode."""
        self._outputs.instruct(session.scene.instruction)
        self._publish(session)
        self._pacer.restart()

    def _turn(self) -> float:
        """Make a step where it is time for one; wall seconds until the next turn."""
        if self._session is None:
            return _IDLE_S
        if self._paused:
            self._pacer.restart()
            return _IDLE_S
        wait_s = self._pacer.wait_s()
        if wait_s > 0.0:
            return wait_s
        if self._lockstep is not None and self._lockstep.missing:
            self._stand_still(self._session)
            return _IDLE_S
        self._session.advance()
        self._pacer.stepped()
        self._publish(self._session)
        return self._pacer.wait_s()

    def _publish(self, session: Session) -> None:
        if self._lockstep is not None:
            self._lockstep.expect(session.now_ns)
        # Where time waits for the policy it may ask for the image of any instant.
        due = self._lockstep is not None or session.due(self._params.image_hz)
        self._outputs.observe(session, with_images=due)
        self._report(session)
        self._published_at = self._repeated_at = time.monotonic()
        self._warned_missing = False
        if self._lockstep is None:
            self._warn_if_slow(session)

    def _report(self, session: Session, waits_for: str = '') -> None:
        values = {
            'simulator': self._params.simulator,
            'stepping': self._params.stepping,
            'real_time_factor': self._pacer.measured(),
        }
        self._outputs.report(session, values, waits_for)

    def _stand_still(self, session: Session) -> None:
        """Repeat what was published, and log once what is missing."""
        now = time.monotonic()
        if now - self._repeated_at < _REPEAT_EVERY_S:
            return
        self._repeated_at = now
        late = now - self._published_at > self._params.step_timeout_s
        missing = self._missing(session) if late else ''
        if missing and not self._warned_missing:
            self._warned_missing = True
            self.get_logger().warning(missing)
        self._outputs.repeat()
        self._report(session, missing)

    def _missing(self, session: Session) -> str:
        parts = self._lockstep.missing
        topics = [self.resolve_topic_name(f'~/{part}') for part in parts]
        publishers = [f'{self.count_publishers(t)} publishers of {t}' for t in topics]
        return (
            f'no {" and ".join(parts)} stamped {1e-9 * session.now_ns:.3f} s came within '
            f'{self._params.step_timeout_s:g} s ({", ".join(publishers)}); simulated time '
            'stands still; check that vla_policy runs and that chunk_executor is armed, both with '
            'stepping synchronous'
        )

    def _warn_if_slow(self, session: Session) -> None:
        asked, measured = self._params.real_time_factor, self._pacer.measured()
        if session.step >= 40 and measured < 0.9 * asked:
            self.get_logger().warning(
                f'simulation runs at {measured:.2f} of real time, {asked:.2f} is asked; lower '
                'image_hz, image_size or real_time_factor',
                throttle_duration_sec=30.0,
            )

    def _on_twist(self, message: TwistStamped) -> None:
        def hold(session: Session) -> None:
            twist = read_twist(message)
            session.commands.set_twist(twist[:3], twist[3:], session.now_ns)

        self._take('twist', message, hold)

    def _on_gripper(self, message: JointTrajectory) -> None:
        def hold(session: Session) -> None:
            session.commands.set_gripper(read_gripper(message, 'gripper'))

        self._take('gripper', message, hold)

    def _take(self, part: str, message: Any, hold: Callable[[Session], None]) -> None:
        """Hold a command; nothing where there is no scene, or where it is not for now."""
        stamp_ns = to_ns(message.header.stamp)
        session, lockstep = self._session, self._lockstep
        if session is None or (lockstep and not lockstep.wants(part, stamp_ns)):
            return
        try:
            hold(session)
        except InputRefused as refusal:
            # rclpy throttles by calling line: left to it, one topic would mute the other.
            now = time.monotonic()
            if now - self._warned_at.get(part, -_WARN_EVERY_S) >= _WARN_EVERY_S:
                self._warned_at[part] = now
                self.get_logger().warning(f'{self.resolve_topic_name(f"~/{part}")}: {refusal}')
            return
        if lockstep:
            lockstep.got(part, stamp_ns)
            if not lockstep.missing:
                self._turns.take()

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in parameters}
        if 'seed' in values and self._session is not None:
            self._session.restart_seeds(values['seed'])
        named = {name: values[name] for name in ('simulator', 'tasks') if name in values}
        if 'tasks' in named:
            named['tasks'] = tuple(task for task in named['tasks'] if task)
        try:
            if named:
                self._open(replace(self._params, **named))
        except VlaPruneError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request) -> tuple[bool, str]:
        session = self._session
        if session is None:
            return False, 'there is no scene; set the parameters simulator and tasks'
        # In synchronous stepping time jumps ahead, so that policy and executor forget the episode
        # before of their own accord: nothing is left to the moment at which somebody tells them.
        session.next_episode(GAP_NS if self._lockstep else 0)
        self._begin(session)
        begun = f'episode {session.episode} seed {session.seed} {session.scene.instruction}'
        self.get_logger().info(begun)
        return True, begun

    def _on_pause(self, request: SetBool.Request) -> tuple[bool, str]:
        self._paused = request.data
        return True, 'paused' if request.data else 'running'


def main(args: list[str] | None = None) -> int:
    return run_node(SimulatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
