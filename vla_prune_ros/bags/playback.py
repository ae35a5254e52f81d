"""What a player of bags sends, and when: the recorded bytes, their times and their stamps."""

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..errors import DataError
from .reader import TEXT_TYPE, Bag, BagMessage, storage_files, type_store

JUMP_NS = 1_000_000_000  # a longer pause of the recording is a jump of time, as in bags.events

_HEADER_STAMP = 4  # bytes of CDR before it; every stamped type begins with its header


class Timeline:
    """Wall time of recorded time, and back, in ns; ``rate``: recorded per wall second. Messages
    are due at their distance from the beginning of the pass: no errors add up."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._begin_ns = self._elapsed_ns = self._now_ns = 0

    def begin(self, wall_ns: int, now_ns: int) -> None:
        """Start a pass: its first message is due at ``wall_ns``; ``now_ns`` is 0 where unknown."""
        self._begin_ns, self._elapsed_ns, self._now_ns = wall_ns, 0, now_ns

    def due_ns(self, now_ns: int) -> int:
        """When the next message leaves; at once where time jumped back."""
        return self._wall(self._elapsed_ns + self._step(now_ns))

    def advance(self, now_ns: int) -> None:
        self._elapsed_ns += self._step(now_ns)
        self._now_ns = now_ns

    def delay(self, late_ns: int) -> None:
        self._begin_ns += late_ns

    def clock_ns(self, wall_ns: int, next_ns: int) -> int:
        """ROS time between the last message and the next one; it stands still before a jump."""
        gap_ns = next_ns - self._now_ns
        if not 0 <= gap_ns < JUMP_NS:
            return self._now_ns
        passed_ns = round((wall_ns - self._wall(self._elapsed_ns)) * self._rate)
        return self._now_ns + min(max(passed_ns, 0), gap_ns)

    def wall_stamp_ns(self, stamp_ns: int) -> int:
        """Wall time of a header stamp of the message that left last: as old then as it was."""
        age_ns = self._now_ns - stamp_ns if self._now_ns else 0
        return self._wall(self._elapsed_ns - age_ns)

    def _step(self, now_ns: int) -> int:
        return max(now_ns - self._now_ns, 0) if self._now_ns else 0

    def _wall(self, elapsed_ns: int) -> int:
        return self._begin_ns + round(elapsed_ns / self._rate)


def stamped(raw: bytes, stamp_ns: int) -> bytes:
    stamp = struct.pack('<iI' if raw[1] & 1 else '>iI', *divmod(stamp_ns, 1_000_000_000))
    end = _HEADER_STAMP + len(stamp)
    return b''.join((raw[:_HEADER_STAMP], stamp, memoryview(raw)[end:]))


class Serializer:
    """Recorded messages as CDR, which publishers of ROS 2 take; those of ROS 1 are converted."""

    def __init__(self, path: Path) -> None:
        first = storage_files(path)[0] if path.is_dir() else path
        self._ros1 = first.suffix == '.bag'

    def cdr(self, message: BagMessage, stamp_ns: int | None = None) -> bytes:
        """:raises InputRefused: ``corrupt``: no subscriber could read it."""
        message.message()  # deserialised, not decoded: cheap even for images
        raw = message.raw
        if self._ros1:
            raw = bytes(type_store().ros1_to_cdr(raw, message.type))
        if message.type == TEXT_TYPE:
            return raw
        # A stamp of zero becomes the time of receipt: nobody could use the message else.
        if stamp_ns is None and not any(raw[_HEADER_STAMP : _HEADER_STAMP + 8]):
            stamp_ns = message.stamp_ns
        return raw if stamp_ns is None else stamped(raw, stamp_ns)


class LaterBag(Bag):
    """A bag without its first ``offset_s`` seconds, counted from the first message of ``topics``;
    the last message of ``latched`` before that is repeated. :raises DataError: nothing is left."""

    def __init__(
        self, path: str | Path, topics: Iterable[str], offset_s: float, latched: str = ''
    ) -> None:
        super().__init__(path)
        self._latched, self._begin_ns, wanted = latched, 0, set(topics)
        for first in islice(self.messages(wanted), 1):
            self._begin_ns = first.receipt_ns + round(1e9 * offset_s)
        if next(super().messages(wanted, self._begin_ns), None) is None:
            self.close()
            raise DataError(f'bag {self.path} is over before {offset_s:g} s', 'start it earlier')

    def messages(
        self, topics: Iterable[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        wanted, begin_ns = set(topics), self._begin_ns
        if start_ns is None and self._latched in wanted:
            for last in deque(super().messages([self._latched], None, begin_ns), maxlen=1):
                place = last.place._replace(receipt_ns=begin_ns)
                yield replace(last, place=place, stamp_ns=begin_ns)
        yield from super().messages(wanted, max(begin_ns, start_ns or begin_ns), stop_ns)
