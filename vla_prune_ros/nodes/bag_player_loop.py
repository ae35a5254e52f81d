"""The bag player's own thread: it reads, waits until a message is due, and publishes.

Neither a slow disk nor a wait keeps the executor from parameters, signals and the end.
"""

import threading
import time
from collections import Counter
from itertools import chain
from typing import Any

from rclpy.node import Node

from ..errors import DataError, InputRefused
from ..profiles import Profile
from ..runtime.bag import Bag
from ..runtime.bag_playback import LaterBag, Serializer, Timeline
from ..runtime.bag_replay import Event, Replay
from ..runtime.bag_topics import STREAMS, Topics
from .bag_player_outputs import PlayerOutputs
from .bag_player_params import BagPlayerParams

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
