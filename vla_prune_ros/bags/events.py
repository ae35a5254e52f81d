"""A bag as the policy node would have met it: a session driven by the bag's time, which waits for
nothing, so that the same bag gives the same requests on every machine."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, methodcaller

import numpy as np

from ..errors import DataError, InputRefused
from ..runtime.messages import read_image, read_joints, read_pose, read_text
from ..runtime.pairing import NotReady
from ..runtime.session import InferenceRequest, Now, Observer, SampleReader, clean_instruction
from .reader import Bag, BagMessage
from .topics import Topics

INSTRUCTION = 'instruction'
_OTHER_CLOCK_NS = 60_000_000_000  # no transport is this slow: stamps and receipt differ in kind
_JUMP_NS = 1_000_000_000  # the node forgets where its clock goes on by that much, or back
_REORDER_NS = 50_000_000  # what pairing takes for a late message, not for a jump

# Samples are BagMessages, serialised until they are used.
BAG_READER = SampleReader(
    stamp_ns=attrgetter('stamp_ns'),
    image=methodcaller('read', read_image),
    image_bytes=methodcaller('read', attrgetter('data')),
    pose=methodcaller('read', read_pose),
    joints=methodcaller('read', read_joints),
)


@dataclass(frozen=True, eq=False)
class Event:
    """One message as the node would have met it.
    :param epoch: grows with every jump of time (back, or 1 s ahead) and every new instruction.
    :param request: what an image completed; ``wait``: why it completed nothing."""

    stream: str
    message: BagMessage
    now_ns: int
    epoch: int
    refusal: InputRefused | None = None
    request: InferenceRequest | None = None
    wait: NotReady | None = None


class Replay:
    """Runs through a bag once, in constant memory. Whoever takes an :attr:`Event.request` calls
    :meth:`~.runtime.session.Observer.begin`, or infers, before the next event.

    :param extra: streams that are passed on beside those that are paired, for example ``twist``.
    :param clock: ``'receipt'``, ``'header'`` (the newest stamp so far, for stamps of a simulator),
        or ``'auto'``: header where stamps and receipt are more than a minute apart."""

    def __init__(
        self,
        bag: Bag,
        topics: Topics,
        observer: Observer,
        extra: Collection[str] = (),
        clock: str = 'auto',
    ) -> None:
        self._paired = (*observer.profile.cameras, *observer.states)
        topics.check(bag, self._paired)
        self.bag, self.observer = bag, observer
        given = observer.params.instruction
        observer.instruction = clean_instruction(given) if given else ''
        self._streams = topics.of({*self._paired, INSTRUCTION, *extra})
        self._by_header = self._chooses_header(clock)
        self._now_ns = 0
        self._newest: dict[str, int] = {}

    def events(self) -> Iterator[Event]:
        """All messages by time of receipt; of one receipt, images last: they complete the pair."""
        messages = self.bag.messages(self._streams)
        for _, together in groupby(messages, key=attrgetter('receipt_ns')):
            yield from map(self._event, sorted(together, key=self._rank))

    def _rank(self, message: BagMessage) -> tuple[int, int, int]:
        stream = self._streams[message.topic]
        if stream == INSTRUCTION:
            return -1, message.stamp_ns, 0
        place = self._paired.index(stream) if stream in self._paired else len(self._paired)
        return int(stream in self.observer.profile.cameras), message.stamp_ns, place

    def _event(self, message: BagMessage) -> Event:
        stream, observer = self._streams[message.topic], self.observer
        now = Now(self._clock(stream, message), message.receipt_ns)
        refusal = taken = None
        try:
            if stream == INSTRUCTION:
                observer.instruct(clean_instruction(message.read(read_text)))
            else:
                observer.add(stream, message, now)
        except InputRefused as error:
            refusal = error
        if refusal is None and stream in observer.profile.cameras:
            taken = observer.next_request(now)
        return Event(
            stream=stream,
            message=message,
            now_ns=now.ros_ns,
            epoch=observer.epoch,
            refusal=refusal,
            request=taken if isinstance(taken, InferenceRequest) else None,
            wait=taken if isinstance(taken, NotReady) else None,
        )

    def _clock(self, stream: str, message: BagMessage) -> int:
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
            self.observer.reset('clock_jump')
        return self._now_ns

    def _chooses_header(self, clock: str) -> bool:
        if clock in ('receipt', 'header'):
            return clock == 'header'
        if clock != 'auto':
            raise DataError(f'clock is {clock!r}', "use 'auto', 'receipt' or 'header'")
        topics = [t for t, stream in self._streams.items() if stream in self._paired]
        firsts = [next(self.bag.messages([t]), None) for t in topics]
        apart = [abs(m.receipt_ns - m.stamp_ns) for m in firsts if m is not None]
        return bool(apart) and float(np.median(apart)) > _OTHER_CLOCK_NS
