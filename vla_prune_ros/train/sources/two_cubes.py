"""The demonstrations that ``vla-prune train reference`` records."""

from pathlib import Path

import numpy as np
import simplejpeg

from ...errors import DataError
from ...profiles import Profile
from ...sim.two_cubes import TASKS
from ..dataset import split as split_episodes
from .base import Sample


class TwoCubes:
    """Episodes of the scripted expert, and its corrections of a policy.

    :param path: folder with ``.npz`` files of :mod:`vla_prune_ros.train.dataset`.
    :param split: ``'train'`` or ``'validation'``: every fortieth episode is never trained on.
    """

    def __init__(self, path: Path, profile: Profile, split: str = 'train') -> None:
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
        """The sample with this number; its pictures are what the towers see."""
        number, frame = self._index[index]
        episode = self._episodes[number]
        first = frame * len(self._cameras)
        views = episode.views[first : first + len(self._cameras)]
        images = {
            camera: simplejpeg.decode_jpeg(view, 'RGB')
            for camera, view in zip(self._cameras, views, strict=True)
        }
        return Sample(
            images,
            episode.state[frame],
            TASKS[episode.task].instruction,
            episode.chunk[frame],
            episode.valid[frame],
            prepared=True,
        )

    def instruction(self, index: int) -> str:
        """The words of its task."""
        return TASKS[self._episodes[self._index[index][0]].task].instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Labelled actions float64 (N, 7) and states float64 (N, 8)."""
        actions = np.concatenate([episode.chunk[episode.valid] for episode in self._episodes])
        return actions, np.concatenate([episode.state for episode in self._episodes])
