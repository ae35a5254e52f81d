"""Images to a video file that browsers play."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import VlaPruneError


class VideoWriter:
    """VP9 in MP4, cameras side by side. :raises VlaPruneError: the file cannot be written."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.frames, self._fps = path, 0, fps
        self._writer: cv2.VideoWriter | None = None

    def add(self, images: Sequence[np.ndarray]) -> None:
        """Append one frame from uint8 (S, S, 3) RGB images of equal size."""
        frame = np.concatenate(list(images), axis=1)
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec, (height, width) = cv2.VideoWriter_fourcc(*'vp09'), frame.shape[:2]
            self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise VlaPruneError(
                    f'video {self.path} cannot be written', 'check the folder and disk space'
                )
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))
        self.frames += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
