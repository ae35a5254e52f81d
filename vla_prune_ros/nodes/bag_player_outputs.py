"""Topics of the bag player: the policy's inputs under its name, commands out of the way."""

from collections import Counter
from collections.abc import Mapping

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from ..errors import ProfileError
from ..runtime.bag import IMAGES, JOINTS, POSE, TEXT, TRAJECTORY, TWIST
from ..runtime.bag_topics import STREAMS
from . import qos
from .bag_player_params import BagPlayerParams

INPUTS = ('ee_pose', 'joint_states', 'instruction')
"""Streams that the policy takes, beside its cameras."""

_KINDS: Mapping[str, type] = {
    IMAGES[0]: Image,
    IMAGES[1]: CompressedImage,
    POSE: PoseStamped,
    JOINTS: JointState,
    TEXT: String,
    TWIST: TwistStamped,
    TRAJECTORY: JointTrajectory,
}
_CLOCK_STEP_NS = 1_000_000  # of ROS time: finer than anybody compares stamps with it
_ACKNOWLEDGED_WITHIN_S = 0.5


class PlayerOutputs:
    """Publishers of the bag player; they take serialised messages.

    :param streams: topic of the bag -> stream, a camera or one of ``bag_topics.STREAMS``.
    :param types: topic of the bag -> message type.
    :raises ProfileError: a name is none, or a recorded chunk would pass for the policy's own.
    """

    def __init__(
        self,
        node: Node,
        params: BagPlayerParams,
        streams: Mapping[str, str],
        types: Mapping[str, str],
    ) -> None:
        self._node, self._target = node, params.target.rstrip('/')
        self._prefix = params.recorded_prefix.rstrip('/')
        self.sent: Counter[str] = Counter()
        """Topic of the bag -> messages that were published."""
        self._publishers: dict[str, Publisher] = {}
        self._other_transport: dict[str, str] = {}
        for topic, stream in streams.items():
            self._publishers[topic] = self._advertise(topic, stream, types[topic])
        self._inputs = [p for t, p in self._publishers.items() if self._is_input(streams[t])]
        self._clock = self._publisher(Clock, '/clock', qos.command()) if params.clock else None
        self._clock_ns = -1

    def describe(self) -> str:
        """One line for the log: topic of the bag -> topic."""
        return ', '.join(f'{t} -> {p.topic_name}' for t, p in self._publishers.items())

    def tick(self, now_ns: int) -> None:
        """Publish the time, where that is asked for, it is known and it went on."""
        if self._clock is None or now_ns <= 0 or 0 <= now_ns - self._clock_ns < _CLOCK_STEP_NS:
            return
        self._clock_ns = now_ns
        stamp = Time(sec=now_ns // 1_000_000_000, nanosec=now_ns % 1_000_000_000)
        self._clock.publish(Clock(clock=stamp))

    def send(self, topic: str, cdr: bytes) -> None:
        """Publish a message of a topic of the bag."""
        self._publishers[topic].publish(cdr)
        self.sent[topic] += 1

    def unheard(self) -> list[str]:
        """Inputs of the policy that nobody subscribes to, each with what is known of it."""
        return [
            p.topic_name + self._hint(p.topic_name)
            for p in self._inputs
            if not p.get_subscription_count()
        ]

    def other_clocks(self) -> int:
        """Other publishers of ``/clock``: with two of them time jumps all the while."""
        return 0 if self._clock is None else self._node.count_publishers('/clock') - 1

    def flush(self) -> None:
        """Wait a moment until reliable subscribers have what was sent."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_WITHIN_S))

    def _advertise(self, topic: str, stream: str, kind: str) -> Publisher:
        if not self._is_input(stream):
            return self._publisher(_KINDS[kind], self._recorded(topic), qos.command())
        if stream == 'instruction':
            return self._publisher(_KINDS[kind], f'{self._target}/{stream}', qos.latched())
        if stream in INPUTS:
            return self._publisher(_KINDS[kind], f'{self._target}/{stream}', qos.sensor_data())
        names = [f'{self._target}/image/{stream}', f'{self._target}/image/{stream}/compressed']
        name, other = names if kind == IMAGES[0] else names[::-1]
        publisher = self._publisher(_KINDS[kind], name, qos.sensor_data())
        self._other_transport[publisher.topic_name] = other
        return publisher

    def _recorded(self, topic: str) -> str:
        name, own = f'{self._prefix}/{topic.lstrip("/")}', f'{self._target}/action_chunk'
        if self._resolved(name) == self._resolved(own):
            raise ProfileError(
                f'topic {topic} of the bag would go out as {own}, which is for the chunks of the '
                'policy that listens',
                "set recorded_prefix, for example to '/recorded'",
            )
        return name

    def _resolved(self, topic: str) -> str:
        try:
            return self._node.resolve_topic_name(topic)
        except Exception as error:  # rclpy has one class for each way in which a name is wrong
            raise ProfileError(
                f'{topic!r} is no name of a topic ({str(error).splitlines()[0]})',
                'check the parameters target, recorded_prefix and topics',
            ) from None

    def _publisher(self, kind: type, topic: str, profile: qos.QoSProfile) -> Publisher:
        self._resolved(topic)
        return self._node.create_publisher(
            kind, topic, profile, qos_overriding_options=qos.overridable()
        )

    def _hint(self, name: str) -> str:
        other = self._other_transport.get(name)
        if not other or not self._node.count_subscribers(other):
            return ''
        wanted = 'raw' if other.endswith('/compressed') else 'compressed'
        return f" ({other} is heard: set the policy's image_transport to {wanted})"

    @staticmethod
    def _is_input(stream: str) -> bool:
        return stream in INPUTS or stream not in STREAMS
