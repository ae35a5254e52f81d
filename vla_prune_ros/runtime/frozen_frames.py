"""Notices a camera that keeps sending the same image under new stamps."""

from typing import Any

import numpy as np

from ..errors import ProfileError

_HEAD = 4096  # a live sensor's noise shows within the first rows: most comparisons end there


class FrozenFrames:
    """Counts consecutive frames of a camera whose bytes are all the same.

    Frames are compared in full against a copy of the last one: it costs about as much as a hash of
    a VGA frame, cannot collide, and does not hold on to the message's own buffer.

    :param limit: repeats in a row from which on a camera counts as frozen; 0 for never.
    :raises ProfileError: ``limit`` is negative.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ProfileError(f'frozen frame limit is {limit}', 'use 0 for never, or a count')
        self.limit = limit
        self._last: dict[str, np.ndarray] = {}
        self._repeats: dict[str, int] = {}

    def update(self, camera: str, data: Any) -> int:
        """How many frames before this one, without a break, were identical to it.

        :param data: bytes-like (bytes, array.array, uint8 array); read, not kept.
        """
        frame = np.frombuffer(data, np.uint8)
        last = self._last.get(camera)
        if last is not None and _same(last, frame):
            self._repeats[camera] += 1
        else:
            self._last[camera] = frame.copy()
            self._repeats[camera] = 0
        return self._repeats[camera]

    def is_frozen(self, camera: str) -> bool:
        return 0 < self.limit <= self._repeats.get(camera, 0)

    def reset(self) -> None:
        self._last.clear()
        self._repeats.clear()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return (
        a.shape == b.shape
        and np.array_equal(a[:_HEAD], b[:_HEAD])
        and np.array_equal(a[_HEAD:], b[_HEAD:])
    )
