"""The simulator as a ROS 2 node: cameras, pose, joints and ``/clock`` out, twist and gripper in.

The main thread owns the scene (an OpenGL context cannot change threads) and publishes; callbacks
run in an executor thread and only store what came.
"""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ..errors import InputRefused, VlaPruneError
from ..sim.scene import Scene
from ..sim.session import Pacer, Session
from . import qos
from .messages import image_message, to_stamp
from .parameters import declare, param
from .simulator_messages import episode_message, gripper_goal, joint_message, pose_message

_WARN_EVERY_S = 5.0
_LONGEST_NAP_S = 0.05  # SIGTERM ends the context without waking the main thread


@dataclass(frozen=True)
class SimulatorParams:
    """Parameters of the node ``simulator``."""

    seed: int = param(
        0,
        'Seed of the next episode; those after it count on. Even seeds ask for the red cube, '
        'odd ones for the green cube.',
        low=0,
        high=1_000_000_000,
        live=True,
    )
    image_hz: float = param(
        20.0,
        'Images per camera and simulated second; at most one per control step, 20 Hz.',
        low=0.1,
        high=20.0,
    )
    real_time_factor: float = param(
        1.0, 'Simulated seconds per wall second; 0 for as fast as possible.', low=0.0, high=10.0
    )
    image_size: int = param(256, 'Side of the square pictures in pixels.', low=16, high=1024)
    gl: str = param(
        'auto',
        'OpenGL backend; auto takes MUJOCO_GL where it is set, else the first that renders.',
        choices=('auto', 'egl', 'osmesa'),
    )
    command_timeout_s: float = param(
        0.2, 'Simulated seconds after which a twist no longer moves the arm.', low=0.0, high=10.0
    )


def two_cube_scene(parameters: SimulatorParams) -> Scene:
    """The scene that the node shows; MuJoCo and robosuite are imported here."""
    from ..sim.robosuite_scene import TwoCubeScene

    return TwoCubeScene(image_size=parameters.image_size, gl=parameters.gl)


@dataclass
class _ResetRequest:
    done: threading.Event = field(default_factory=threading.Event)
    reply: str = ''


