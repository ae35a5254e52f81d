"""Single frames out of video files, by their time."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .library import library

KEPT_FILES = 32
"""Video files that stay open; a decoder needs some megabytes."""

_READ_ON_FRAMES = 3  # so near behind the last one, decoding on is cheaper than to seek


class Videos:
    """Random access to the frames of any number of files.

    :param fps: frames per second of the files.
    :raises VlaPruneError: PyAV is not installed.
    """

    def __init__(self, fps: float, kept_files: int = KEPT_FILES) -> None:
        library('av', 'PyAV')
        self._fps, self._kept = fps, kept_files
        self._open: OrderedDict[Path, _Video] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: a process that gets a copy opens its own."""
        return {**self.__dict__, '_open': OrderedDict()}

    def read(self, path: Path, time_s: float) -> np.ndarray:
        """The frame that is nearest to a time, at most half a frame away; uint8 (H, W, 3) RGB.

        :raises DataError: the file is missing or broken, or has no frame there.
        """
        av = library('av', 'PyAV')
        try:
            return self._video(av, path).read(time_s)
        except (OSError, ValueError, TypeError, LookupError, av.FFmpegError) as error:
            self._open.pop(path, None)
            what = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise DataError(
                f'{path}: no frame at {time_s:.3f} s ({what})', 'fetch the file again'
            ) from None

    def _video(self, av: Any, path: Path) -> '_Video':
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._kept:
            self._open.popitem(last=False)[1].close()
        self._open[path] = video = _Video(av.open(str(path)), self._fps)
        return video


class _Video:
    """One open file: its decoder, and the frame that it gave last."""

    def __init__(self, container: Any, fps: float) -> None:
        self._container, self._period = container, 1.0 / fps
        self._stream = container.streams.video[0]
        # Processes, not threads, share the cores when training; and threads hold frames back.
        self._stream.codec_context.thread_count = 1
        self._decoded: Any = None
        self._last: Any = None

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    def read(self, time_s: float) -> np.ndarray:
        """The frame within half a period of a time."""
        if self._last is None or abs(self._last.time - time_s) > self._period / 2:
            self._last = self._find(time_s)
        return self._last.to_ndarray(format='rgb24')

    def _find(self, time_s: float) -> Any:
        if self._last is not None and self._last.time < time_s:
            frames = round((time_s - self._last.time) / self._period)
            if frames <= _READ_ON_FRAMES and (found := self._read_on(time_s)):
                return found
        # To the last key frame before; a little late, so that rounding does not miss it.
        ticks = int((max(time_s, 0.0) + self._period / 4) / self._stream.time_base)
        self._container.seek(ticks, stream=self._stream)
        self._decoded = self._container.decode(self._stream)
        if found := self._read_on(time_s):
            return found
        raise LookupError('no frame that near')

    def _read_on(self, time_s: float) -> Any:
        """The next decoded frame that is not too early, None if it is too late."""
        for frame in self._decoded:
            if frame.time >= time_s - self._period / 2:
                return frame if frame.time <= time_s + self._period / 2 else None
        return None
