"""LeRobot datasets by their file format, without the ``lerobot`` package.

What a LeRobot dataset says about itself: ``meta/`` of versions 2.0, 2.1 and 3.0.

Layout: ``lerobot/datasets/utils.py`` and ``dataset_metadata.py`` of huggingface/lerobot, and its
converter from 2.1 to 3.0.

The numbers of a LeRobot dataset's frames, and pictures where they lie between the numbers.

Single frames out of video files, by their time.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import DataError, ProfileError
from ...profiles import Profile
from .base import GRIPPERS, Sample, Steps, gripper_columns, library, require_finite

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
            raise _broken_lerobot_meta(
                self.root, f'video of {feature!r}, episode {episode}', error
            ) from None

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
        raise _broken_lerobot_meta(root, 'meta', error) from None


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


def _broken_lerobot_meta(root: Path, what: str, error: Exception) -> DataError:
    return DataError(
        f'dataset {root}: {what} cannot be read ({type(error).__name__}: {error})',
        'fetch it again',
    )


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


_RATE_TOLERANCE = 0.01


class LeRobot:
    """A :class:`~.sample.Source`: a folder in LeRobot's format 2.0, 2.1 or 3.0.

    Pictures, state and actions are taken as they are, the gripper's command excepted: the robot
    must later give and take the same. A chunk that reaches past the end of its episode has no
    labels there.

    :param root: the folder with ``meta``, ``data`` and perhaps ``videos``.
    :param profile: says how many steps of how many numbers.
    :param cameras: camera of the profile -> name of the feature with its pictures.
    :param state: feature with the P numbers of the state; not read where the profile takes none.
    :param action: feature with the D numbers of an action, in the profile's units.
    :param gripper: what the dataset's gripper commands are, a key of :data:`~.steps.GRIPPERS`.
    :param stride: frames per step of the profile, for joint positions recorded at a higher rate:
        a chunk takes every ``stride``-th action.
    :param fps: the true rate where the one in ``meta/info.json`` is wrong (published conversions
        of LIBERO say 10 for 20). Videos are read by the one that is written there.
    :param episodes: numbers of the episodes to take; None: all.
    :param whole_chunks: see :class:`~.steps.Steps`.
    :raises DataError: the folder is no such dataset, incomplete, or does not fit the profile.
    :raises ProfileError: an argument has no meaning.
    :raises VlaPruneError: pyarrow or PyAV is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        profile: Profile,
        cameras: Mapping[str, str],
        state: str = 'observation.state',
        action: str = 'action',
        gripper: str = 'open_high',
        stride: int = 1,
        fps: float | None = None,
        episodes: Sequence[int] | None = None,
        whole_chunks: bool = False,
    ) -> None:
        _require_arguments(profile, cameras, gripper, stride)
        self._meta = meta = read_meta(Path(root).expanduser())
        self._cameras = {name: cameras[name] for name in profile.cameras}
        kinds = {key: meta.feature(key, ('image', 'video')) for key in self._cameras.values()}
        self._filmed = {key for key, feature in kinds.items() if feature['dtype'] == 'video'}
        widths = {action: profile.action_dim}
        if profile.proprio_dim:
            widths[state] = profile.proprio_dim
        _require_widths(meta, profile, widths)
        _require_rate(meta, profile, meta.fps if fps is None else fps, stride)
        chosen = list(meta.episodes) if episodes is None else _require_known(meta, episodes)
        self._frames = read_frames(meta, list(widths), chosen)
        self._actions = self._frames.columns[action]
        self._states = self._frames.columns[state] if profile.proprio_dim else None
        self._steps = Steps(self._frames.lengths, profile.chunk, stride, whole_chunks)
        self._require_usable()
        columns = gripper_columns(profile)
        self._actions[:, columns] = GRIPPERS[gripper](self._actions[:, columns])
        self._pictures = ParquetPictures(meta.root, self._frames)
        self._videos = Videos(meta.fps) if self._filmed else None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Sample:
        """The sample with this number.

        :raises IndexError: there is none. :raises DataError: its pictures cannot be read.
        """
        episode, step = self._steps.locate(index)
        rows, valid = self._steps.chunk(index)
        number = self._frames.episodes[episode]
        return Sample(
            {camera: self._picture(key, number, step) for camera, key in self._cameras.items()},
            None if self._states is None else self._states[step],
            self._task(step),
            self._actions[rows],
            valid,
        )

    def instruction(self, index: int) -> str:
        """The task of a sample in plain words."""
        return self._task(self._steps.locate(index)[1])

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions (N, D), the gripper as the policy predicts it, and states (N, P) of all
        frames."""
        return self._actions, self._states

    def _task(self, step: int) -> str:
        return self._meta.tasks[int(self._frames.task[step])]

    def _picture(self, feature: str, episode: int, step: int) -> np.ndarray:
        if self._videos is None or feature not in self._filmed:
            return self._pictures.read(feature, step)
        path, begin_s = self._meta.video(feature, episode)
        return self._videos.read(path, begin_s + int(self._frames.frame[step]) / self._meta.fps)

    def _require_usable(self) -> None:
        """Finite numbers, known tasks, all videos, and a sample: better now than in an hour."""
        meta, frames = self._meta, self._frames
        if not len(self._steps):
            raise DataError(f'dataset {meta.root} has no episode as long as a chunk', 'add some')
        begin = 0
        for number, length in zip(frames.episodes, frames.lengths, strict=True):
            for values in frames.columns.values():
                require_finite(values[begin : begin + length], f'{meta.root}, episode {number}')
            begin += int(length)
        unknown = set(frames.task.tolist()) - set(meta.tasks)
        if unknown:
            raise DataError(f'dataset {meta.root} lacks task {min(unknown)}', 'fetch it again')
        files = (meta.video(key, n)[0] for key in sorted(self._filmed) for n in frames.episodes)
        for file in dict.fromkeys(files):
            if not file.is_file():
                raise DataError(
                    f'video {file} is missing', "fetch it, or choose others with 'episodes'"
                )


def _require_arguments(
    profile: Profile, cameras: Mapping[str, str], gripper: str, stride: int
) -> None:
    missing = [camera for camera in profile.cameras if camera not in cameras]
    name, kind = profile.name, profile.action_kind
    checks = (
        (not missing, f'cameras lacks {missing} of profile {name!r}', 'name a feature for each'),
        (gripper in GRIPPERS, f'gripper is {gripper!r}', f'use one of {sorted(GRIPPERS)}'),
        (stride >= 1, f'stride is {stride}', 'use 1 or more'),
        (
            stride == 1 or kind == 'joint_positions',
            f'stride is {stride} for {kind!r}, whose actions in between would be lost',
            "use 1, and a profile with the dataset's period",
        ),
    )
    for good, what, remedy in checks:
        if not good:
            raise ProfileError(what, remedy)


def _require_widths(meta: Meta, profile: Profile, widths: Mapping[str, int]) -> None:
    for name, width in widths.items():
        has = meta.feature(name)['shape'][0]
        if has != width:
            raise DataError(
                f'{name!r} of dataset {meta.root} has {has} numbers, profile {profile.name!r} '
                f'takes {width}',
                'use a profile of this robot',
            )


def _require_rate(meta: Meta, profile: Profile, fps: float, stride: int) -> None:
    period = profile.control_period_s
    ratio = period * fps
    if abs(ratio / stride - 1) <= _RATE_TOLERANCE:
        return
    whole = max(round(ratio), 1)
    remedy = f"use a profile with control_period_s: {stride / fps:g}, or give the true 'fps'"
    if whole > 1 and abs(ratio / whole - 1) <= _RATE_TOLERANCE:
        remedy = f'with joint positions use stride: {whole}, else {remedy}'
    raise DataError(
        f'dataset {meta.root} has {fps:g} frames per second with stride {stride}, a step of '
        f'profile {profile.name!r} is {period:g} s',
        remedy,
    )


def _require_known(meta: Meta, episodes: Sequence[int]) -> list[int]:
    unknown = sorted(set(episodes) - set(meta.episodes))
    if unknown or not episodes:
        raise DataError(
            f'dataset {meta.root} has no episode {unknown[0] if unknown else "chosen"}',
            f'it has {len(meta.episodes)}, numbered from {min(meta.episodes, default=0)}',
        )
    return list(dict.fromkeys(episodes))