class SimulatorNode(Node):
    """Publishes a scene and obeys commands; :meth:`run` is the main loop.

    :param make_scene: called once, in this thread, with the parameters in force.
    :raises VlaPruneError: a parameter is out of range, or the scene cannot start.
    """

    def __init__(self, make_scene: Callable[[SimulatorParams], Scene] = two_cube_scene) -> None:
        super().__init__('simulator')
        self.parameters = declare(self, SimulatorParams)
        self._scene = make_scene(self.parameters)
        self._session = Session(
            self._scene, self.parameters.seed, self.parameters.command_timeout_s
        )
        self._pacer = Pacer(self._session.period_ns / 1e9, self.parameters.real_time_factor)
        self._requests: queue.SimpleQueue[_ResetRequest] = queue.SimpleQueue()
        self._paused = False
        self._advertise()
        self._listen()
        self.get_logger().info(f'{self._scene.description}; episode 0: {self._scene.instruction}')

    def _advertise(self) -> None:
        def publisher(kind: type, topic: str, profile: qos.QoSProfile) -> Publisher:
            return self.create_publisher(
                kind, topic, profile, qos_overriding_options=qos.overridable()
            )

        self._images_out = {
            camera: publisher(Image, f'~/image/{camera}', qos.sensor_data())
            for camera in self._scene.cameras
        }
        self._pose_out = publisher(PoseStamped, '~/ee_pose', qos.sensor_data())
        self._joints_out = publisher(JointState, '~/joint_states', qos.sensor_data())
        self._clock_out = publisher(Clock, '/clock', qos.command())
        self._instruction_out = publisher(String, '~/instruction', qos.latched())
        self._episode_out = publisher(DiagnosticArray, '~/episode', qos.command())

    def _listen(self) -> None:
        # Volatile on purpose: what was commanded before this node came up must not move the arm.
        for kind, topic, callback in (
            (TwistStamped, '~/twist', self._on_twist),
            (JointTrajectory, '~/gripper', self._on_gripper),
        ):
            self.create_subscription(
                kind, topic, callback, qos.command(), qos_overriding_options=qos.overridable()
            )
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(SetBool, '~/pause', self._on_pause)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _on_twist(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        try:
            self._session.commands.set_twist(
                np.array([linear.x, linear.y, linear.z]),
                np.array([angular.x, angular.y, angular.z]),
                self._session.now_ns,
            )
        except InputRefused as error:
            # rclpy throttles by calling line: were it shared, one topic would mute the other.
            self.get_logger().warning(
                f'{self.resolve_topic_name("~/twist")}: {error}',
                throttle_duration_sec=_WARN_EVERY_S,
            )

    def _on_gripper(self, message: JointTrajectory) -> None:
        try:
            self._session.commands.set_gripper(gripper_goal(message))
        except InputRefused as error:
            self.get_logger().warning(
                f'{self.resolve_topic_name("~/gripper")}: {error}',
                throttle_duration_sec=_WARN_EVERY_S,
            )

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == 'seed':
                self._session.restart_seeds(parameter.value)
        return SetParametersResult(successful=True)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        request = _ResetRequest()
        self._requests.put(request)
        while self.context.ok() and not request.done.wait(0.1):
            pass
        response.success, response.message = request.done.is_set(), request.reply
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        response.success, response.message = True, 'paused' if request.data else 'running'
        return response

    def run(self) -> None:
        """Step and publish until the context shuts down; a second thread serves callbacks."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        listener = threading.Thread(target=_spin, args=(executor,), name='callbacks', daemon=True)
        listener.start()
        try:
            self._publish_instruction()
            self._publish()
            self._pacer.restart()
            while self.context.ok():
                self._loop_once()
        finally:
            executor.shutdown(timeout_sec=0.5)
            listener.join(timeout=0.5)

    def _loop_once(self) -> None:
        if not self._requests.empty():
            self._start_next_episode(self._requests.get())
        elif self._paused:
            time.sleep(_LONGEST_NAP_S)
            self._pacer.restart()
        elif (wait := self._pacer.wait_s()) > 0.0:
            time.sleep(min(wait, _LONGEST_NAP_S))
        else:
            self._session.advance()
            self._pacer.stepped()
            self._publish()
            self._warn_if_slow()

    def _start_next_episode(self, request: _ResetRequest) -> None:
        session = self._session
        session.next_episode()
        request.reply = f'episode {session.episode} seed {session.seed} {self._scene.instruction}'
        self._publish_instruction()
        self._publish()
        request.done.set()
        self._pacer.restart()
        self.get_logger().info(request.reply)

    def _publish_instruction(self) -> None:
        self._instruction_out.publish(String(data=self._scene.instruction))

    def _publish(self) -> None:
        # The clock first: nobody receives a stamp from his future.
        session, stamp = self._session, to_stamp(self._session.now_ns)
        self._clock_out.publish(Clock(clock=stamp))
        self._pose_out.publish(pose_message(session.state, stamp))
        self._joints_out.publish(joint_message(session.state, stamp))
        if session.due(self.parameters.image_hz):
            for camera, rgb in self._scene.images().items():
                message = image_message(rgb, stamp, f'{camera}_optical')
                self._images_out[camera].publish(message)
        values = {**session.report(), 'real_time_factor': self._pacer.measured()}
        self._episode_out.publish(
            episode_message(self.get_name(), values, self._scene.success(), stamp)
        )

    def _warn_if_slow(self) -> None:
        asked, measured = self.parameters.real_time_factor, self._pacer.measured()
        if self._session.step >= 40 and measured < 0.9 * asked:
            self.get_logger().warning(
                f'simulation runs at {measured:.2f} of real time, {asked:.2f} is asked; lower '
                'image_hz, image_size or real_time_factor',
                throttle_duration_sec=30.0,
            )

    def close(self) -> None:
        """Free the scene and the node, in the thread that made them."""
        self._scene.close()
        self.destroy_node()


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else the signal ended the context between two looks at it
            raise


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 0 after either, 1 where it cannot start."""
    node = None
    try:
        rclpy.init(args=args)
        node = SimulatorNode()
        node.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        if node is None:  # half-made renderers would complain of it while they are freed
            sys.unraisablehook = lambda _: None
    except VlaPruneError as error:
        get_logger('simulator').fatal(str(error))
        return 1
    except Exception:
        if rclpy.ok():  # else SIGTERM ended the context under a publisher
            raise
    finally:
        # A second Ctrl-C must not interrupt freeing the renderer.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
