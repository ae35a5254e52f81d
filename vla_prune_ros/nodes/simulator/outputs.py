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
from ..interface import Topic
from ..messages import build
from ..qos import command, latched, lossless, sensor_data

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

WORLD_FRAME = 'world'
_ACKNOWLEDGED_WITHIN_S = 0.5


class SimulatorOutputs:
    """Publishers of the simulator node.

    :param synchronous: camera and state topics are reliable, so that nothing is lost.
    """

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
        """Make the image topics that are not there yet."""
        for camera in cameras:
            if camera not in self._images:
                self._images[camera] = IMAGE.publisher(self._node, self._sensor, camera=camera)

    def instruct(self, text: str) -> None:
        """Publish the task; in synchronous stepping it arrives before the first observation."""
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

        :param render: camera -> uint8 (H, W, 3) RGB; None where no images are due.
        """
        # The clock comes first: nobody receives a stamp from his future. Images come last: who
        # waits for them has the state already.
        position, rotation = state.ee_position, state.ee_quat_xyzw
        self._sent = []
        self._send(self._clock, Clock(clock=build.time(stamp_ns)))
        self._send(self._pose, build.pose(position, rotation, stamp_ns, WORLD_FRAME))
        names, positions = state.joint_names, state.joint_positions
        joints = build.joints(names, positions, state.joint_velocities, stamp_ns)
        self._send(self._joints, joints)
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
        status = build.status(
            f'{self._node.get_name()}: episode',
            {**values, 'success': str(success).lower()},
            message=waits_for or ('success' if success else 'running'),
            level=build.WARN if waits_for else build.OK,
            hardware_id='simulation',
        )
        self._episode.publish(build.diagnostics([status], stamp_ns, WORLD_FRAME))
