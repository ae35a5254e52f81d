"""A bag as the policy node would have lived it: the node's pairing, driven by the bag's time.

Nothing here waits or sleeps. The same bag gives the same frames on every machine; a node that
hears the bag and answers in no time gives the same.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, InputRefused, ProfileError
from ..profiles import Profile
from ..records import Observation
from ..runtime.instruction import clean_instruction
from ..runtime.messages import read_text
from ..runtime.pairing import Pair, Pairing, Wait
from .observation import JOINTS, POSE, WIRING, Frame, Wiring, observe
from .reader import Bag, BagMessage
from .topics import Topics

INSTRUCTION = 'instruction'
_STATES = {'pose_gripper': (POSE, JOINTS), 'joints': (JOINTS,), 'none': ()}
_OTHER_CLOCK_NS = 60_000_000_000  # no transport is this slow: stamps and receipt differ in kind
_JUMP_NS = 1_000_000_000  # the node forgets where its clock goes on by that much, or back
_REORDER_NS = 50_000_000  # what pairing takes for a late message, not for a jump


@dataclass(frozen=True, eq=False)
class Event:
    """One message as the node would have met it.

    :param stream: camera, or a name of :data:`~vla_prune_ros.bags.topics.STREAMS`.
    :param now_ns: ROS time.
    :param epoch: grows with every jump of time (back, or 1 s ahead) and every new instruction:
        what is of another epoch must be forgotten, as policy and motion source do.
    :param refusal: why pairing, or the instruction, did not take it.
    :param pair: the pair that it completed; ``wait``: why an image completed none.
    """

    stream: str
    message: BagMessage
    now_ns: int
    epoch: int
    refusal: InputRefused | None = None
    pair: Pair | None = None
    wait: Wait | None = None


class Due:
    """Says of each pair whether the node would have asked the policy.

    :param period_s: least time between two queries of one epoch, by image stamp; None for the
        wiring's, or a chunk where stepping is synchronous; 0 for every pair.
    :raises ProfileError: it is negative or not finite.
    """

    def __init__(self, profile: Profile, wiring: Wiring, period_s: float | None = None) -> None:
        if period_s is None:
            period_s = wiring.replan_period_s
            if wiring.stepping == 'synchronous':
                period_s = profile.chunk * profile.control_period_s
        if not 0 <= period_s < float('inf'):
            raise ProfileError(
                f'period between queries is {period_s} s', 'use a finite number, 0 or more'
            )
        self.period_ns = round(1e9 * period_s)
        self._last = (-1, 0)

    def __call__(self, epoch: int, stamp_ns: int) -> bool:
        """Whether it is time for this one; then the next period begins with it."""
        if epoch == self._last[0] and stamp_ns - self._last[1] < self.period_ns:
            return False
        self._last = epoch, stamp_ns
        return True


class Replay:
    """Runs through a bag once, in constant memory.

    :param bag: stays open as long as this is used.
    :param instruction: the task until the bag names another.
    :param extra: streams that are passed on beside those that are paired, for example ``twist``.
    :param clock: ``'receipt'``, ``'header'`` (the newest stamp so far, for stamps of a simulator),
        or ``'auto'``: header where stamps and receipt are more than a minute apart.
    :raises DataError: a stream that the profile needs has no topic in the bag.
    :raises ProfileError: a number of the wiring is not usable.
    """

    def __init__(
        self,
        bag: Bag,
        topics: Topics,
        profile: Profile,
        wiring: Wiring = WIRING,
        instruction: str = '',
        extra: Collection[str] = (),
        clock: str = 'auto',
    ) -> None:
        states = _STATES[profile.proprio_kind] if profile.proprio_dim else ()
        self._paired = (*profile.cameras, *states)
        topics.check(bag, self._paired)
        self.bag, self.profile, self.wiring = bag, profile, wiring
        self.instruction = clean_instruction(instruction) if instruction else ''
        self.pairing = _pairing(profile, wiring, states)
        """Its ``losses`` say what was not used, by reason."""
        self._streams = topics.of({*self._paired, INSTRUCTION, *extra})
        self._by_header = _by_header(bag, self._streams, self._paired, clock)
        self._now_ns = self._epoch = 0
        self._newest: dict[str, int] = {}

    def events(self) -> Iterator[Event]:
        """Every message of the streams, by time of receipt.

        What was received together comes as the node takes it: instruction and states first, so
        that the images complete the pair.
        """
        together: list[BagMessage] = []
        for message in self.bag.messages(self._streams):
            if together and together[0].receipt_ns != message.receipt_ns:
                yield from map(self._event, sorted(together, key=self._rank))
                together = []
            together.append(message)
        yield from map(self._event, sorted(together, key=self._rank))

    def frames(self, period_s: float | None = None) -> Iterator[Frame]:
        """The instants at which the node would have asked, images not decoded.

        :param period_s: see :class:`Due`.
        """
        due = Due(self.profile, self.wiring, period_s)
        for event in self.events():
            if event.pair is not None and due(event.epoch, event.pair.stamp_ns):
                yield Frame(event.pair, self.instruction, event.epoch)

    def _rank(self, message: BagMessage) -> tuple[int, int, int]:
        """Instruction, states, images; of one kind by stamp."""
        stream = self._streams[message.topic]
        if stream == INSTRUCTION:
            return -1, message.stamp_ns, 0
        place = self._paired.index(stream) if stream in self._paired else len(self._paired)
        return int(stream in self.profile.cameras), message.stamp_ns, place

    def _event(self, message: BagMessage) -> Event:
        stream, refusal, pair, wait = self._streams[message.topic], None, None, None
        now_ns = self._clock(stream, message)
        try:
            if stream == INSTRUCTION:
                self._instruct(clean_instruction(message.read(read_text)))
            elif stream in self._paired and self.pairing.push(
                stream, message.stamp_ns, message.receipt_ns, message, now_ns
            ):
                self._epoch += 1
        except InputRefused as error:
            refusal = error
        if refusal is None and self.instruction and stream in self.profile.cameras:
            taken = self.pairing.take(now_ns, message.receipt_ns)
            pair, wait = (taken, None) if isinstance(taken, Pair) else (None, taken)
        return Event(stream, message, now_ns, self._epoch, refusal, pair, wait)

    def _instruct(self, cleaned: str) -> None:
        if cleaned != self.instruction:
            self.instruction = cleaned
            self._forget('new_instruction')

    def _forget(self, reason: str) -> None:
        self.pairing.clear(reason)
        self._epoch += 1

    def _clock(self, stream: str, message: BagMessage) -> int:
        """ROS time; where it jumps, everything is forgotten first."""
        before = self._now_ns
        if not self._by_header:
            self._now_ns = message.receipt_ns
        elif stream in self._paired:
            stamp_ns = message.stamp_ns
            back = self._newest.get(stream, stamp_ns) - stamp_ns > _REORDER_NS
            if back:
                self._newest.clear()
            self._newest[stream] = max(self._newest.get(stream, stamp_ns), stamp_ns)
            self._now_ns = stamp_ns if back else max(before, stamp_ns)
        if before and not 0 <= self._now_ns - before < _JUMP_NS:
            self._forget('clock_jump')
        return self._now_ns


def frames(
    bag: Bag,
    topics: Topics,
    profile: Profile,
    wiring: Wiring = WIRING,
    instruction: str = '',
    rotation_reference: 'Sequence[float] | np.ndarray' = (0.0, 0.0, 0.0),
    period_s: float | None = None,
) -> Iterator[Observation]:
    """What the policy would have seen at each of its instants; unusable ones are left out.

    :param rotation_reference: (3,) mean rotation vector of the checkpoint's statistics.
    :param period_s: see :class:`Due`.
    :raises DataError: see :class:`Replay`.
    """
    for frame in Replay(bag, topics, profile, wiring, instruction).frames(period_s):
        try:
            yield observe(frame, profile, wiring, rotation_reference)
        except InputRefused:
            continue


def _pairing(profile: Profile, wiring: Wiring, states: tuple[str, ...]) -> Pairing:
    age_s = wiring.max_input_age_s
    if wiring.stepping == 'synchronous':
        return Pairing(profile.cameras, states, 0.0, age_s, state_slop_s=0.0)
    return Pairing(profile.cameras, states, wiring.sync_slop_s, age_s)


def _by_header(bag: Bag, streams: dict[str, str], paired: Collection[str], clock: str) -> bool:
    if clock in ('receipt', 'header'):
        return clock == 'header'
    if clock != 'auto':
        raise DataError(f'clock is {clock!r}', "use 'auto', 'receipt' or 'header'")
    firsts = [next(bag.messages([t]), None) for t, stream in streams.items() if stream in paired]
    apart = [abs(m.receipt_ns - m.stamp_ns) for m in firsts if m is not None]
    return bool(apart) and float(np.median(apart)) > _OTHER_CLOCK_NS
