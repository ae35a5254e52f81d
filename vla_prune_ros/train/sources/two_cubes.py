"""The demonstrations that ``vla-prune train reference`` records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from ...config import option
from ...errors import DataError
from ...profiles import Profile
from ...sim.two_cubes import TASKS
from ..dataset import split as split_episodes
from .base import Sample, source_options


@dataclass(frozen=True)
class TwoCubesOptions:
    split: str = option('train', 'train, or validation: every fortieth episode.')


class TwoCubes:
    """A folder of ``.npz`` files: the scripted expert's episodes and corrections of a policy."""

    def __init__(self, path: Path, profile: Profile, **options: Any) -> None:
        split = source_options(TwoCubesOptions, options, 'two_cubes').split
        files = sorted(Path(path).expanduser().glob('*.npz'))
        parts = dict(zip(('train', 'validation'), split_episodes(files), strict=True))
        if split not in parts:
            raise DataError(f'split is {split!r}', f'use one of {sorted(parts)}')
        self._cameras = profile.cameras
        self._episodes = parts[split]
        frames = [range(len(episode)) for episode in self._episodes]
        self._index = [(e, f) for e, known in enumerate(frames) for f in known]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number, frame = self._index[index]
        episode = self._episodes[number]
        first = frame * len(self._cameras)
        views = episode.views[first : first + len(self._cameras)]
        return Sample(
            images={
                camera: simplejpeg.decode_jpeg(view, 'RGB')
                for camera, view in zip(self._cameras, views, strict=True)
            },
            state=episode.state[frame],
            instruction=TASKS[episode.task].instruction,
            chunk=episode.chunk[frame],
            valid=episode.valid[frame],
            prepared=True,
        )

    def instruction(self, index: int) -> str:
        return TASKS[self._episodes[self._index[index][0]].task].instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        actions = np.concatenate([episode.chunk[episode.valid] for episode in self._episodes])
        return actions, np.concatenate([episode.state for episode in self._episodes])
