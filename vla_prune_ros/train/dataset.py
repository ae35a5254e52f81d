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

from ..config import from_mapping, option
from ..errors import DataError
from ..model.images import pixel_values
from ..model.normalization import normalize
from ..model.vision import IMAGE_SIZE, PATCH
from ..profiles import Profile
from ..sim.two_cubes import TASKS
from .sources.base import Sample
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

    def frame(self, number: int) -> list[np.ndarray]:
        """C images, uint8 (224, 224, 3) RGB."""
        cameras = len(self.views) // len(self)
        views = self.views[number * cameras : (number + 1) * cameras]
        return [simplejpeg.decode_jpeg(view, 'RGB') for view in views]


_ARRAYS = ('state', 'chunk', 'valid', 'seen', 'offset', 'task', 'sister')


def compress(image: np.ndarray) -> bytes:
    """uint8 (224, 224, 3) RGB -> JPEG without chroma subsampling."""
    image = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(image, JPEG_QUALITY, 'RGB', colorsubsampling='444')


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


class _Family:
    """Samples of tasks that share the length of their prompt."""

    def __init__(self, episodes: list[Episode]) -> None:
        self.episodes = episodes
        every = [(e, f) for e, episode in enumerate(episodes) for f in range(len(episode))]
        self.index = np.array(every)  # (N, 2), episode and frame


class Samples:
    """All frames of some episodes, in memory as JPEG; ``statistics`` as of
    :func:`describe_numbers`."""

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
        self.families = {name: _Family(found) for name, found in sorted(groups.items())}

    def __len__(self) -> int:
        return sum(len(family.index) for family in self.families.values())

    def draw(self, family: str, size: int, swapped: float, rng: np.random.Generator) -> CubeBatch:
        """Random samples; a ratio ``swapped`` gets the instruction about the other cube, which
        pointers and offsets follow, and its actions do not count."""
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
        views = [view for episode, frame in picked for view in episode.frame(frame)]
        prompts = [self._words.prompts[TASKS[name].instruction] for name in names]
        return CubeBatch(
            pixels=pixel_values(views).unflatten(0, (len(picked), -1)),
            prompts=torch.stack(prompts),
            state=_float(normalize(state, *self._state)),
            actions=_float(normalize(chunk, *self._action)),
            weights=_float(weights),
            patches=torch.from_numpy(patch_of(seen)),
            offsets=_float(offset / OFFSET_UNIT_M),
        )


def patch_of(seen: np.ndarray) -> np.ndarray:
    """Number of the patch that shows a point: (..., 2) in 0 .. 1 -> int64 (...), -1 for NaN."""
    hidden = np.isnan(seen).any(axis=-1)
    column, row = np.moveaxis((np.nan_to_num(seen) * _SIDE).astype(np.int64), -1, 0)
    return np.where(hidden, -1, row * _SIDE + column)


def split(paths: Iterable[Path]) -> tuple[list[Episode], list[Episode]]:
    parts: tuple[list[Episode], list[Episode]] = ([], [])
    for path in paths:
        parts[int(path.stem) // 6 % VALIDATION_EVERY == 0].append(load(path))
    return parts


def describe_numbers(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Statistics of actions and states as ``dataset_statistics.json`` has them. The gripper is not
    normalised, as in LIBERO's published statistics."""
    action, states = _summary(actions_of(episodes)), states_of(episodes)
    return {
        'action': action | {'mask': [True] * 6 + [False]},
        'proprio': _summary(states),
        'num_transitions': len(states),
        'num_trajectories': len(episodes),
    }


def actions_of(episodes: Sequence[Episode]) -> np.ndarray:
    return np.concatenate([episode.chunk[episode.valid] for episode in episodes])


def states_of(episodes: Sequence[Episode]) -> np.ndarray:
    return np.concatenate([episode.state for episode in episodes])


def _summary(values: np.ndarray) -> dict[str, list[float]]:
    found = {
        'q01': np.quantile(values, 0.01, axis=0) - 1e-3,  # a number that never changes still
        'q99': np.quantile(values, 0.99, axis=0) + 1e-3,  # needs a range
        'min': values.min(axis=0),
        'max': values.max(axis=0),
        'mean': values.mean(axis=0),
        'std': values.std(axis=0),
    }
    return {name: numbers.tolist() for name, numbers in found.items()}


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


# --- as a source of fine-tuning ------------------------------------------------------------------


@dataclass(frozen=True)
class TwoCubesOptions:
    split: str = option(
        'train', 'train, or validation: every fortieth episode.', choices=('train', 'validation')
    )


class TwoCubes:
    """A folder of ``.npz`` files: the scripted expert's episodes and corrections of a policy."""

    def __init__(self, path: Path, profile: Profile, **options: Any) -> None:
        chosen = from_mapping(TwoCubesOptions, options, 'format two_cubes')
        parts = split(sorted(Path(path).expanduser().glob('*.npz')))
        if len(profile.cameras) != 2:
            raise DataError(
                f'the recorded scene has two cameras, {profile.name!r} has {len(profile.cameras)}',
                'take a profile with two cameras',
            )
        self._cameras = profile.cameras
        self._episodes = parts[chosen.split == 'validation']
        self._index = [(e, f) for e in self._episodes for f in range(len(e))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        episode, frame = self._index[index]
        images = dict(zip(self._cameras, episode.frame(frame), strict=True))
        return Sample(
            images=images,
            state=episode.state[frame],
            instruction=self.instruction(index),
            chunk=episode.chunk[frame],
            valid=episode.valid[frame],
            prepared=True,
        )

    def instruction(self, index: int) -> str:
        return TASKS[self._index[index][0].task].instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        return actions_of(self._episodes), states_of(self._episodes)
