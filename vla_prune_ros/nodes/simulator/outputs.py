"""Between the simulator's records and ROS messages; nothing here keeps state.

What the simulator publishes: observations, each of one stamp, and again on demand.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from ...errors import InputRefused
from ...sim.scene import SceneState
from .. import qos
from ..messages import image_message, status_message

WORLD_FRAME = 'world'


def gripper_goal(message: JointTrajectory) -> float:
    """Fraction open (0 closed .. 1 open): the last point of a trajectory of the joint ``gripper``.

    :raises InputRefused: ``joint_names`` for another joint, ``points`` where no position is given.
    """
    names = list(message.joint_names)
    if names != ['gripper']:
        raise InputRefused('joint_names', f'joint_names is {names}', "send ['gripper']")
    if not message.points or len(message.points[-1].positions) != 1:
        raise InputRefused('points', 'no point with one position', 'send one')
    return float(message.points[-1].positions[0])


def pose_message(state: SceneState, stamp: Time) -> PoseStamped:
    """The end effector's pose in the world frame."""
    x, y, z = map(float, state.ee_position)
    qx, qy, qz, qw = map(float, state.ee_quat_xyzw)
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return PoseStamped(header=Header(stamp=stamp, frame_id=WORLD_FRAME), pose=pose)


def joint_message(state: SceneState, stamp: Time) -> JointState:
    """Positions and velocities of arm and fingers."""
    return JointState(
        header=Header(stamp=stamp),
        name=list(state.joint_names),
        position=state.joint_positions.tolist(),
        velocity=state.joint_velocities.tolist(),
    )


def episode_message(
    node: str, values: Mapping[str, Any], success: bool, stamp: Time, waits_for: str = ''
) -> DiagnosticArray:
    """How the episode stands: ``values`` and ``success`` as one status, at WARN while it waits."""
    status = status_message(
        f'{node}: episode',
        DiagnosticStatus.WARN if waits_for else DiagnosticStatus.OK,
        waits_for or ('success' if success else 'running'),
        {**values, 'success': str(success).lower()},
        'simulation',
    )
    return DiagnosticArray(header=Header(stamp=stamp, frame_id=WORLD_FRAME), status=[status])


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
        self._instruction.publish(String(data=text))
        if self._synchronous:
            self._instruction.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_WITHIN_S))

    def observe(
        self,
        stamp: Time,
        state: SceneState,
        render: Callable[[], Mapping[str, np.ndarray]] | None,
    ) -> None:
        """Publish the observation of an instant.

        The clock comes first: nobody receives a stamp from his future. Images come last: who waits
        for them has the state already.

        :param render: camera -> uint8 (H, W, 3) RGB; None where no images are due.
        """
        self._sent = []
        self._send(self._clock, Clock(clock=stamp))
        self._send(self._pose, pose_message(state, stamp))
        self._send(self._joints, joint_message(state, stamp))
        for camera, rgb in (render() if render is not None else {}).items():
            self._send(self._images[camera], image_message(rgb, stamp, f'{camera}_optical'))

    def _send(self, publisher: Publisher, message: Any) -> None:
        publisher.publish(message)
        self._sent.append((publisher, message))

    def repeat(self) -> None:
        """Publish the last observation once more, for whoever joined late."""
        for publisher, message in self._sent:
            publisher.publish(message)

    def report(
        self, stamp: Time, values: Mapping[str, Any], success: bool, waits_for: str
    ) -> None:
        """How the episode stands.

        :param waits_for: what the simulator waits for longer than it should; empty where nothing.
        """
        name = self._node.get_name()
        self._episode.publish(episode_message(name, values, success, stamp, waits_for))

    def _publisher(self, kind: type, topic: str, profile: qos.QoSProfile) -> Publisher:
        return self._node.create_publisher(
            kind, topic, profile, qos_overriding_options=qos.overridable()
        )
