"""Parameters of the bag player: declaration, ranges and documentation in one record.

Topics of the bag player: the policy's inputs under its name, commands out of the way.

The bag player's own thread: it reads, waits until a message is due, and publishes.

Neither a slow disk nor a wait keeps the executor from parameters, signals and the end.

``bag_player``: a recorded bag, heard by a live policy as if it were the robot.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from ...bags.events import Event, Replay
from ...bags.playback import LaterBag, Serializer, Timeline
from ...bags.reader import (
    IMAGE_TYPES,
    JOINTS_TYPE,
    POSE_TYPE,
    TEXT_TYPE,
    TRAJECTORY_TYPE,
    TWIST_TYPE,
    Bag,
)
from ...bags.topics import STREAMS, Topics, guess_topics, load_topics
from ...config import option
from ...errors import DataError, InputRefused, ProfileError
from ...profiles import Profile, load_profile
from .. import qos
from ..params import declare
from ..process import run_node
from .environment import local_environment


@dataclass(frozen=True)
class BagPlayerParams:
    """Parameters of the node ``bag_player``."""

    bag: str = option('', 'The recording: a folder or file of rosbag2 (sqlite3, MCAP) or ROS 1.')
    topics: str = option(
        '',
        'YAML file that names the topics of the bag; empty: guessed by type and name, and the '
        'guess is logged.',
    )
    profile: str = option(
        'libero',
        'Robot profile, for the names of the cameras: libero, aloha, bridge, or the path of a '
        '.yaml profile.',
    )
    target: str = option('/vla_policy', 'Name of the policy node whose inputs are fed.')
    rate: float = option(1.0, 'Recorded seconds per wall second.', low=0.01, high=100.0)
    loop: bool = option(False, 'Begin again at the end, for ever.')
    start_offset_s: float = option(
        0.0, 'Seconds of the recording that are left out at its beginning.', low=0.0, high=1e6
    )
    clock: bool = option(
        True, 'Publish the time of the bag on /clock, for nodes with use_sim_time true.'
    )
    restamp: bool = option(
        False,
        'For nodes on wall time: header stamps are as old as they were when they were recorded. '
        'Needs clock false.',
    )
    wait_for_subscribers_s: float = option(
        60.0,
        'Longest wait for the policy to subscribe before the first message leaves, in s; 0: no '
        'wait.',
        low=0.0,
        high=86400.0,
    )
    recorded_prefix: str = option(
        '/recorded',
        'Put before the names of recorded commands and chunks. Empty: they go out on their own '
        'names, and whatever listens there moves.',
    )


def check_player(params: BagPlayerParams) -> None:
    """Check what no single range can.

    :raises ProfileError: no bag is named, or time is asked for twice.
    """
    if not params.bag:
        raise ProfileError('parameter bag is empty', 'set it to the folder or file of a recording')
    if params.clock and params.restamp:
        raise ProfileError(
            'parameters clock and restamp are both true',
            'set clock to false for a policy on wall time, or restamp to false for one with '
            'use_sim_time',
        )


INPUTS = ('ee_pose', 'joint_states', 'instruction')
"""Streams that the policy takes, beside its cameras."""

_KINDS: Mapping[str, type] = {
    IMAGE_TYPES[0]: Image,
    IMAGE_TYPES[1]: CompressedImage,
    POSE_TYPE: PoseStamped,
    JOINTS_TYPE: JointState,
    TEXT_TYPE: String,
    TWIST_TYPE: TwistStamped,
    TRAJECTORY_TYPE: JointTrajectory,
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
        name, other = names if kind == IMAGE_TYPES[0] else names[::-1]
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


_LEAD_NS = 50_000_000  # the clock is there before the first message of a pass
_SEAM_NS = 100_000_000  # what is under way at the end arrives before time jumps back
_TICK_S = 0.01
_LATE_NS = 500_000_000
_SAY_EVERY_S = 10.0
_LAST_S = 0.2  # for what is under way at the very end


class PlayerLoop:
    """Pass after pass of a bag.

    Only ``report``, ``over`` and ``failure`` are for other threads.

    :param topics: checked against the bag.
    """

    def __init__(
        self,
        node: Node,
        params: BagPlayerParams,
        profile: Profile,
        topics: Topics,
        outputs: PlayerOutputs,
    ) -> None:
        self._node, self._params, self._profile = node, params, profile
        self._topics, self._outputs = topics, outputs
        self._timeline = Timeline(params.rate)
        self._end_ns = 0  # wall time at which the pass before was over
        self._passes, self._finished = 0, False
        self._damaged: Counter[str] = Counter()
        self._lost: list[str] = []
        self._stop = threading.Event()
        self.over = threading.Event()
        """Set when nothing is going to be published any more."""
        self.failure: BaseException | None = None
        """Why, where it is not the end of the bag."""
        self._thread = threading.Thread(target=self._work, name='player', daemon=True)
        self._thread.start()

    @property
    def report(self) -> dict[str, Any]:
        """What was played so far, as plain values; ``finished``: all of it, without a loop."""
        return {
            'bag': self._params.bag,
            'finished': self._finished,
            'passes': self._passes,
            'sent': dict(self._outputs.sent),
            'damaged': dict(self._damaged),
            'lost': list(self._lost),
        }

    def close(self) -> None:
        """Stop at once and let go of the bag."""
        self._stop.set()
        self._thread.join(2.0)

    def _work(self) -> None:
        try:
            self._await_subscribers()
            # SQLite's files are read by the thread that opened them.
            with open_bag(self._params, self._topics) as bag:
                self._serializer = Serializer(bag.path)
                while not self._stop.is_set():
                    self._play_once(bag)
                    self._lost = bag.lost
                    if not self._params.loop:
                        break
            self._finish()
        except BaseException as error:  # the thread that spins raises it
            self.failure = error
        self.over.set()

    def _await_subscribers(self) -> None:
        log, begin = self._node.get_logger(), time.monotonic()
        said = begin
        while missing := self._outputs.unheard():
            now = time.monotonic()
            if now - begin >= self._params.wait_for_subscribers_s:
                log.warning(f'nobody subscribes to {", ".join(missing)}')
                break
            if now - said >= _SAY_EVERY_S:
                said = now
                log.info(f'waits for a subscriber of {", ".join(missing)}')
            if self._stop.wait(0.05):
                return
        others = self._outputs.other_clocks()
        if others > 0:
            log.warning(f'{others} other publishers of /clock; stop them, or time jumps for ever')

    def _play_once(self, bag: Bag) -> None:
        """One pass; what it needs of memory does not grow with the bag."""
        events = Replay(bag, self._topics, self._profile, extra=tuple(STREAMS)).events()
        first = next(events, None)
        if first is None:
            raise DataError(
                f'nothing of bag {bag.path} can be read: {"; ".join(bag.lost)}', 'record it again'
            )
        begin_ns = max(time.monotonic_ns() + _LEAD_NS, self._end_ns + _SEAM_NS)
        system_ns = time.time_ns() - time.monotonic_ns()
        self._stop.wait(1e-9 * (begin_ns - _LEAD_NS - time.monotonic_ns()))
        self._timeline.begin(begin_ns, first.now_ns)
        for event in chain([first], events):
            self._wait(event.now_ns)
            if self._stop.is_set():
                return
            self._timeline.advance(event.now_ns)
            self._outputs.tick(event.now_ns)  # nobody receives a stamp from his future
            self._send(event, system_ns)
        self._end_ns = self._timeline.due_ns(event.now_ns)
        self._passes += 1

    def _wait(self, next_ns: int) -> None:
        """Until the message of that ROS time is due; the clock goes on meanwhile."""
        due_ns = self._timeline.due_ns(next_ns)
        while not self._stop.is_set():
            wall_ns = time.monotonic_ns()
            left_s = 1e-9 * (due_ns - wall_ns)
            if left_s <= 0.0:
                break
            self._outputs.tick(self._timeline.clock_ns(wall_ns, next_ns))
            self._stop.wait(min(left_s, _TICK_S) if self._params.clock else left_s)
        late_ns = time.monotonic_ns() - due_ns
        if late_ns > _LATE_NS:
            self._timeline.delay(late_ns)
            self._node.get_logger().warning(
                f'{1e-9 * late_ns:.1f} s late: the bag cannot be read or sent at this rate; lower '
                'rate',
                throttle_duration_sec=_SAY_EVERY_S,
            )

    def _send(self, event: Event, system_ns: int) -> None:
        message, stamp_ns = event.message, None
        if self._params.restamp:
            stamp_ns = self._timeline.wall_stamp_ns(message.stamp_ns) + system_ns
        try:
            cdr = self._serializer.cdr(message, stamp_ns)
        except InputRefused as refusal:
            if not self._damaged[message.topic]:
                self._node.get_logger().warning(f'left out, and so are others like it: {refusal}')
            self._damaged[message.topic] += 1
            return
        self._outputs.send(message.topic, cdr)

    def _finish(self) -> None:
        if not self._stop.is_set():
            self._finished = True
            self._outputs.flush()
            self._stop.wait(_LAST_S)
        sent = ', '.join(f'{n} of {t}' for t, n in sorted(self._outputs.sent.items()))
        damaged = [f'{n} damaged messages of {t}' for t, n in sorted(self._damaged.items())]
        lost = '; '.join([*damaged, *self._lost]) or 'nothing'
        self._node.get_logger().info(
            f'played {self._params.bag}, whole passes: {self._passes}, sent: {sent or "nothing"}, '
            f'lost: {lost}'
        )


def open_bag(params: BagPlayerParams, topics: Topics) -> Bag:
    """The bag from where it is to begin.

    :raises DataError: it cannot be read, or is over before.
    """
    if not params.start_offset_s:
        return Bag(params.bag)
    streams = topics.of(STREAMS.keys() | topics.images.keys())
    return LaterBag(params.bag, streams, params.start_offset_s, topics.instruction)


_LOOK_S = 0.1


class BagPlayerNode(Node):
    """Plays one bag; its process ends with it.

    :raises VlaPruneError: a parameter, the bag or its topics are not usable.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('bag_player', **kwargs)
        params = declare(self, BagPlayerParams)
        check_player(params)
        profile = load_profile(params.profile)
        with Bag(params.bag) as bag:
            topics = self._choose(bag, profile, params.topics)
            streams = topics.of({*profile.cameras, *STREAMS})
            types = {topic: found.type for topic, found in bag.topics.items()}
            left = [
                f'{topic} ({found.count} of {found.type})'
                for topic, found in bag.topics.items()
                if topic not in streams and found.count
            ]
        open_bag(params, topics).close()  # refuses a beginning behind the end
        self.outputs = PlayerOutputs(self, params, streams, types)
        log = self.get_logger()
        log.info(f'plays {self.outputs.describe()}')
        if left:
            log.info(f'left alone: {", ".join(left)}')
        if not (params.clock or params.restamp):
            log.warning(
                'neither clock nor restamp is true: to a policy every message is as old as the bag'
            )
        self.loop = PlayerLoop(self, params, profile, topics, self.outputs)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_LOOK_S, self._look, clock=steady)

    def destroy_node(self) -> None:
        """Stop before the publishers go."""
        self.loop.close()
        super().destroy_node()

    def _choose(self, bag: Bag, profile: Profile, file: str) -> Topics:
        if file:
            topics = load_topics(file)
        else:
            topics = guess_topics(bag, profile)
            self.get_logger().info(f'topics guessed by type and name: {topics.describe()}')
        Replay(bag, topics, profile)  # refuses a bag that lacks an input
        return topics

    def _look(self) -> None:
        """End the process where the loop has come to its end."""
        if self.loop.over.is_set():
            raise self.loop.failure or ExternalShutdownException()


def play(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Play in this process until the end or Ctrl-C, for a tool in a terminal.

    :param parameters: of :class:`BagPlayerParams`, those that differ.
    :returns: :attr:`PlayerLoop.report`, and ``ok``; where it is False the reason was printed.
    """
    for name, value in local_environment().items():
        if name.endswith('_DEFAULT_PROFILES_FILE'):
            os.environ[name] = value
    made: list[BagPlayerNode] = []

    def make() -> BagPlayerNode:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        made.append(BagPlayerNode(parameter_overrides=overrides))
        return made[-1]

    code = run_node(make, [])
    return {**(made[0].loop.report if made else {}), 'ok': code == 0}


def main(args: list[str] | None = None) -> int:
    """Run the node as a process until the end of the bag, SIGINT or SIGTERM; the exit code."""
    return run_node(BagPlayerNode, args)


if __name__ == '__main__':
    sys.exit(main())
