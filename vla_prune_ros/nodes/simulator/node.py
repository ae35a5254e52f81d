"""The simulator as a ROS 2 node: cameras, pose, joints and ``/clock`` out, twist and gripper in.

The main thread owns the scene (an OpenGL context cannot change threads) and publishes; callbacks
run in an executor thread and only store what came.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import rclpy
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from ...errors import InputRefused, VlaPruneError
from ...runtime.messages import read_gripper, read_twist, to_ns
from ...sim.scene import Scene
from ...sim.session import Session
from .. import qos
from ..params import declare
from .loop import SimulatorLoop
from .params import SimulatorParams, open_scene

_WARN_EVERY_S = 5.0


class SimulatorNode(Node):
    """Publishes a scene and obeys commands; :meth:`run` is the main loop.

    :param make_scene: called in this thread with the parameters in force; again when another
        simulator or other tasks are asked for.
    :raises VlaPruneError: a parameter is out of range, or the default scene cannot start. Where
        another simulator or task is named and cannot start, the node says so and waits for a
        name that can.
    """

    def __init__(
        self, make_scene: Callable[[SimulatorParams], Scene] = open_scene, **kwargs: Any
    ) -> None:
        super().__init__('simulator', **kwargs)
        self.parameters = declare(self, SimulatorParams)
        self._loop = SimulatorLoop(self, self.parameters, make_scene)
        self._warned_at: dict[str, float] = {}
        self._open()
        self._listen()

    def _open(self) -> None:
        try:
            self._loop.open(self.parameters)
        except VlaPruneError as error:
            chosen = (self.parameters.simulator, self.parameters.tasks)
            if chosen == (SimulatorParams.simulator, ()):
                raise
            self.get_logger().error(
                f'no scene: {error}; then set the parameters simulator and tasks of this node'
            )

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
        with self._taker('twist', to_ns(message.header.stamp)) as session:
            if session is not None:
                twist = read_twist(message)
                session.commands.set_twist(twist[:3], twist[3:], session.now_ns)

    def _on_gripper(self, message: JointTrajectory) -> None:
        with self._taker('gripper', to_ns(message.header.stamp)) as session:
            if session is not None:
                session.commands.set_gripper(read_gripper(message, 'gripper'))

    @contextmanager
    def _taker(self, part: str, stamp_ns: int) -> Iterator[Session | None]:
        """The session that takes this command; None where there is none, or it is not for now."""
        session, lockstep = self._loop.session, self._loop.lockstep
        if session is None or (lockstep and not lockstep.wants(part, stamp_ns)):
            yield None
            return
        try:
            yield session
        except InputRefused as error:
            self._refuse(part, error)
            return
        if lockstep:
            lockstep.got(part, stamp_ns)

    def _refuse(self, part: str, error: InputRefused) -> None:
        # rclpy throttles by calling line: were it left to it, one topic would mute the other.
        now = time.monotonic()
        if now - self._warned_at.get(part, -_WARN_EVERY_S) >= _WARN_EVERY_S:
            self._warned_at[part] = now
            self.get_logger().warning(f'{self.resolve_topic_name(f"~/{part}")}: {error}')

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in parameters}
        if 'seed' in values and self._loop.session is not None:
            self._loop.session.restart_seeds(values['seed'])
        named = {name: values[name] for name in ('simulator', 'tasks') if name in values}
        if not named:
            return SetParametersResult(successful=True)
        if 'tasks' in named:
            named['tasks'] = tuple(task for task in named['tasks'] if task)
        wanted = replace(self._loop.parameters, **named)
        request = self._loop.ask(lambda: self._loop.reopen(wanted))
        return SetParametersResult(successful=not request.failed, reason=request.failed)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        request = self._loop.ask(self._loop.next_episode)
        response.success = request.done.is_set() and not request.failed
        response.message = request.failed or request.reply
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._loop.paused = request.data
        response.success, response.message = True, 'paused' if request.data else 'running'
        return response

    def run(self) -> None:
        """Step and publish until the context shuts down; a second thread serves callbacks."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        listener = threading.Thread(target=_spin, args=(executor,), name='callbacks', daemon=True)
        listener.start()
        try:
            if self._loop.session is not None:
                self._loop.begin()
            while self.context.ok():
                self._loop.once()
        except Exception:
            if self.context.ok():  # else it ended under a publisher
                raise
        finally:
            executor.shutdown(timeout_sec=0.5)
            listener.join(timeout=0.5)

    def close(self) -> None:
        """Free the scene and the node, in the thread that made them."""
        self._loop.close()
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
