"""What the simulator publishes: observations, each of one stamp, and again on demand."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from ...sim.scene import SceneState
from .. import qos
from ..messages import build

WORLD_FRAME = 'world'


def episode_message(
    node: str, values: Mapping[str, Any], success: bool, stamp_ns: int, waits_for: str = ''
) -> DiagnosticArray:
    """How the episode stands: ``values`` and ``success`` as one status, at WARN while it waits."""
    status = build.status(
        f'{node}: episode',
        {**values, 'success': str(success).lower()},
        message=waits_for or ('success' if success else 'running'),
        level=build.WARN if waits_for else build.OK,
        hardware_id='simulation',
    )
    return build.diagnostics([status], stamp_ns, WORLD_FRAME)


_ACKNOWLEDGED_WITHIN_S = 0.5


class SimulatorOutputs:
    """Publishers of the simulator node.

    :param synchronous: camera and state topics are reliable, so that nothing is lost.
    """

    def __init__(self, node: Node, synchronous: bool) -> None:
        self._node, self._synchronous = node, synchronous
        self._sensor = qos.lossless if synchronous else qos.sensor_data
        self._images: dict[str, Publisher] = {}
        self._clock = self._publisher(Clock, '/clock', qos.command())
        self._pose = self._publisher(PoseStamped, '~/ee_pose', self._sensor())
        self._joints = self._publisher(JointState, '~/joint_states', self._sensor())
        self._instruction = self._publisher(String, '~/instruction', qos.latched())
        self._episode = self._publisher(DiagnosticArray, '~/episode', qos.command())
        self._sent: list[tuple[Publisher, Any]] = []

    def advertise_images(self, cameras: Iterable[str]) -> None:
        """Make the image topics that are not there yet."""
        for camera in cameras:
            if camera not in self._images:
                topic = f'~/image/{camera}'
                self._images[camera] = self._publisher(Image, topic, self._sensor())

    def instruct(self, text: str) -> None:
        """Tell the task; in synchronous stepping it arrives before the first observation does."""
        self._instruction.publish(build.text(text))
        if self._synchronous:
            self._instruction.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_WITHIN_S))

    def observe(
        self,
        stamp_ns: int,
        state: SceneState,
        render: Callable[[], Mapping[str, np.ndarray]] | None,
    ) -> None:
        """Publish the observation of an instant.

        The clock comes first: nobody receives a stamp from his future. Images come last: who waits
        for them has the state already.

        :param render: camera -> uint8 (H, W, 3) RGB; None where no images are due.
        """
        self._sent = []
        self._send(self._clock, Clock(clock=build.time(stamp_ns)))
        position, quaternion = state.ee_position, state.ee_quat_xyzw
        self._send(self._pose, build.pose(position, quaternion, stamp_ns, WORLD_FRAME))
        self._send(
            self._joints,
            build.joints(
                state.joint_names, state.joint_positions, state.joint_velocities, stamp_ns
            ),
        )
        for camera, rgb in (render() if render is not None else {}).items():
            self._send(self._images[camera], build.image(rgb, stamp_ns, f'{camera}_optical'))

    def _send(self, publisher: Publisher, message: Any) -> None:
        publisher.publish(message)
        self._sent.append((publisher, message))

    def repeat(self) -> None:
        """Publish the last observation once more, for whoever joined late."""
        for publisher, message in self._sent:
            publisher.publish(message)

    def report(
        self, stamp_ns: int, values: Mapping[str, Any], success: bool, waits_for: str
    ) -> None:
        """How the episode stands.

        :param waits_for: what the simulator waits for longer than it should; empty where nothing.
        """
        name = self._node.get_name()
        self._episode.publish(episode_message(name, values, success, stamp_ns, waits_for))

    def _publisher(self, kind: type, topic: str, profile: qos.QoSProfile) -> Publisher:
        return self._node.create_publisher(
            kind, topic, profile, qos_overriding_options=qos.overridable()
        )
