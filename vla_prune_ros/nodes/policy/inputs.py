"""Subscriptions of the policy node: callbacks count messages and hand them to the session."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from ...errors import InputRefused, ProfileError
from ...records import MotionHint
from ...runtime.messages import read_image, read_joints, read_pose, to_ns
from ...runtime.motion import LISTENS, JacobianMotion, MotionSource
from ...runtime.pairing import NotReady
from ...runtime.params import PolicyParams
from ...runtime.session import JOINTS, POSE, Now, PolicySession, SampleReader
from ..interface import Topic, latched, lossless, sensor_data

INSTRUCTION = Topic(
    '~/instruction', String, latched(), 'The task in plain words, at most 400 characters.'
)
IMAGE = Topic(
    '~/image/<camera>',
    Image,
    sensor_data(),
    'Frame of one camera, any colour encoding, padded rows too. With `image_transport` raw.',
)
COMPRESSED = Topic(
    '~/image/<camera>/compressed',
    CompressedImage,
    sensor_data(),
    'The same as JPEG or PNG. With `image_transport` compressed.',
)
STATES = {
    POSE: Topic(
        '~/ee_pose',
        PoseStamped,
        sensor_data(),
        "End effector in the robot's base frame: m, quaternion of either sign. With "
        '`proprio_kind` pose_gripper or `motion_source` pose.',
    ),
    JOINTS: Topic(
        '~/joint_states',
        JointState,
        sensor_data(),
        'Finger positions by name, m. Each message holds all of `gripper_joints`. With '
        '`motion_source` joint_velocities or joint_speed velocities of the arm too, rad/s.',
    ),
}
DESCRIPTION = Topic(
    '~/robot_description',
    String,
    latched(),
    'URDF. With `motion_source` joint_velocities and an empty `urdf`.',
)
_ONE_JOINT = (
    '<robot name="probe"><link name="base"/><link name="tip"/>'
    '<joint name="joint" type="continuous"><parent link="base"/><child link="tip"/></joint>'
    '</robot>'
)

MESSAGE_READER = SampleReader(
    stamp_ns=lambda message: to_ns(message.header.stamp),
    image=read_image,
    image_bytes=lambda message: message.data,
    pose=read_pose,
    joints=read_joints,
)


class DescribedMotion(MotionSource):
    """``joint_velocities`` for the URDF on ``~/robot_description``, unknown until that comes.

    :raises ProfileError: pinocchio is not installed, or ``ee_link`` is empty.
    """

    name = JacobianMotion.name

    def __init__(self, node: Node, params: PolicyParams) -> None:
        super().__init__()
        # Imports pinocchio now, or refuses: the callback must not wait for it.
        JacobianMotion(_ONE_JOINT, 'tip')
        if not params.ee_link:
            raise ProfileError(
                f'parameter ee_link is empty, motion_source {self.name!r} needs it',
                'set it to the link of the hand in the URDF',
            )
        self._node, self._params = node, params
        self._source: MotionSource | None = None
        self._problem = self._description = ''
        self._subscription = DESCRIPTION.subscription(node, self._on_description)

    def on_joints(self, stamp_ns: int, *joints: Any) -> None:
        if self._source is not None:
            self._source.on_joints(stamp_ns, *joints)

    def reset(self) -> None:
        super().reset()
        if self._source is not None:
            self._source.reset()

    def _estimate(self, stamp_ns: int) -> MotionHint:
        if self._source is not None:
            return self._source._estimate(stamp_ns)
        topic = self._subscription.topic_name
        what = self._problem or (
            f'no robot description received on {topic} '
            f'({self._node.count_publishers(topic)} publishers)'
        )
        raise InputRefused('missing', what, 'remap ~/robot_description or set urdf')

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _on_description(self, message: String) -> None:
        if message.data == self._description:
            return
        self._description = message.data
        try:
            self._source = self._params.motion(message.data)
        except ProfileError as error:
            self._source = None
            self._problem = f'{self._subscription.topic_name}: {error}'
            self._node.get_logger().warning(self._problem)


def motion_input(node: Node, params: PolicyParams) -> MotionSource:
    """:raises ProfileError: the motion source lacks a parameter, or one is not usable."""
    if params.motion_source == JacobianMotion.name and not params.urdf:
        return DescribedMotion(node, params)
    return params.motion()


class Inputs:
    """All input streams of the policy node; the silence of one that only the motion source needs
    makes the motion unknown and stops nothing.

    :param on_image: called with camera and message of each image that the session took, in the
        executor thread.
    :param on_jump: called when time jumped back on a stream; the session has forgotten it already.
    :param on_refused: called with the refusal of a message.
    """

    def __init__(
        self,
        node: Node,
        session: PolicySession,
        image_transport: str,
        on_image: Callable[[str, Any], None],
        on_jump: Callable[[], None],
        on_refused: Callable[[InputRefused], None],
    ) -> None:
        self._node, self._session = node, session
        self._on_image, self._on_jump, self._on_refused = on_image, on_jump, on_refused
        self._last_receipt: dict[str, int] = {}
        self._refusals: dict[str, InputRefused] = {}  # of the newest message, if it was bad
        params, cameras = session.params, session.profile.cameras
        self._max_age_ns = round(1e9 * params.max_input_age_s)
        heard = [s for s in LISTENS[params.motion_source] if s not in session.states]
        states = (*session.states, *heard)
        self._periods = {name: deque(maxlen=60) for name in (*cameras, *states)}
        self._received = dict.fromkeys(self._periods, 0)
        self._subscriptions = {s: self._subscribe(STATES[s], s) for s in states}
        # Behind the state: of what is ready together, the images complete the pair.
        image = COMPRESSED if image_transport == 'compressed' else IMAGE
        self._subscriptions |= {c: self._subscribe(image, c, camera=c) for c in cameras}

    def now(self) -> Now:
        return Now(self._node.get_clock().now().nanoseconds, time.monotonic_ns())

    def why(self, last: NotReady | None) -> NotReady | None:
        """What keeps requests from happening, with topic and remedy; None if nothing does.

        :param last: what the session said last.
        """
        now = self.now()
        wait = self._session.pairing.health(now.ros_ns, now.mono_ns)
        if wait is None:
            # In synchronous stepping the rest of an instant is on its way.
            skewed = last is not None and last.reason == 'skew'
            return last if skewed and not self._session.params.synchronous else None
        kind, _, stream = wait.reason.partition(':')
        refusal = self._refusals.get(stream)
        if refusal is not None and now.mono_ns - self._last_receipt[stream] <= self._max_age_ns:
            return NotReady(f'{refusal.reason}:{stream}', str(refusal))
        if kind != 'missing':
            return wait
        topic = self._subscriptions[stream].topic_name
        publishers = self._node.count_publishers(topic)
        absent = 'start its driver or remap the topic'
        remedy = 'check its QoS and stamps' if publishers else absent
        text = f'{stream}: nothing received on {topic} ({publishers} publishers); {remedy}'
        return NotReady(wait.reason, text)

    def counts(self) -> dict[str, float]:
        """For the diagnostics: messages of each stream since the node configured, and the median
        rate of the last ones by receipt, 0 before the second."""
        rates = {
            f'{name}_rate_hz': 1.0 / float(np.median(periods)) if periods else 0.0
            for name, periods in self._periods.items()
        }
        return rates | {f'{name}_received': n for name, n in self._received.items()}

    def clear(self) -> None:
        self._refusals.clear()

    def destroy(self) -> None:
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, topic: Topic, stream: str, **names: str) -> Any:
        return topic.subscription(
            self._node,
            lambda message: self._on_message(stream, message),
            lossless() if self._session.params.synchronous else None,
            **names,
        )

    def _on_message(self, stream: str, message: Any) -> None:
        now = self.now()
        last = self._last_receipt.get(stream)
        self._last_receipt[stream] = now.mono_ns
        self._received[stream] += 1
        if last is not None:
            self._periods[stream].append(max(now.mono_ns - last, 1) * 1e-9)
        try:
            if self._session.add(stream, message, now):
                self._on_jump()
        except InputRefused as refusal:
            self._refusals[stream] = refusal
            self._on_refused(refusal)
            return
        self._refusals.pop(stream, None)
        if stream in self._session.profile.cameras:
            self._on_image(stream, message)
