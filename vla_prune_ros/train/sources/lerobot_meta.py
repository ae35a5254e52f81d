"""What a LeRobot dataset says about itself: ``meta/`` of versions 2.0, 2.1 and 3.0.

Layout: ``lerobot/datasets/utils.py`` and ``dataset_metadata.py`` of huggingface/lerobot, and its
converter from 2.1 to 3.0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from .library import library

VERSIONS = ('v2.0', 'v2.1', 'v3.0')


@dataclass(frozen=True)
class Meta:
    """One dataset.

    :param fps: frames per second, as it says.
    :param features: name -> ``dtype``, ``shape`` and more.
    :param tasks: number of a task -> its words.
    :param episodes: number of an episode -> its entry: ``length``, and from version 3.0 on
        ``videos/...``, where in which file its pictures are.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]
    episodes: Mapping[int, Mapping[str, Any]]
    video_path: str
    chunks_size: int

    def feature(self, name: str, kinds: Sequence[str] = ()) -> Mapping[str, Any]:
        """A feature that must be there.

        :param kinds: its ``dtype`` is one of these; none: it is a list of numbers.
        :raises DataError: it is not there, or of another kind; the message lists those that are.
        """
        there = [key for key, value in self.features.items() if _is_kind(value, kinds)]
        if name not in there:
            what = 'picture' if kinds else 'list of numbers'
            raise DataError(
                f'dataset {self.root} has no {what} called {name!r}',
                f'use one of: {", ".join(sorted(there)) or "none"}',
            )
        return self.features[name]

    def video(self, feature: str, episode: int) -> tuple[Path, float]:
        """The file with an episode's pictures, and when it begins in there, in s.

        :raises DataError: the dataset does not say.
        """
        entry = self.episodes[episode]
        try:
            if self.version != 'v3.0':
                place = {'episode_chunk': episode // self.chunks_size, 'episode_index': episode}
                return self._video_file(feature, place), 0.0
            key = f'videos/{feature}'
            place = {part: entry[f'{key}/{part}'] for part in ('chunk_index', 'file_index')}
            return self._video_file(feature, place), float(entry[f'{key}/from_timestamp'])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _broken(self.root, f'video of {feature!r}, episode {episode}', error) from None

    def _video_file(self, feature: str, place: Mapping[str, int]) -> Path:
        return self.root / self.video_path.format(video_key=feature, **place)


def read_meta(root: Path) -> Meta:
    """Read ``meta/``.

    :raises DataError: not a dataset's folder, another version, or broken.
    :raises VlaPruneError: pyarrow is not installed.
    """
    file = root / 'meta' / 'info.json'
    if not file.is_file():
        raise DataError(
            f'{root} is no LeRobot dataset: meta/info.json is missing',
            'give the folder that holds data, meta and perhaps videos',
        )
    try:
        info = json.loads(file.read_text(encoding='utf-8'))
        version = info['codebase_version']
        if version not in VERSIONS:
            raise DataError(
                f'dataset {root} has version {version!r}, only {", ".join(VERSIONS)} are read',
                'convert it with the scripts of lerobot',
            )
        tables = _read_lines if version != 'v3.0' else _read_parquet
        tasks, episodes = tables(root)
        return Meta(
            root,
            version,
            float(info['fps']),
            info['features'],
            tasks,
            {int(e['episode_index']): {**e, 'length': int(e['length'])} for e in episodes},
            info.get('video_path') or '',
            int(info['chunks_size']),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _broken(root, 'meta', error) from None


def _read_lines(root: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Tasks and episodes of versions 2.0 and 2.1."""
    tasks, episodes = (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        for text in (
            (root / 'meta' / f'{name}.jsonl').read_text(encoding='utf-8')
            for name in ('tasks', 'episodes')
        )
    )
    return {int(entry['task_index']): entry['task'] for entry in tasks}, episodes


def _read_parquet(root: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Tasks and episodes of version 3.0."""
    parquet = library('pyarrow.parquet', 'pyarrow')
    tasks = parquet.ParquetFile(root / 'meta' / 'tasks.parquet').read()
    # The words are the index of a pandas table, which older writers left without a name.
    named = [name for name in ('task', '__index_level_0__') if name in tasks.column_names]
    words = tasks.column(named[0] if named else 'task').to_pylist()
    numbers = tasks.column('task_index').to_pylist()
    episodes: list[dict[str, Any]] = []
    for file in sorted((root / 'meta' / 'episodes').glob('*/*.parquet')):
        table = parquet.ParquetFile(file)
        names = [
            name
            for name in table.schema_arrow.names
            if name in ('episode_index', 'length') or name.startswith('videos/')
        ]
        episodes += table.read(columns=names).to_pylist()
    return {int(n): str(w) for n, w in zip(numbers, words, strict=True)}, episodes


def _is_kind(feature: Mapping[str, Any], kinds: Sequence[str]) -> bool:
    if kinds:
        return feature['dtype'] in kinds
    return len(feature['shape']) == 1 and feature['dtype'].startswith(('float', 'int'))


def _broken(root: Path, what: str, error: Exception) -> DataError:
    return DataError(
        f'dataset {root}: {what} cannot be read ({type(error).__name__}: {error})',
        'fetch it again',
    )
