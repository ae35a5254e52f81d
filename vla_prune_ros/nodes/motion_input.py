"""How the end effector moves, from the topics that the chosen source listens to."""

from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from ..errors import ProfileError
from ..records import ActionChunk, MotionHint
from ..runtime.motion import LISTENS, MotionSource, build_motion
from .messages import pose_arrays, to_ns
from .policy_params import PolicyParams
from .qos import latched, overridable

POSE, JOINTS = 'ee_pose', 'joint_states'
DESCRIPTION = '~/robot_description'
_JACOBIAN = 'joint_velocities'
_ONE_JOINT = (
    '<robot name="probe"><link name="base"/><link name="tip"/>'
    '<joint name="joint" type="continuous"><parent link="base"/><child link="tip"/></joint>'
    '</robot>'
)


class MotionInput:
    """The motion source that a user chose, fed by the callbacks of the policy node.

    Without the parameter ``urdf`` the source ``joint_velocities`` takes the URDF from the latched
    topic ``~/robot_description``; until it comes the motion is unknown.

    :raises ProfileError: the source lacks a parameter, or one is not usable.
    """

    def __init__(self, node: Node, params: PolicyParams) -> None:
        self._node, self._params = node, params
        self.streams: tuple[str, ...] = LISTENS[params.motion_source]
        """Which of ``ee_pose`` and ``joint_states`` it must hear."""
        self._source: MotionSource | None = None
        self._lacks = ''
        self._chunk: ActionChunk | None = None
        self._description = ''
        self._subscription: Any = None
        if params.motion_source == _JACOBIAN and not params.urdf:
            self._await_description()
        else:
            self._source = self._build(params.urdf)

    def on_pose(self, message: PoseStamped) -> None:
        """Feed a pose of the end effector."""
        if self._source is not None:
            self._source.on_pose(to_ns(message.header.stamp), *pose_arrays(message))

    def on_joints(self, message: JointState) -> None:
        """Feed a joint state."""
        if self._source is not None:
            stamp_ns = to_ns(message.header.stamp)
            self._source.on_joints(stamp_ns, message.name, message.position, message.velocity)

    def published(self, chunk: ActionChunk) -> None:
        """Keep the chunk that went out last; any thread may call it."""
        self._chunk = chunk

    def at(self, stamp_ns: int) -> tuple[MotionHint | None, str]:
        """The motion at an instant, or None and why, in one line."""
        if self._source is None:
            return None, self._lacks or self._not_heard()
        chunk = self._chunk
        if chunk is not None:
            self._source.on_chunk(chunk)
        return self._source.at(stamp_ns), self._source.why()

    def reset(self) -> None:
        """Forget all that was fed, for a new episode; the robot stays the same."""
        self._chunk = None
        if self._source is not None:
            self._source.reset()

    def destroy(self) -> None:
        """Take the subscription down."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _await_description(self) -> None:
        # Imports pinocchio now, or refuses: the callback must not wait for it.
        build_motion(_JACOBIAN, urdf=_ONE_JOINT, tip='tip')
        if not self._params.ee_link:
            raise ProfileError(
                f'parameter ee_link is empty, motion_source {_JACOBIAN!r} needs it',
                'set it to the link of the hand in the URDF',
            )
        self._subscription = self._node.create_subscription(
            String,
            DESCRIPTION,
            self._on_description,
            latched(),
            qos_overriding_options=overridable(),
        )

    def _on_description(self, message: String) -> None:
        if message.data == self._description:
            return
        self._description = message.data
        try:
            self._source, self._lacks = self._build(message.data), ''
        except ProfileError as error:
            self._source = None
            self._lacks = f'{self._subscription.topic_name}: {error}'
            self._node.get_logger().warning(self._lacks)

    def _build(self, urdf: str) -> MotionSource:
        params = self._params
        return build_motion(
            params.motion_source,
            urdf=urdf,
            tip=params.ee_link,
            base=params.base_link,
            reach_m=params.reach_m,
            joints=params.arm_joints,
            gripper_joints=params.gripper_joints,
        )

    def _not_heard(self) -> str:
        topic = self._subscription.topic_name
        publishers = self._node.count_publishers(topic)
        return (
            f'no robot description received on {topic} ({publishers} publishers); '
            'remap ~/robot_description or set urdf'
        )
