"""Puts images and robot state of one instant together, by header stamp.

A bag that loops leaves ``message_filters`` full of its first pass and starving. Here a stamp that
jumps back clears the buffers, and ages are checked on both clocks: by header (a network that
delays) and by receipt (a source that went silent)."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config import check_values, option
from ..errors import InputRefused, ProfileError

_STATE_DEPTH = 4096  # states are small and fast: time bounds them, and this a runaway publisher
_ABSURD_S = 60.0  # no transport is this slow: two clocks are being compared


class _Entry(NamedTuple):
    stamp_ns: int
    receipt_ns: int
    item: Any


@dataclass(frozen=True, eq=False)
class Pair:
    """One item of every stream, of one instant."""

    stamp_ns: int  # header stamp of the newest image
    items: Mapping[str, Any]  # stream -> what was pushed
    ages_s: Mapping[str, float]  # stream -> ROS time minus header stamp
    skew_s: float  # newest minus oldest image stamp


@dataclass(frozen=True)
class NotReady:
    """Why there is nothing to infer now.

    :param reason: ``'missing:<stream>'`` (nothing received), ``'stale:<stream>'`` (too old by
        header or by receipt), ``'nothing_new'`` (no image since the last pair), ``'skew'``
        (stamps too far apart); of a session also ``'no_instruction'`` and ``'period'``.
    :param detail: one line with the numbers, and the remedy if there is one."""

    reason: str
    detail: str


@dataclass(frozen=True)
class PairingLimits:
    """What may be put together. :raises ProfileError: a number is not usable."""

    slop_s: float = option(doc='largest difference between two images of a pair', low=0)
    max_age_s: float = option(doc='oldest item of a pair, by header and by receipt', low=1e-3)
    future_s: float = option(0.05, 'how far ahead of the ROS clock a stamp may be', low=0)
    reorder_s: float = option(
        0.05, 'how late behind its newest a message may be; beyond, time jumped', low=0
    )
    depth: int = option(60, 'images kept per camera', low=1)
    state_slop_s: float | None = option(
        None, 'how much older than the newest image a state may be; None: max_age_s', low=0
    )

    def __post_init__(self) -> None:
        check_values(type(self), vars(self), 'pairing')


class Pairing:
    """Buffers of all streams and the search for the newest complete pair. Not thread-safe.
    :param streams: names of the state streams.
    :raises ProfileError: no camera, or a name twice."""

    def __init__(
        self, cameras: Iterable[str], streams: Iterable[str], limits: PairingLimits
    ) -> None:
        self.cameras, self.streams = tuple(cameras), tuple(streams)
        self._names = self.cameras + self.streams
        if not self.cameras or len(set(self._names)) != len(self._names):
            raise ProfileError(
                f'streams to pair are {self._names}', 'name at least one camera, each name once'
            )
        self._slop = round(1e9 * limits.slop_s)
        self._max_age = round(1e9 * limits.max_age_s)
        self._future = round(1e9 * limits.future_s)
        self._reorder = round(1e9 * limits.reorder_s)
        state_slop_s = limits.state_slop_s
        self._state_slop = math.inf if state_slop_s is None else round(1e9 * state_slop_s)
        self._depth = limits.depth
        self._buffers: dict[str, list[_Entry]] = {name: [] for name in self._names}
        self._last_ns = 0
        # Messages refused or replaced and buffers cleared, by reason.
        self.losses: Counter[str] = Counter()

    def push(self, stream: str, stamp_ns: int, receipt_ns: int, item: Any, now_ns: int) -> bool:
        """Store one message; a second one with the same stamp replaces the first.

        :param receipt_ns: monotonic time of receipt; ``now_ns``: ROS time of it.
        :returns: True if the stamp had jumped back and everything before was cleared.
        :raises InputRefused: ``stamp_zero``, ``stamp_future`` or ``out_of_order``.
        :raises ProfileError: unknown stream."""
        if stream not in self._buffers:
            known = ', '.join(self._names)
            raise ProfileError(f'unknown stream {stream!r}', f'use one of {known}')
        buffer = self._buffers[stream]
        late_ns = buffer[-1].stamp_ns - stamp_ns if buffer else -1
        self._refuse_bad(stream, stamp_ns, now_ns, late_ns)
        reset = late_ns > self._reorder
        if reset:
            self.clear('time_jump')
        elif late_ns == 0:
            self.losses['duplicate'] += 1
            buffer.pop()
        buffer.append(_Entry(stamp_ns, receipt_ns, item))
        # The clock is at most future_s behind the newest stamp: what is older stays stale.
        oldest = stamp_ns - self._max_age - self._future
        depth = self._depth if stream in self.cameras else _STATE_DEPTH
        del buffer[: max(bisect_left(buffer, oldest, key=_stamp), len(buffer) - depth)]
        return reset

    def clear(self, reason: str) -> None:
        """Forget everything, the last pair's stamp included, and count ``reason``."""
        self.losses[reason] += 1
        self._last_ns = 0
        for buffer in self._buffers.values():
            buffer.clear()

    def take(self, now_ns: int, mono_ns: int) -> Pair | NotReady:
        """The newest complete pair that is newer than the last one, or why there is none.

        Its anchor is the newest image for which every other camera has an image at most the slop
        older, and every state stream a sample: the newest at or before the anchor, where it is at
        most ``state_slop_s`` older, or else the first within the slop after it."""
        fresh = {
            name: [
                e
                for e in buffer
                if now_ns - e.stamp_ns <= self._max_age and mono_ns - e.receipt_ns <= self._max_age
            ]
            for name, buffer in self._buffers.items()
        }
        for anchor_ns in self._anchors(fresh):
            found = self._match(fresh, anchor_ns)
            if found is not None:
                self._last_ns = anchor_ns
                images = [found[name].stamp_ns for name in self.cameras]
                return Pair(
                    stamp_ns=max(images),
                    items={name: e.item for name, e in found.items()},
                    ages_s={name: (now_ns - e.stamp_ns) / 1e9 for name, e in found.items()},
                    skew_s=(max(images) - min(images)) / 1e9,
                )
        return self._why(fresh, now_ns, mono_ns)

    def _refuse_bad(self, stream: str, stamp_ns: int, now_ns: int, late_ns: int) -> None:
        if stamp_ns <= 0:
            reason, what = 'stamp_zero', 'header stamp is zero'
            remedy = 'make the driver stamp its messages'
        elif stamp_ns - now_ns > self._future:
            ahead = (stamp_ns - now_ns) / 1e9
            reason, what = 'stamp_future', f'stamp is {ahead:.3f} s ahead of the clock'
            remedy = 'synchronise the clocks of camera and robot'
            if ahead > _ABSURD_S:
                remedy = 'is /clock published? else set use_sim_time to false'
        elif 0 < late_ns <= self._reorder:
            reason, what = 'out_of_order', f'message is {late_ns / 1e6:.1f} ms behind the newest'
            remedy = 'give each stream one publisher'
        else:
            return
        self.losses[reason] += 1
        raise InputRefused(reason, f'{stream}: {what}', remedy)

    def _anchors(self, fresh: Mapping[str, list[_Entry]]) -> Iterator[int]:
        stamps = {e.stamp_ns for name in self.cameras for e in fresh[name]}
        return (s for s in sorted(stamps, reverse=True) if s > self._last_ns)

    def _match(
        self, fresh: Mapping[str, list[_Entry]], anchor_ns: int
    ) -> dict[str, _Entry] | None:
        found = {}
        for name in self._names:
            entries = fresh[name]
            after = bisect_right(entries, anchor_ns, key=_stamp)
            if name in self.cameras:
                at = after - 1
                good = at >= 0 and anchor_ns - entries[at].stamp_ns <= self._slop
            else:
                at = max(after - 1, 0)
                ahead_ns = entries[at].stamp_ns - anchor_ns if entries else math.inf
                good = -self._state_slop <= ahead_ns <= self._slop
            if not good:
                return None
            found[name] = entries[at]
        return found

    def health(self, now_ns: int, mono_ns: int) -> NotReady | None:
        """The stream that is missing or stale now, without taking a pair; None if all flow."""
        for name, buffer in self._buffers.items():
            if not buffer:
                return NotReady(f'missing:{name}', f'{name}: nothing received yet')
        for name, buffer in self._buffers.items():
            newest = buffer[-1]
            if max(now_ns - newest.stamp_ns, mono_ns - newest.receipt_ns) > self._max_age:
                return NotReady(f'stale:{name}', self._age_detail(name, newest, now_ns, mono_ns))
        return None

    def _why(self, fresh: Mapping[str, list[_Entry]], now_ns: int, mono_ns: int) -> NotReady:
        sick = self.health(now_ns, mono_ns)
        if sick is not None:
            return sick
        if not any(True for _ in self._anchors(fresh)):
            return NotReady('nothing_new', 'no image since the last pair')
        newest = {name: entries[-1].stamp_ns for name, entries in fresh.items()}
        latest = max(newest[name] for name in self.cameras)
        offsets = ', '.join(
            f'{name} {(stamp - latest) / 1e6:+.1f} ms' for name, stamp in newest.items()
        )
        return NotReady('skew', f'stamps do not meet within {self._slop / 1e6:.1f} ms: {offsets}')

    def _age_detail(self, name: str, entry: _Entry, now_ns: int, mono_ns: int) -> str:
        header, receipt = (now_ns - entry.stamp_ns) / 1e9, (mono_ns - entry.receipt_ns) / 1e9
        limit = self._max_age / 1e9
        if receipt > limit:
            return f'{name}: no message for {receipt:.3f} s, limit {limit:.3f} s'
        remedy = 'reduce the delay or raise max_input_age_s'
        if header > _ABSURD_S:
            remedy = 'for a bag, play with --clock and set use_sim_time'
        return f'{name}: header stamp is {header:.3f} s old, limit {limit:.3f} s; {remedy}'


def _stamp(entry: _Entry) -> int:
    return entry.stamp_ns
