"""``bag_player``: a recorded bag, published to a live policy as if it were the robot."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from ...bags.events import BAG_READER, Replay
from ...bags.playback import LaterBag, Serializer, Timeline
from ...bags.reader import Bag, BagMessage
from ...bags.topics import STREAMS, guess_topics, load_topics
from ...errors import DataError, InputRefused, ProfileError
from ...profiles import load_profile
from ...runtime.params import SessionParams
from ...runtime.session import Observer
from ..interface import rivals
from ..messages import build
from ..params import declare
from ..process import Turns, run_node
from .bag_interface import CLOCK, BagPlayerParams, advertise
from .environment import local_environment

_CLOCK_STEP_NS = 1_000_000  # of ROS time: finer than anybody compares stamps with it
_LEAD_NS = 50_000_000  # the clock is there before the first message of a pass
_SEAM_NS = 100_000_000  # what is under way at the end arrives before time jumps back
_LATE_NS = 500_000_000
_TICK_S, _WARN_EVERY_S = 0.01, 10.0
_LAST_S = 0.2  # for what is under way at the very end


class BagPlayerNode(Node):
    """Plays one bag, between callbacks of the executor; its process ends with it.

    :raises VlaPruneError: a parameter, the bag or its topics are not usable.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('bag_player', **kwargs)
        log, self._params = self.get_logger(), declare(self, BagPlayerParams)
        params = self._params
        if not params.bag:
            raise ProfileError('parameter bag is empty', 'set it to a recording')
        if params.clock and params.restamp:
            raise ProfileError(
                'parameters clock and restamp are both true',
                'set clock to false for a policy on wall time, else restamp',
            )
        self.report: dict[str, Any] = {
            'bag': params.bag,
            'finished': False,  # all of it, without a loop
            'passes': 0,
            'sent': Counter(),
            'damaged': Counter(),
            'lost': [],
        }
        self._profile = load_profile(params.profile)
        self._bag = Bag(params.bag)
        if params.topics:
            self._topics = load_topics(params.topics)
        else:
            self._topics = guess_topics(self._bag, self._profile)
            log.info(f'topics guessed by type and name: {self._topics.describe()}')
        self._replay()  # refuses a bag that lacks an input
        if params.start_offset_s:
            self._bag.close()
            streams = self._topics.by_stream().values()
            offset_s, latched = params.start_offset_s, self._topics.instruction
            self._bag = LaterBag(params.bag, streams, offset_s, latched)
        streams = self._topics.of({*self._profile.cameras, *STREAMS})
        types = {topic: found.type for topic, found in self._bag.topics.items()}
        self._out, self._inputs = advertise(self, params, streams, types)
        self._clock_out, self._shown_ns = CLOCK.publisher(self) if params.clock else None, -1
        names = ', '.join(f'{t} -> {p.topic_name}' for t, p in self._out.items())
        rest = ', '.join(
            f'{topic} ({found.count} of {found.type})'
            for topic, found in self._bag.topics.items()
            if topic not in streams and found.count
        )
        log.info(f'plays {names}; left alone: {rest or "nothing"}')
        if not (params.clock or params.restamp):
            log.warning(
                'neither clock nor restamp is true: to a policy every message is as old as the bag'
            )
        self._serializer = Serializer(self._bag.path)
        self._timeline = Timeline(params.rate)
        self._end_ns = 0  # wall time at which the pass before was over
        self._playing = playing = self._play()
        self._turns = Turns(self, lambda: next(playing, _WARN_EVERY_S))

    def destroy_node(self) -> None:
        """Let go of the bag before the publishers go, and log what was played."""
        self._playing.close()
        self._bag.close()
        report = self.report
        sent = ', '.join(f'{n} of {t}' for t, n in sorted(report['sent'].items()))
        damaged = [f'{n} damaged messages of {t}' for t, n in sorted(report['damaged'].items())]
        self.get_logger().info(
            f'played {report["bag"]}, whole passes: {report["passes"]}, sent: '
            f'{sent or "nothing"}, lost: {"; ".join([*damaged, *report["lost"]]) or "nothing"}'
        )
        super().destroy_node()

    def unheard(self) -> list[str]:
        """Inputs of the policy that nobody subscribes to, each with what is known of it."""
        found = []
        for name in (p.topic_name for p in self._inputs if not p.get_subscription_count()):
            raw = name.removesuffix('/compressed')
            other, own = (raw, 'compressed') if name != raw else (f'{raw}/compressed', 'raw')
            if '/image/' in name and self.count_subscribers(other):
                name += f" ({other} is heard: set the policy's image_transport to {own})"
            found.append(name)
        return found

    def _replay(self) -> Replay:
        observer = Observer(self._profile, SessionParams(), BAG_READER)
        return Replay(self._bag, self._topics, observer, tuple(STREAMS))

    def _play(self) -> Iterator[float]:
        """Yields the wall seconds until the next step; at the end it ends the process."""
        yield from self._await_subscribers()
        while self._params.loop or not self.report['passes']:
            yield from self._play_once()
            self.report['passes'] += 1
            self.report['lost'] = self._bag.lost
        self.report['finished'] = True
        for publisher in self._out.values():
            publisher.wait_for_all_acked(Duration(seconds=0.5))
        yield _LAST_S
        raise ExternalShutdownException

    def _await_subscribers(self) -> Iterator[float]:
        log, begin = self.get_logger(), time.monotonic()
        while missing := ', '.join(self.unheard()):
            if time.monotonic() - begin >= self._params.wait_for_subscribers_s:
                log.warning(f'nobody subscribes to {missing}')
                break
            how = {'throttle_duration_sec': _WARN_EVERY_S, 'skip_first': True}
            log.info(f'waits for a subscriber of {missing}', **how)
            yield 0.05
        others = '' if self._clock_out is None else rivals(self, self._clock_out)[1]
        if others:
            log.warning(f'{others}, or time jumps for ever')

    def _play_once(self) -> Iterator[float]:
        """One pass; the memory that it needs does not grow with the bag."""
        events = self._replay().events()
        first = next(events, None)
        if first is None:
            raise DataError(
                f'nothing of bag {self._bag.path} can be read: {"; ".join(self._bag.lost)}',
                'record it again',
            )
        begin_ns = max(time.monotonic_ns() + _LEAD_NS, self._end_ns + _SEAM_NS)
        system_ns = time.time_ns() - time.monotonic_ns()
        yield max(0.0, 1e-9 * (begin_ns - _LEAD_NS - time.monotonic_ns()))
        self._timeline.begin(begin_ns, first.now_ns)
        for event in chain([first], events):
            yield from self._wait(event.now_ns)
            self._timeline.advance(event.now_ns)
            self._tick(event.now_ns)  # nobody receives a stamp from his future
            self._send(event.message, system_ns)
            yield 0.0
        self._end_ns = self._timeline.due_ns(event.now_ns)

    def _wait(self, next_ns: int) -> Iterator[float]:
        """Until the message of that ROS time is due; the clock goes on meanwhile."""
        due_ns = self._timeline.due_ns(next_ns)
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            clock_ns = self._timeline.clock_ns(due_ns - left_ns, next_ns)
            # Not right before a message: its own time would come too soon after to be shown.
            if not 0 < next_ns - clock_ns < _CLOCK_STEP_NS:
                self._tick(clock_ns)
            yield min(1e-9 * left_ns, _TICK_S)
        if -left_ns > _LATE_NS:
            self._timeline.delay(-left_ns)
            self.get_logger().warning(
                f'{-1e-9 * left_ns:.1f} s late: the bag cannot be read or sent at this rate; '
                'lower rate',
                throttle_duration_sec=_WARN_EVERY_S,
            )

    def _tick(self, now_ns: int) -> None:
        fresh = 0 <= now_ns - self._shown_ns < _CLOCK_STEP_NS
        if self._clock_out is not None and now_ns > 0 and not fresh:
            self._shown_ns = now_ns
            self._clock_out.publish(Clock(clock=build.time(now_ns)))

    def _send(self, message: BagMessage, system_ns: int) -> None:
        stamp_ns, topic = None, message.topic
        if self._params.restamp:
            stamp_ns = self._timeline.wall_stamp_ns(message.stamp_ns) + system_ns
        try:
            cdr = self._serializer.cdr(message, stamp_ns)
        except InputRefused as refusal:
            if not self.report['damaged'][topic]:
                self.get_logger().warning(f'left out, and so are others like it: {refusal}')
            self.report['damaged'][topic] += 1
            return
        self._out[topic].publish(cdr)
        self.report['sent'][topic] += 1


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
