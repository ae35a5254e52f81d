"""Recorded episodes of the two-cube scene: one NumPy archive each, and as batches."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from ..model.images import pixel_values
from ..model.normalization import normalize
from ..model.vision import IMAGE_SIZE, PATCH
from ..sim.two_cubes import TASKS
from .tasks.policy import Words

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Episode:
    """N labelled frames of one episode; cameras in the scene's order (C of them)."""

    views: Sequence[bytes]  # N * C JPEG images of 224 x 224, frame by frame: what the towers see
    state: np.ndarray  # (N, 8), LIBERO's state vector, un-normalised
    # (N, K, 7), what the expert did from this frame on, in LIBERO's units, the gripper 0 closed or
    # 1 open, as a policy predicts it.
    chunk: np.ndarray
    valid: np.ndarray  # bool (N, K), False where the expert was interrupted before that step
    # (N, 2, C, 2), where the target and the other cube appear in each image, 0 .. 1 right and
    # down; NaN out of sight.
    seen: np.ndarray
    offset: np.ndarray  # (N, 2, 3), from the grip point to the target and to the other cube, m
    task: str
    sister: str  # name of the same task with the cubes exchanged

    def __len__(self) -> int:
        return len(self.state)


_ARRAYS = ('state', 'chunk', 'valid', 'seen', 'offset', 'task', 'sister')


