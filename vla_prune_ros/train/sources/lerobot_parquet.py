"""The numbers of a LeRobot dataset's frames, and pictures where they lie between the numbers."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import DataError
from .lerobot_meta import Meta
from .library import library

_INDEX = ('episode_index', 'frame_index', 'task_index')


@dataclass(frozen=True)
class Frames:
    """N frames, episode by episode in the order of time.

    :param episodes: numbers of the E episodes. :param lengths: int64 (E,), their frames.
    :param frame: int64 (N,), number within the episode. :param task: int64 (N,).
    :param file: int64 (N,), which of ``files`` a frame is in. :param row: int64 (N,), where there.
    :param columns: feature -> float64 (N, width).
    """

    files: Sequence[Path]
    episodes: Sequence[int]
    lengths: np.ndarray
    frame: np.ndarray
    task: np.ndarray
    file: np.ndarray
    row: np.ndarray
    columns: dict[str, np.ndarray]


def read_frames(meta: Meta, features: Sequence[str], episodes: Sequence[int]) -> Frames:
    """Read some features of some episodes, from whatever files they are in.

    An episode's frames are told by their ``episode_index``, as lerobot does: published datasets
    name wrong files in ``meta/episodes``.

    :raises DataError: frames are missing or there twice, or a file is broken.
    """
    files = sorted((meta.root / 'data').glob('*/*.parquet'))
    wanted = np.array(sorted(episodes), np.int64)
    parts: list[dict[str, np.ndarray]] = []
    for number, file in enumerate(files):
        part = _read_file(meta, file, features)
        keep = np.isin(part['episode_index'], wanted)
        part.update(file=np.full(len(keep), number), row=np.arange(len(keep)))
        parts.append({name: values[keep] for name, values in part.items()})
    if not parts:
        raise DataError(f'dataset {meta.root} has no data/*/*.parquet', 'fetch it again')
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((found['frame_index'], found['episode_index']))
    found = {name: values[order] for name, values in found.items()}
    lengths = np.array([meta.episodes[episode]['length'] for episode in wanted], np.int64)
    _require_all(meta, wanted, lengths, found)
    task, file, row = found['task_index'], found['file'], found['row']
    columns = {name: found[name] for name in features}
    return Frames(files, wanted.tolist(), lengths, found['frame_index'], task, file, row, columns)


def _read_file(meta: Meta, file: Path, features: Sequence[str]) -> dict[str, np.ndarray]:
    parquet = library('pyarrow.parquet', 'pyarrow')
    try:
        table = parquet.ParquetFile(file).read(columns=[*_INDEX, *features])
        out = {name: table.column(name).to_numpy() for name in _INDEX}
        for name in features:
            shape = (len(table), *meta.features[name]['shape'])
            out[name] = _flat(table.column(name)).astype(np.float64).reshape(shape)
        return out
    except (KeyError, ValueError, OSError) as error:
        raise _broken(file, error) from None


def _flat(column: Any) -> np.ndarray:
    """Numbers of a column, be it of lists (width above 1) or of numbers (width 1)."""
    values = column.combine_chunks()
    return np.asarray(values.flatten() if hasattr(values, 'flatten') else values)


def _require_all(
    meta: Meta, episodes: np.ndarray, lengths: np.ndarray, found: dict[str, np.ndarray]
) -> None:
    """Every episode has the frames 0 .. length - 1, once each."""
    begins = np.searchsorted(found['episode_index'], episodes)
    ends = np.searchsorted(found['episode_index'], episodes, side='right')
    for episode, length, begin, end in zip(episodes, lengths, begins, ends, strict=True):
        if not np.array_equal(found['frame_index'][begin:end], np.arange(length)):
            raise DataError(
                f'dataset {meta.root}: episode {episode} has {length} frames, but {end - begin} '
                'are in its files or they are not numbered one by one',
                "fetch it again, or choose others with 'episodes'",
            )


class ParquetPictures:
    """Pictures that are embedded in the files of the frames, as PNG or JPEG.

    A file is read by its row groups (lerobot writes 100 frames or an episode in each), and the
    groups read last are kept.

    :param frames: the frames; :param keep_bytes: of row groups in memory.
    """

    def __init__(self, root: Path, frames: Frames, keep_bytes: int = 512 * 2**20) -> None:
        self._root, self._frames, self._keep = root, frames, keep_bytes
        self._open: dict[int, tuple[Any, np.ndarray]] = {}
        self._groups: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files and what was read: a process that gets a copy opens its own."""
        return {**self.__dict__, '_open': {}, '_groups': OrderedDict(), '_bytes': 0}

    def read(self, feature: str, step: int) -> np.ndarray:
        """The picture of a frame, uint8 (H, W, 3) RGB.

        :param step: number of the frame among the N.
        :raises DataError: it is not there or no picture.
        """
        file, row = int(self._frames.file[step]), int(self._frames.row[step])
        try:
            entry = self._entry(feature, file, row)
            data = entry['bytes'] or (self._root / entry['path']).read_bytes()
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except (KeyError, TypeError, ValueError, OSError, cv2.error) as error:
            raise _broken(self._frames.files[file], error) from None
        if picture is None:
            raise DataError(
                f'{self._frames.files[file]}: {feature!r} of row {row} is no picture',
                'fetch the file again',
            )
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def _entry(self, feature: str, file: int, row: int) -> dict[str, Any]:
        if file not in self._open:
            parquet = library('pyarrow.parquet', 'pyarrow')
            opened = parquet.ParquetFile(self._frames.files[file], memory_map=True)
            groups = range(opened.metadata.num_row_groups)
            sizes = [opened.metadata.row_group(group).num_rows for group in groups]
            self._open[file] = opened, np.cumsum([0, *sizes])
        opened, begins = self._open[file]
        group = int(np.searchsorted(begins, row, side='right')) - 1
        return self._group(feature, file, group)[row - int(begins[group])].as_py()

    def _group(self, feature: str, file: int, group: int) -> Any:
        key = feature, file, group
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        table = self._open[file][0].read_row_group(group, columns=[feature])
        self._groups[key] = column = table.column(feature).combine_chunks()
        self._bytes += column.nbytes
        while self._bytes > self._keep and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return column


def _broken(file: Path, error: Exception) -> DataError:
    what = f'{type(error).__name__}: {error}'.splitlines()[0]
    return DataError(f'{file} cannot be read ({what})', 'fetch it again')
