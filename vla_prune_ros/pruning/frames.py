"""The frames of the episode so far, to compare the present one with. Only a frame that becomes a
reference is decoded and prepared (JPEG round trip, resize, crop).
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .state import Stateful

Frame = np.ndarray | Callable[[], np.ndarray]  # uint8 (H, W, 3) RGB, or what decodes it
UNSTAMPED = 0  # stamp of queries that carry none; each is an instant of its own


@dataclass(eq=False)
class _Entry:
    stamp_ns: int
    raw: Frame | None
    model_image: np.ndarray | None = None
    queried: bool = False  # a query brought it or came at its very instant

    def decode(self) -> None:
        if callable(self.raw):
            try:
                self.raw = self.raw()
            except Exception:  # whatever a decoder raises
                self.raw = None


class _Ring(Stateful):
    """One camera's frames, oldest first; the first two are kept for ever."""

    state_names = ('count', 'gap_ns', 'watched', 'last_image', 'before_last', 'query_ns')

    def __init__(self, length: int) -> None:
        self.recent: deque[_Entry] = deque(maxlen=length)
        self.first: list[_Entry] = []
        self.count = 0
        self.gap_ns = 0  # the longest since it was taken
        self.watched = False
        self.last_image: np.ndarray | None = None  # of the last query
        self.before_last: np.ndarray | None = None  # of the query before it
        self.query_ns: int | None = None
        self.present: _Entry | None = None  # the frame of the last query, or the nearest to it

    def add(self, entry: _Entry) -> None:
        if self.recent:
            self.gap_ns = max(self.gap_ns, entry.stamp_ns - self.recent[-1].stamp_ns)
        self.recent.append(entry)
        self.count += 1
        if len(self.first) < 2:
            self.first.append(entry)

    def state(self) -> dict[str, Any]:
        # One entry may be recent, among the first two and the present one: it stays one.
        entries = list({id(e): e for e in (*self.first, *self.recent)}.values())
        for entry in entries:
            entry.decode()
        places = {id(entry): i for i, entry in enumerate(entries)}
        return {
            **super().state(),
            'entries': [(e.stamp_ns, e.raw, e.model_image, e.queried) for e in entries],
            'first': [places[id(e)] for e in self.first],
            'recent': [places[id(e)] for e in self.recent],
            'present': places.get(id(self.present)),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        entries = [_Entry(*values) for values in state['entries']]
        self.first = [entries[i] for i in state['first']]
        self.recent.extend(entries[i] for i in state['recent'])
        self.present = None if state['present'] is None else entries[state['present']]

    def at(self, stamp_ns: int, spacing_ns: int) -> _Entry | None:
        """The frame of that instant: the same stamp, or else less than the spacing older."""
        for entry in reversed(self.recent):
            if entry.stamp_ns <= stamp_ns:
                near = entry.stamp_ns == stamp_ns or stamp_ns - entry.stamp_ns < spacing_ns
                return entry if near else None
        return None

    def earlier(self, stamp_ns: int, tolerance_ns: int) -> list[_Entry]:
        """Frames before ``stamp_ns``, oldest first; the last query's own frame is not one."""
        entries = list(self.recent)
        if stamp_ns == self.query_ns and self.present in entries:
            entries = entries[: entries.index(self.present)]
            if stamp_ns == UNSTAMPED:
                return entries[-1:]
        return [e for e in entries if e.stamp_ns < stamp_ns - tolerance_ns]


class FrameHistory:
    """Recent frames per camera, the last ``length`` at least ``spacing_ns`` apart. Any thread may
    push; one thread queries and asks for references, made by ``prepare``."""

    def __init__(
        self, prepare: Callable[[np.ndarray], np.ndarray], spacing_ns: int, length: int = 24
    ) -> None:
        self._prepare, self._spacing_ns, self._length = prepare, spacing_ns, length
        self._rings: dict[str, _Ring] = {}
        self._lock = threading.Lock()

    @property
    def watched(self) -> bool:
        """Frames of every camera come between queries: a gap means a silent camera."""
        with self._lock:
            return bool(self._rings) and all(ring.watched for ring in self._rings.values())

    def push(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Store a frame, unless it is out of order; never change it afterwards."""
        with self._lock:
            ring = self._rings.setdefault(camera, _Ring(self._length))
            ring.watched = True
            if not ring.recent or stamp_ns - ring.recent[-1].stamp_ns >= self._spacing_ns:
                ring.add(_Entry(stamp_ns, frame))

    def push_prepared(self, stamp_ns: int, model_images: Mapping[str, np.ndarray]) -> None:
        """Store a copy of what the towers see at a query, in place of a pushed frame of the same
        instant; one less than the spacing older stands for it. A query older than the last one
        begins a new episode."""
        with self._lock:
            for camera, image in model_images.items():
                ring = self._rings.get(camera)
                if ring is None or (ring.query_ns is not None and stamp_ns < ring.query_ns):
                    ring = self._rings[camera] = _Ring(self._length)
                ring.query_ns = stamp_ns
                # A copy: the caller's image leaves with the Inference, and may be drawn on.
                ring.before_last, ring.last_image = ring.last_image, np.array(image)
                ring.present = self._store(ring, stamp_ns, ring.last_image)

    def count(self, camera: str) -> int:
        with self._lock:
            return self._rings[camera].count if camera in self._rings else 0

    def take_gap_ns(self) -> int:
        """The longest time between two successive frames of a camera since the last call."""
        with self._lock:
            gaps = [ring.gap_ns for ring in self._rings.values()]
            for ring in self._rings.values():
                ring.gap_ns = 0
        return max(gaps, default=0)

    def has_earlier(self, camera: str, stamp_ns: int) -> bool:
        earlier, fallback = self._earlier(camera, stamp_ns)
        return bool(earlier) or fallback is not None

    def before(self, camera: str, stamp_ns: int, back_ns: int) -> np.ndarray | None:
        """The newest frame at least ``back_ns`` older than ``stamp_ns``, give or take half the
        spacing; else the oldest one, never that of the query at ``stamp_ns`` itself; else, without
        stamps, that of the query before. None where it cannot be decoded."""
        earlier, fallback = self._earlier(camera, stamp_ns)
        if not earlier:
            return fallback
        newest_ns = stamp_ns - back_ns + self._spacing_ns // 2
        old = [e for e in earlier if e.stamp_ns <= newest_ns]
        return self._ready((old[-1:] or earlier)[0])

    def first(self, camera: str, index: int) -> np.ndarray | None:
        with self._lock:
            first = self._rings[camera].first if camera in self._rings else []
            entry = first[index] if index < len(first) else None
        return None if entry is None else self._ready(entry)

    def clear(self) -> None:
        with self._lock:
            self._rings.clear()

    def state(self) -> dict[str, Any]:
        """The frames; what cannot be decoded counts as none, here and later."""
        with self._lock:
            waiting = [e for ring in self._rings.values() for e in (*ring.first, *ring.recent)]
        for entry in waiting:  # not under the lock: pushes of other threads must not wait
            entry.decode()
        with self._lock:
            return {camera: ring.state() for camera, ring in self._rings.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        rings = {camera: _Ring(self._length) for camera in state}
        for camera, ring in rings.items():
            ring.load_state(state[camera])
        with self._lock:
            self._rings = rings

    def _earlier(self, camera: str, stamp_ns: int) -> tuple[list[_Entry], np.ndarray | None]:
        with self._lock:
            ring = self._rings.get(camera)
            if ring is None:
                return [], None
            return ring.earlier(stamp_ns, self._spacing_ns // 2), ring.before_last

    def _store(self, ring: _Ring, stamp_ns: int, image: np.ndarray) -> _Entry | None:
        """The entry that stands for a query's frame; None where newer frames left no place."""
        entry = ring.at(stamp_ns, self._spacing_ns)
        if stamp_ns == UNSTAMPED and entry is not None and entry.queried:
            entry = None
        if entry is None and (not ring.recent or ring.recent[-1].stamp_ns <= stamp_ns):
            entry = _Entry(stamp_ns, None)
            ring.add(entry)
        if entry is not None and entry.stamp_ns == stamp_ns:
            entry.raw, entry.model_image, entry.queried = None, image, True
        return entry

    def _ready(self, entry: _Entry) -> np.ndarray | None:
        if entry.model_image is None and entry.raw is not None:
            # A frame that was never asked about must not stop a query, whatever is wrong with it.
            entry.decode()
            with contextlib.suppress(Exception):
                entry.model_image = self._prepare(entry.raw)
            entry.raw = None
        return entry.model_image