def compress(image: np.ndarray) -> bytes:
    """uint8 (224, 224, 3) RGB -> JPEG without chroma subsampling."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image),
        quality=JPEG_QUALITY,
        colorspace='RGB',
        colorsubsampling='444',
    )


def save(episode: Episode, path: Path) -> None:
    sizes = np.array([len(view) for view in episode.views])
    pixels = np.frombuffer(b''.join(episode.views), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}.part')
    with part.open('wb') as file:
        np.savez(file, sizes=sizes, pixels=pixels, **{n: getattr(episode, n) for n in _ARRAYS})
    part.replace(path)


def load(path: Path) -> Episode:
    with np.load(path) as file:
        ends = np.cumsum(file['sizes'])
        pixels = file['pixels'].tobytes()
        arrays = {name: file[name] for name in _ARRAYS}
    views = [
        pixels[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]
    arrays.update(task=str(arrays['task']), sister=str(arrays['sister']))
    return Episode(views, **arrays)


VALIDATION_EVERY = 40  # one episode in so many is never trained on

_SIDE = IMAGE_SIZE // PATCH
_NOWHERE = -1
OFFSET_UNIT_M = 0.1


class CubeBatch(NamedTuple):
    """B samples of tasks whose prompts have one length."""

    pixels: Tensor  # float32 (B, C, 6, 224, 224)
    prompts: Tensor  # int64 (B, P)
    state: Tensor  # float32 (B, 8), normalised
    actions: Tensor  # float32 (B, K, 7), normalised
    weights: Tensor  # float32 (B, K), 0 where a step is no label
    patches: Tensor  # int64 (B, 2, C), which one shows the target and the other cube; -1: none
    offsets: Tensor  # float32 (B, 2, 3), from the grip point to both, in units of 0.1 m

    def to(self, device: torch.device) -> 'CubeBatch':
        return CubeBatch(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True)
class _Family:
    """Samples of tasks that share the length of their prompt."""

    episodes: list[Episode]
    index: np.ndarray  # (N, 2), episode and frame


class Samples:
    """All frames of some episodes, in memory as JPEG.

    :param words: prompts of the instructions.
    :param statistics: of the checkpoint; see :func:`describe_numbers`.
    """

    def __init__(
        self, episodes: Iterable[Episode], words: Words, statistics: Mapping[str, Any]
    ) -> None:
        self._words = words
        action, state = statistics['action'], statistics['proprio']
        self._action = [np.array(action[k]) for k in ('q01', 'q99', 'mask')]
        self._state = [np.array(state[k]) for k in ('q01', 'q99')]
        groups: dict[str, list[Episode]] = {}
        for episode in episodes:
            groups.setdefault(episode.task.split('_')[0], []).append(episode)
        self.families = {
            name: _Family(
                found, np.array([(e, f) for e, ep in enumerate(found) for f in range(len(ep))])
            )
            for name, found in sorted(groups.items())
        }

    def __len__(self) -> int:
        return sum(len(family.index) for family in self.families.values())

    def draw(self, family: str, size: int, swapped: float, rng: np.random.Generator) -> CubeBatch:
        """Random samples of one family.

        :param swapped: ratio that gets the instruction about the other cube; the pointers and
            offsets follow it, and the actions do not count.
        """
        chosen = rng.integers(len(self.families[family].index), size=size)
        return self.batch(family, chosen, rng.random(size) < swapped)

    def batch(self, family: str, chosen: np.ndarray, swapped: np.ndarray) -> CubeBatch:
        group = self.families[family]
        picked = [(group.episodes[e], f) for e, f in group.index[chosen]]
        names = [e.sister if s else e.task for (e, _), s in zip(picked, swapped, strict=True)]
        order = np.where(swapped[:, None], [1, 0], [0, 1])
        rows = np.arange(len(picked))[:, None]
        seen = np.stack([e.seen[f] for e, f in picked])[rows, order]
        offset = np.stack([e.offset[f] for e, f in picked])[rows, order]
        state = np.stack([e.state[f] for e, f in picked])
        chunk = np.stack([e.chunk[f] for e, f in picked])
        weights = np.stack([e.valid[f] for e, f in picked]) * ~swapped[:, None]
        prompts = [self._words.prompts[TASKS[name].instruction] for name in names]
        return CubeBatch(
            pixels=self._pixels(picked),
            prompts=torch.stack(prompts),
            state=_float(normalize(state, *self._state)),
            actions=_float(normalize(chunk, *self._action)),
            weights=_float(weights),
            patches=torch.from_numpy(patch_of(seen)),
            offsets=_float(offset / OFFSET_UNIT_M),
        )

    def _pixels(self, picked: list[tuple[Episode, int]]) -> Tensor:
        cameras = len(picked[0][0].views) // len(picked[0][0])
        views = [
            simplejpeg.decode_jpeg(episode.views[frame * cameras + camera], 'RGB')
            for episode, frame in picked
            for camera in range(cameras)
        ]
        return pixel_values(views).unflatten(0, (-1, cameras))


def patch_of(seen: np.ndarray) -> np.ndarray:
    """Number of the patch that shows a point: (..., 2) in 0 .. 1 -> int64 (...), -1 for NaN."""
    hidden = np.isnan(seen).any(axis=-1)
    column, row = np.moveaxis((np.nan_to_num(seen) * _SIDE).astype(np.int64), -1, 0)
    return np.where(hidden, _NOWHERE, row * _SIDE + column)


def split(paths: Iterable[Path]) -> tuple[list[Episode], list[Episode]]:
    parts: tuple[list[Episode], list[Episode]] = ([], [])
    for path in paths:
        parts[int(path.stem) // 6 % VALIDATION_EVERY == 0].append(load(path))
    return parts


def describe_numbers(episodes: Iterable[Episode]) -> dict[str, Any]:
    """Statistics of actions and states as ``dataset_statistics.json`` has them. The gripper is not
    normalised, as in LIBERO's published statistics."""
    found = list(episodes)
    actions = np.concatenate([e.chunk[e.valid] for e in found])
    states = np.concatenate([e.state for e in found])
    action = _summary(actions)
    action['mask'] = [True] * 6 + [False]
    return {
        'action': action,
        'proprio': _summary(states),
        'num_transitions': len(states),
        'num_trajectories': len(found),
    }


def _summary(values: np.ndarray) -> dict[str, list[float]]:
    low, high = np.quantile(values, 0.01, axis=0), np.quantile(values, 0.99, axis=0)
    return {
        'q01': (low - 1e-3).tolist(),  # a number that never changes still needs a range
        'q99': (high + 1e-3).tolist(),
        'min': values.min(axis=0).tolist(),
        'max': values.max(axis=0).tolist(),
        'mean': values.mean(axis=0).tolist(),
        'std': values.std(axis=0).tolist(),
    }


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
