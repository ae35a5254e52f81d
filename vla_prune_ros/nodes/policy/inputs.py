"""How the end effector moves, from the topics that the chosen source listens to.

Subscriptions of the policy node: callbacks store, pairing decides when there is a query.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from ...errors import InputRefused, ProfileError
from ...profiles import Profile
from ...records import ActionChunk, MotionHint
from ...runtime.messages import read_pose, to_ns
from ...runtime.motion import LISTENS, MotionSource, build_motion
from ...runtime.pairing import Pair, Pairing, Wait
from ...runtime.schedule import SYNCHRONOUS
from ..qos import latched, lossless, overridable, sensor_data
from .params import PolicyParams

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
            self._source.on_pose(to_ns(message.header.stamp), *read_pose(message))

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


CAMERA_TOPIC = '~/image/{camera}'


@dataclass(frozen=True)
class Counts:
    """What arrived on one stream.

    :param received: messages since the node configured.
    :param rate_hz: median rate of the last messages by receipt, 0 before the second.
    """

    received: int
    rate_hz: float


class Inputs:
    """All input streams of the policy node.

    A stream that only the motion source needs is no part of a pair: its silence makes the motion
    unknown and stops nothing.

    :param on_image: called with camera and message of each image that pairing accepted, in the
        executor's thread.
    :param on_reset: called when time jumped back on a stream; the buffers are cleared already.
    :param on_refused: called with the refusal of a message.
    """

    def __init__(
        self,
        node: Node,
        params: PolicyParams,
        profile: Profile,
        on_image: Callable[[str, Any], None],
        on_reset: Callable[[], None],
        on_refused: Callable[[InputRefused], None],
    ) -> None:
        self._node, self._on_image, self._on_reset, self._on_refused = (
            node,
            on_image,
            on_reset,
            on_refused,
        )
        states = {'pose_gripper': (POSE, JOINTS), 'joints': (JOINTS,), 'none': ()}[
            profile.proprio_kind
        ]
        self._synchronous = params.stepping == SYNCHRONOUS
        self.pairing = self._pairing(params, profile, states)
        self.motion = MotionInput(node, params)
        self._last_take: Pair | Wait | None = None
        self._topics: dict[str, str] = {}
        self._last_receipt: dict[str, int] = {}
        self._refusals: dict[str, InputRefused] = {}  # of the newest message, where it was bad
        self._max_age_ns = round(1e9 * params.max_input_age_s)
        for_motion = tuple(s for s in self.motion.streams if s not in states)
        self._periods = {
            name: deque(maxlen=60) for name in (*profile.cameras, *states, *for_motion)
        }
        self._received = dict.fromkeys(self._periods, 0)
        self._subscriptions = []
        kinds = {
            POSE: (PoseStamped, self.motion.on_pose),
            JOINTS: (JointState, self.motion.on_joints),
        }
        for stream in (*states, *for_motion):
            kind, feed = kinds[stream]
            paired = stream in states
            self._subscriptions.append(self._subscribe(kind, f'~/{stream}', stream, feed, paired))
        # Behind the state: of what is ready together, the images complete the pair.
        self._subscriptions += [self._camera(c, params.image_transport) for c in profile.cameras]

    def take(self) -> Pair | Wait:
        """The newest complete pair that was not taken yet, or why there is none."""
        self._last_take = self.pairing.take(self._now(), time.monotonic_ns())
        return self._last_take

    def why(self) -> Wait | None:
        """What keeps queries from happening, with topic and mend; None where nothing does."""
        wait = self.pairing.health(self._now(), time.monotonic_ns())
        if wait is None:
            if self._synchronous:  # the rest of an instant is on its way
                return None
            last = self._last_take
            return last if isinstance(last, Wait) and last.reason == 'skew' else None
        kind, _, stream = wait.reason.partition(':')
        refusal = self._refusals.get(stream)
        if refusal is not None and self._talks(stream):
            return Wait(f'{refusal.reason}:{stream}', str(refusal))
        if kind != 'missing':
            return wait
        topic = self._topics[stream]
        publishers = self._node.count_publishers(topic)
        return Wait(
            wait.reason,
            f'{stream}: nothing received on {topic} ({publishers} publishers); '
            + (
                'check its QoS and stamps' if publishers else 'start its driver or remap the topic'
            ),
        )

    def counts(self) -> dict[str, Counts]:
        """Stream -> messages received and their rate."""
        return {
            name: Counts(self._received[name], 1.0 / float(np.median(periods)) if periods else 0.0)
            for name, periods in self._periods.items()
        }

    def clear(self, reason: str) -> None:
        """Forget what was received, for example after a jump of the clock."""
        self.pairing.clear(reason)
        self._refusals.clear()

    def destroy(self) -> None:
        """Take all subscriptions down."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self.motion.destroy()

    def _pairing(self, params: PolicyParams, profile: Profile, states: tuple[str, ...]) -> Pairing:
        slop_s, age_s = params.sync_slop_s, params.max_input_age_s
        if self._synchronous:  # one instant: what is not there yet comes, or comes again
            return Pairing(profile.cameras, states, 0.0, age_s, state_slop_s=0.0)
        return Pairing(profile.cameras, states, slop_s, age_s)

    def _camera(self, camera: str, transport: str) -> Any:
        topic = CAMERA_TOPIC.format(camera=camera)
        kind: type = Image
        if transport == 'compressed':
            kind, topic = CompressedImage, f'{topic}/compressed'
        return self._subscribe(kind, topic, camera, lambda m: self._on_image(camera, m))

    def _subscribe(
        self,
        kind: type,
        topic: str,
        stream: str,
        then: Callable[[Any], None],
        paired: bool = True,
    ) -> Any:
        def store(message: Any) -> None:
            mono = time.monotonic_ns()
            self._count(stream, mono)
            if not paired or self._push(stream, message, mono):
                then(message)

        subscription = self._node.create_subscription(
            kind,
            topic,
            store,
            lossless() if self._synchronous else sensor_data(),
            qos_overriding_options=overridable(),
        )
        self._topics[stream] = subscription.topic_name
        return subscription

    def _push(self, stream: str, message: Any, mono: int) -> bool:
        try:
            if self.pairing.push(stream, to_ns(message.header.stamp), mono, message, self._now()):
                self._on_reset()
        except InputRefused as refusal:
            self._refusals[stream] = refusal
            self._on_refused(refusal)
            return False
        self._refusals.pop(stream, None)
        return True

    def _talks(self, stream: str) -> bool:
        """Messages arrive, of whatever use they are."""
        return time.monotonic_ns() - self._last_receipt[stream] <= self._max_age_ns

    def _count(self, stream: str, mono: int) -> None:
        last = self._last_receipt.get(stream)
        self._last_receipt[stream] = mono
        self._received[stream] += 1
        if last is not None:
            self._periods[stream].append(max(mono - last, 1) * 1e-9)

    def _now(self) -> int:
        return self._node.get_clock().now().nanoseconds
