"""Recorded episodes: what they hold, and how they lie on disk (one NumPy archive per episode)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Episode:
    """N labelled frames of one episode; cameras in the scene's order (C of them).

    :param views: N * C JPEG pictures of 224 x 224, frame by frame: what the towers see.
    :param state: float64 (N, 8), LIBERO's state vector, un-normalised.
    :param chunk: float64 (N, K, 7), what the expert did from this frame on, in LIBERO's units, the
        gripper 0 closed or 1 open, as a policy predicts it.
    :param valid: bool (N, K), False where the expert was interrupted before that step.
    :param seen: float64 (N, 2, C, 2), where the target and the other cube appear in each picture,
        0 .. 1 right and down; NaN out of sight.
    :param offset: float64 (N, 2, 3), from the grip point to the target and to the other cube, m.
    :param task: name of the task.
    :param sister: name of the same task with the cubes exchanged.
    """

    views: Sequence[bytes]
    state: np.ndarray
    chunk: np.ndarray
    valid: np.ndarray
    seen: np.ndarray
    offset: np.ndarray
    task: str
    sister: str

    def __len__(self) -> int:
        return len(self.state)


_ARRAYS = ('state', 'chunk', 'valid', 'seen', 'offset', 'task', 'sister')


def compress(picture: np.ndarray) -> bytes:
    """uint8 (224, 224, 3) RGB -> JPEG without chroma subsampling."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture),
        quality=JPEG_QUALITY,
        colorspace='RGB',
        colorsubsampling='444',
    )


def save(episode: Episode, path: Path) -> None:
    """Write an episode; the file is there as a whole or not at all."""
    sizes = np.array([len(view) for view in episode.views])
    pixels = np.frombuffer(b''.join(episode.views), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    with part.open('wb') as file:
        np.savez(file, sizes=sizes, pixels=pixels, **{n: getattr(episode, n) for n in _ARRAYS})
    part.replace(path)


def load(path: Path) -> Episode:
    """Read what :func:`save` wrote."""
    with np.load(path) as file:
        ends = np.cumsum(file['sizes'])
        pixels = file['pixels'].tobytes()
        arrays = {name: file[name] for name in _ARRAYS}
    views = [
        pixels[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]
    arrays.update(task=str(arrays['task']), sister=str(arrays['sister']))
    return Episode(views, **arrays)
