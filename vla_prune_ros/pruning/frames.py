"""The frames of the episode so far, to compare the present one with.

Frames arrive at the camera's rate, references are needed once per query: frames wait as they came
and only the one that becomes a reference is prepared (JPEG round trip, resize, crop).
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputRefused

Frame = np.ndarray | Callable[[], np.ndarray]
"""A camera's frame uint8 (H, W, 3) RGB, or a function that decodes it when it is needed."""


@dataclass
class _Entry:
    stamp_ns: int
    raw: Frame | None
    model_image: np.ndarray | None = None


class _Ring:
    """One camera's frames, oldest first; the first two of the episode are kept for ever."""

    def __init__(self, length: int) -> None:
        self.recent: deque[_Entry] = deque(maxlen=length)
        self.first: list[_Entry] = []
        self.count = 0

    def add(self, entry: _Entry) -> None:
        self.recent.append(entry)
        self.count += 1
        if len(self.first) < 2:
            self.first.append(entry)


class FrameHistory:
    """Recent frames per camera. Any thread may push; one thread asks for references.

    :param prepare: raw frame -> uint8 (224, 224, 3), what the towers see.
    :param spacing_ns: least time between two stored frames; nearer ones are left out.
    :param length: frames per camera that are kept.
    """

    def __init__(
        self, prepare: Callable[[np.ndarray], np.ndarray], spacing_ns: int, length: int = 24
    ) -> None:
        self._prepare, self._spacing_ns, self._length = prepare, spacing_ns, length
        self._rings: dict[str, _Ring] = {}
        self._lock = threading.Lock()

    def push(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        """Store a frame as it came. Frames out of order are left out."""
        with self._lock:
            ring = self._rings.setdefault(camera, _Ring(self._length))
            if not ring.recent or stamp_ns - ring.recent[-1].stamp_ns >= self._spacing_ns:
                ring.add(_Entry(stamp_ns, frame))

    def push_prepared(self, stamp_ns: int, model_images: Mapping[str, np.ndarray]) -> None:
        """Store what the towers see at a query.

        A frame of the same instant that came by :meth:`push` is the same frame; frames that are
        newer already are left in place. Without stamps (every query at 0) all are stored.
        """
        with self._lock:
            for camera, image in model_images.items():
                ring = self._rings.setdefault(camera, _Ring(self._length))
                newest = ring.recent[-1] if ring.recent else None
                raw = newest is not None and newest.raw is not None
                if not raw or stamp_ns - newest.stamp_ns >= self._spacing_ns:
                    ring.add(_Entry(stamp_ns, None, image))
                elif newest.stamp_ns == stamp_ns:
                    newest.raw, newest.model_image = None, image

    def count(self, camera: str) -> int:
        """Frames stored since :meth:`clear`, forgotten ones included."""
        with self._lock:
            return self._rings[camera].count if camera in self._rings else 0

    def newest_ns(self, camera: str) -> int | None:
        """Stamp of the newest frame."""
        with self._lock:
            ring = self._rings.get(camera)
            return ring.recent[-1].stamp_ns if ring and ring.recent else None

    def before(self, camera: str, stamp_ns: int, back_ns: int) -> np.ndarray | None:
        """The newest frame that is at least ``back_ns`` older than ``stamp_ns``.

        Where no frame is that old, the oldest one before the present. Without stamps the frame
        before the present one.

        :returns: uint8 (224, 224, 3), or None where there is no earlier frame.
        """
        with self._lock:
            entries = list(self._rings[camera].recent) if camera in self._rings else []
        earlier = [e for e in entries if e.stamp_ns < stamp_ns - self._spacing_ns // 2]
        if not earlier:
            unstamped = len(entries) > 1 and entries[0].stamp_ns == entries[-1].stamp_ns
            return self._ready(entries[-2]) if unstamped else None
        old = [e for e in earlier if e.stamp_ns <= stamp_ns - back_ns + self._spacing_ns // 2]
        return self._ready(old[-1] if old else earlier[0])

    def first(self, camera: str, index: int) -> np.ndarray | None:
        """Frame 0 or 1 of the episode; None where it has not come yet."""
        with self._lock:
            first = self._rings[camera].first if camera in self._rings else []
            entry = first[index] if index < len(first) else None
        return None if entry is None else self._ready(entry)

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._rings.clear()

    def _ready(self, entry: _Entry) -> np.ndarray | None:
        if entry.model_image is None and entry.raw is not None:
            try:
                raw = entry.raw() if callable(entry.raw) else entry.raw
                entry.model_image = self._prepare(raw)
            except InputRefused:  # a frame that was never asked about must not stop a query
                pass
            entry.raw = None
        return entry.model_image
