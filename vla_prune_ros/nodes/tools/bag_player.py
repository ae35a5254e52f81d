"""``bag_player``: a recorded bag, published to a live policy as if it were the robot."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from ...bags.events import BAG_READER, Replay
from ...bags.playback import LaterBag, Serializer, Timeline
from ...bags.reader import IMAGE_TYPES, POSE_TYPE, TRAJECTORY_TYPE, TWIST_TYPE, Bag, BagMessage
from ...bags.topics import STREAMS, Topics, guess_topics, load_topics
from ...config import option
from ...errors import DataError, InputRefused, ProfileError
from ...profiles import load_profile
from ...runtime.params import SessionParams
from ...runtime.session import Observer
from ..interface import Topic
from ..messages import build
from ..params import declare
from ..process import Turns, run_node
from ..qos import command, latched, sensor_data
from .environment import local_environment


@dataclass(frozen=True)
class BagPlayerParams:
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


_IMAGE, _STATE = '<target>/image/<camera>', sensor_data()
INPUTS = {
    'ee_pose': Topic('<target>/ee_pose', PoseStamped, _STATE, 'As recorded.'),
    'joint_states': Topic('<target>/joint_states', JointState, _STATE, 'As recorded.'),
    'instruction': Topic('<target>/instruction', String, latched(), 'As recorded.'),
    IMAGE_TYPES[0]: Topic(
        _IMAGE, Image, _STATE, 'As recorded. A stamp of zero becomes the time of receipt.'
    ),
    IMAGE_TYPES[1]: Topic(
        f'{_IMAGE}/compressed',
        CompressedImage,
        _STATE,
        'Instead, where the bag holds such images.',
    ),
}
"""Stream, or type of images -> what the policy takes."""
_NAME = '<recorded_prefix>/<topic>'
RECORDED = {
    TWIST_TYPE: Topic(_NAME, TwistStamped, command(), 'Commanded velocities, for plots.'),
    POSE_TYPE: Topic(_NAME, PoseStamped, command(), 'Commanded poses, for plots.'),
    TRAJECTORY_TYPE: Topic(
        _NAME,
        JointTrajectory,
        command(),
        'Gripper commands; and chunks, never on the `~/action_chunk` of the live policy.',
    ),
}
"""Type -> commands of the recorded run, out of the way."""
CLOCK = Topic(
    '/clock',
    Clock,
    command(),
    'Time of the bag: of receipt, or of the stamps where these are of another clock. Jumps back '
    'at each loop. With `clock`.',
)

_CLOCK_STEP_NS = 1_000_000  # of ROS time: finer than anybody compares stamps with it
_LEAD_NS = 50_000_000  # the clock is there before the first message of a pass
_SEAM_NS = 100_000_000  # what is under way at the end arrives before time jumps back
_LATE_NS = 500_000_000
_TICK_S, _WARN_EVERY_S = 0.01, 10.0
_LAST_S = 0.2  # for what is under way at the very end


class PlayerOutputs:
    """Publishers of serialised messages.

    :param streams: topic of the bag -> stream; ``types``: -> message type.
    :raises ProfileError: a name is none, or a recorded chunk would pass for the policy's own.
    """

    def __init__(
        self,
        node: Node,
        params: BagPlayerParams,
        streams: Mapping[str, str],
        types: Mapping[str, str],
    ) -> None:
        self._node = node
        self._names = {'target': params.target, 'recorded_prefix': params.recorded_prefix}
        self._names = {name: value.rstrip('/') for name, value in self._names.items()}
        self.sent: Counter[str] = Counter()
        self._publishers = {t: self._advertise(t, s, types[t]) for t, s in streams.items()}
        self.names = {topic: p.topic_name for topic, p in self._publishers.items()}
        self._inputs = [p for t, p in self._publishers.items() if _is_input(streams[t])]
        self._clock = CLOCK.publisher(node) if params.clock else None
        self._clock_ns = -1

    def tick(self, now_ns: int) -> None:
        if self._clock is None or now_ns <= 0 or 0 <= now_ns - self._clock_ns < _CLOCK_STEP_NS:
            return
        self._clock_ns = now_ns
        self._clock.publish(Clock(clock=build.time(now_ns)))

    def send(self, topic: str, cdr: bytes) -> None:
        self._publishers[topic].publish(cdr)
        self.sent[topic] += 1

    def unheard(self) -> list[str]:
        """Inputs of the policy that nobody subscribes to, each with what is known of it."""
        return [
            p.topic_name + self._hint(p.topic_name)
            for p in self._inputs
            if not p.get_subscription_count()
        ]

    def _hint(self, name: str) -> str:
        if '/image/' not in name:
            return ''
        raw = name.removesuffix('/compressed')
        other, own = (raw, 'compressed') if name != raw else (f'{raw}/compressed', 'raw')
        if not self._node.count_subscribers(other):
            return ''
        return f" ({other} is heard: set the policy's image_transport to {own})"

    def other_clocks(self) -> int:
        """Other publishers of ``/clock``: with two of them time jumps all the while."""
        return 0 if self._clock is None else self._node.count_publishers('/clock') - 1

    def flush(self) -> None:
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=0.5))

    def _advertise(self, topic: str, stream: str, kind: str) -> Publisher:
        if _is_input(stream):
            return self._publisher(INPUTS.get(stream) or INPUTS[kind], camera=stream)
        out = self._publisher(RECORDED[kind], topic=topic.lstrip('/'))
        own = f'{self._names["target"]}/action_chunk'
        if out.topic_name == self._node.resolve_topic_name(own):
            raise ProfileError(
                f'topic {topic} of the bag would go out as {own}, which is for the chunks of the '
                'policy that listens',
                "set recorded_prefix, for example to '/recorded'",
            )
        return out

    def _publisher(self, topic: Topic, /, **names: str) -> Publisher:
        names |= self._names
        try:
            return topic.publisher(self._node, **names)
        except Exception as error:  # rclpy has one class for each way in which a name is wrong
            raise ProfileError(
                f'{topic.named(**names)!r} is no name of a topic ({str(error).splitlines()[0]})',
                'check the parameters target, recorded_prefix and topics',
            ) from None


def _is_input(stream: str) -> bool:
    return stream in INPUTS or stream not in STREAMS


class BagPlayerNode(Node):
    """Plays one bag, between callbacks of the executor; its process ends with it.

    :raises VlaPruneError: a parameter, the bag or its topics are not usable.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('bag_player', **kwargs)
        self._params = params = declare(self, BagPlayerParams)
        if not params.bag:
            raise ProfileError('parameter bag is empty', 'set it to a recording')
        if params.clock and params.restamp:
            raise ProfileError(
                'parameters clock and restamp are both true',
                'set clock to false for a policy on wall time, else restamp',
            )
        self._profile = load_profile(params.profile)
        with Bag(params.bag) as bag:
            self._topics = self._choose(bag)
            streams = self._topics.of({*self._profile.cameras, *STREAMS})
            types = {topic: found.type for topic, found in bag.topics.items()}
            left = [
                f'{topic} ({found.count} of {found.type})'
                for topic, found in bag.topics.items()
                if topic not in streams and found.count
            ]
        self._open().close()  # refuses a beginning behind the end
        self.outputs = PlayerOutputs(self, params, streams, types)
        log = self.get_logger()
        names = ', '.join(f'{t} -> {name}' for t, name in self.outputs.names.items())
        log.info(f'plays {names}; left alone: {", ".join(left) or "nothing"}')
        if not (params.clock or params.restamp):
            log.warning(
                'neither clock nor restamp is true: to a policy every message is as old as the bag'
            )
        self._timeline = Timeline(params.rate)
        self._end_ns = 0  # wall time at which the pass before was over
        self._passes, self._finished = 0, False
        self._damaged: Counter[str] = Counter()
        self._lost: list[str] = []
        self._playing = playing = self._play()
        self._turns = Turns(self, lambda: next(playing, _WARN_EVERY_S))

    @property
    def report(self) -> dict[str, Any]:
        """What was played so far, as plain values; ``finished``: all of it, without a loop."""
        return {
            'bag': self._params.bag,
            'finished': self._finished,
            'passes': self._passes,
            'sent': dict(self.outputs.sent),
            'damaged': dict(self._damaged),
            'lost': list(self._lost),
        }

    def destroy_node(self) -> None:
        """Let go of the bag before the publishers go, and log what was played."""
        self._playing.close()
        sent = ', '.join(f'{n} of {t}' for t, n in sorted(self.outputs.sent.items()))
        damaged = [f'{n} damaged messages of {t}' for t, n in sorted(self._damaged.items())]
        lost = '; '.join([*damaged, *self._lost]) or 'nothing'
        self.get_logger().info(
            f'played {self._params.bag}, whole passes: {self._passes}, sent: {sent or "nothing"}, '
            f'lost: {lost}'
        )
        super().destroy_node()

    def _choose(self, bag: Bag) -> Topics:
        if self._params.topics:
            topics = load_topics(self._params.topics)
        else:
            topics = guess_topics(bag, self._profile)
            self.get_logger().info(f'topics guessed by type and name: {topics.describe()}')
        Replay(bag, topics, self._observer())  # refuses a bag that lacks an input
        return topics

    def _open(self) -> Bag:
        params, topics = self._params, self._topics
        if not params.start_offset_s:
            return Bag(params.bag)
        streams = topics.of(STREAMS.keys() | topics.images.keys())
        return LaterBag(params.bag, streams, params.start_offset_s, topics.instruction)

    def _play(self) -> Iterator[float]:
        """Yields the wall seconds until the next step; at the end it ends the process."""
        yield from self._await_subscribers()
        with self._open() as bag:
            serializer = Serializer(bag.path)
            while self._params.loop or not self._passes:
                yield from self._play_once(bag, serializer)
                self._passes += 1
                self._lost = bag.lost
        self._finished = True
        self.outputs.flush()
        yield _LAST_S
        raise ExternalShutdownException

    def _await_subscribers(self) -> Iterator[float]:
        log, begin = self.get_logger(), time.monotonic()
        logged = begin
        while missing := self.outputs.unheard():
            now = time.monotonic()
            if now - begin >= self._params.wait_for_subscribers_s:
                log.warning(f'nobody subscribes to {", ".join(missing)}')
                break
            if now - logged >= _WARN_EVERY_S:
                logged = now
                log.info(f'waits for a subscriber of {", ".join(missing)}')
            yield 0.05
        others = self.outputs.other_clocks()
        if others > 0:
            log.warning(f'{others} other publishers of /clock; stop them, or time jumps for ever')

    def _observer(self) -> Observer:
        return Observer(self._profile, SessionParams(), BAG_READER)

    def _play_once(self, bag: Bag, serializer: Serializer) -> Iterator[float]:
        """One pass; the memory that it needs does not grow with the bag."""
        events = Replay(bag, self._topics, self._observer(), tuple(STREAMS)).events()
        first = next(events, None)
        if first is None:
            raise DataError(
                f'nothing of bag {bag.path} can be read: {"; ".join(bag.lost)}', 'record it again'
            )
        begin_ns = max(time.monotonic_ns() + _LEAD_NS, self._end_ns + _SEAM_NS)
        system_ns = time.time_ns() - time.monotonic_ns()
        yield max(0.0, 1e-9 * (begin_ns - _LEAD_NS - time.monotonic_ns()))
        self._timeline.begin(begin_ns, first.now_ns)
        for event in chain([first], events):
            yield from self._wait(event.now_ns)
            self._timeline.advance(event.now_ns)
            self.outputs.tick(event.now_ns)  # nobody receives a stamp from his future
            self._send(event.message, serializer, system_ns)
            yield 0.0
        self._end_ns = self._timeline.due_ns(event.now_ns)

    def _wait(self, next_ns: int) -> Iterator[float]:
        """Until the message of that ROS time is due; the clock goes on meanwhile."""
        due_ns = self._timeline.due_ns(next_ns)
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            self.outputs.tick(self._timeline.clock_ns(due_ns - left_ns, next_ns))
            yield min(1e-9 * left_ns, _TICK_S)
        if -left_ns > _LATE_NS:
            self._timeline.delay(-left_ns)
            self.get_logger().warning(
                f'{-1e-9 * left_ns:.1f} s late: the bag cannot be read or sent at this rate; '
                'lower rate',
                throttle_duration_sec=_WARN_EVERY_S,
            )

    def _send(self, message: BagMessage, serializer: Serializer, system_ns: int) -> None:
        stamp_ns = None
        if self._params.restamp:
            stamp_ns = self._timeline.wall_stamp_ns(message.stamp_ns) + system_ns
        try:
            cdr = serializer.cdr(message, stamp_ns)
        except InputRefused as refusal:
            if not self._damaged[message.topic]:
                self.get_logger().warning(f'left out, and so are others like it: {refusal}')
            self._damaged[message.topic] += 1
            return
        self.outputs.send(message.topic, cdr)


def play(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Play in this process until the end or Ctrl-C; the report, and ``ok``."""
    for name, value in local_environment().items():
        if name.endswith('_DEFAULT_PROFILES_FILE'):
            os.environ[name] = value
    made: list[BagPlayerNode] = []

    def make() -> BagPlayerNode:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        made.append(BagPlayerNode(parameter_overrides=overrides))
        return made[-1]

    code = run_node(make, [])
    return {**(made[0].report if made else {}), 'ok': code == 0}


def main(args: list[str] | None = None) -> int:
    return run_node(BagPlayerNode, args)


if __name__ == '__main__':
    sys.exit(main())
