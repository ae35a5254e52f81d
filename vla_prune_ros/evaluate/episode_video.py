"""A video of an episode: what the towers saw at every query, with the pruned patches dimmed."""

import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ..records import Inference, Observation
from ..runtime.overlay import draw_overlay
from .episode import EpisodeKey, EpisodeResult
from .video import VideoWriter

FPS = 5.0
_ENDING_FRAMES = 5


def video_path(folder: Path, key: EpisodeKey) -> Path:
    """Where the video of an episode goes: method, task and seed in its name."""
    name = f'{key.method}_{key.task}_{key.seed}'
    return folder / 'videos' / f'{re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-")}.mp4'


class EpisodeVideo:
    """Takes what :func:`~.rollout.run_episode` reports of its queries, and the last picture.

    :param label: first line on every picture, for example the method.
    :raises VlaPruneError: the file cannot be written.
    """

    def __init__(self, path: Path, label: str) -> None:
        self._writer = VideoWriter(path, FPS)
        self._label = label
        self._side = 0

    def add(self, seen: Observation, answer: Inference) -> None:
        """One frame per query, cameras side by side."""
        kept = {c: f'{int(m.sum())} of {len(m)} patches' for c, m in answer.kept.items()}
        head = (f'{self._label}: {answer.mode}', seen.instruction)
        pictures = []
        for i, (camera, image) in enumerate(answer.model_images.items()):
            lines = (head[min(i, 1)], kept[camera])
            pictures.append(draw_overlay(image, answer.kept[camera], lines))
        self._side = len(pictures[0])
        self._writer.add(pictures)

    def finish(self, images: Mapping[str, np.ndarray], result: EpisodeResult) -> None:
        """How it ended: the last frames of the cameras, upright, and the outcome in words.

        :param images: camera -> uint8 (H, W, 3) RGB, in the order of the queries' cameras.
        """
        if self._side:
            size = (self._side, self._side)
            outcome = 'success' if result.success else 'failure'
            lines = (f'{self._label}: {outcome}', f'after {result.steps} steps')
            pictures = []
            for image in images.values():
                scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                pictures.append(draw_overlay(scaled, np.ones(1, bool), lines))
            for _ in range(_ENDING_FRAMES):
                self._writer.add(pictures)
        self.close()

    def close(self) -> None:
        """Finish the file, whatever is in it."""
        self._writer.close()
