"""LeRobot datasets of versions 2.0, 2.1 and 3.0 by their file format, without ``lerobot`` itself.

Layout: ``lerobot/datasets/utils.py`` and ``dataset_metadata.py`` of huggingface/lerobot, and its
converter from 2.1 to 3.0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...config import Above, from_mapping, option
from ...errors import DataError, ProfileError
from ...profiles import Profile
from .base import (
    GRIPPERS,
    Cache,
    EpisodeSource,
    Steps,
    gripper_columns,
    library,
    require_finite,
    unreadable,
)

VERSIONS = ('v2.0', 'v2.1', 'v3.0')

KEPT_FILES = 32  # videos that stay open; a decoder needs some megabytes
KEPT_BYTES = 512 * 2**20  # of row groups with images that stay in memory

_INDEX = ('episode_index', 'frame_index', 'task_index')
_PLACE = ('file', 'group', 'row')
_RATE_TOLERANCE = 0.01
_READ_ON_FRAMES = 3  # so near behind the last one, decoding on is cheaper than to seek
_READ_ERRORS = (KeyError, TypeError, ValueError, OSError)  # pyarrow's own are ValueErrors


@dataclass(frozen=True)
class LeRobotOptions:
    cameras: Mapping[str, str] = option(doc='Camera of the profile: feature with its images.')
    state: str = option('observation.state', 'Feature with the numbers of the state.')
    action: str = option('action', "Feature with the action, in the profile's units.")
    gripper: str = option(
        'open_high', "What the dataset's gripper commands are.", choices=tuple(sorted(GRIPPERS))
    )
    stride: int = option(
        1,
        'Frames per step of the profile, for joint positions recorded at a higher rate: a chunk '
        'takes every stride-th action.',
        low=1,
    )
    fps: float | None = option(
        None,
        'True rate where meta/info.json has a wrong one (published conversions of LIBERO: 10 for '
        '20). Videos are read by the one that is written there.',
        low=Above(0),
    )
    episodes: tuple[int, ...] | None = option(None, 'Episodes to take; null: all.')
    whole_chunks: bool = option(False, 'Only frames with a whole chunk ahead are samples.')


@dataclass(frozen=True)
class Meta:
    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]  # number -> instruction
    # Number -> ``length``, and from version 3.0 on ``videos/...``, where in which file images are.
    episodes: Mapping[int, Mapping[str, Any]]
    video_path: str
    chunks_size: int

    def feature(self, name: str, of_images: bool = False) -> Mapping[str, Any]:
        """:raises DataError: it is not there, or of the other kind; lists those that are."""
        kinds, what = ('float', 'int'), 'list of numbers'
        if of_images:
            kinds, what = ('image', 'video'), 'images'
        there = sorted(
            key
            for key, feature in self.features.items()
            if feature['dtype'].startswith(kinds) and (of_images or len(feature['shape']) == 1)
        )
        if name not in there:
            raise DataError(
                f'dataset {self.root} has no {what} called {name!r}',
                f'use one of: {", ".join(there) or "none"}',
            )
        return self.features[name]

    def video(self, feature: str, episode: int) -> tuple[Path, float]:
        """The file, and when the episode begins in there, in s."""
        place = {'episode_chunk': episode // self.chunks_size, 'episode_index': episode}
        begin_s = 0.0
        try:
            if self.version == 'v3.0':
                entry, key = self.episodes[episode], f'videos/{feature}'
                place = {part: entry[f'{key}/{part}'] for part in ('chunk_index', 'file_index')}
                begin_s = float(entry[f'{key}/from_timestamp'])
            return self.root / self.video_path.format(video_key=feature, **place), begin_s
        except (*_READ_ERRORS, IndexError) as error:
            what = f'dataset {self.root}: video of {feature!r}, episode {episode}'
            raise unreadable(what, error) from None

    def chosen(self, episodes: Sequence[int] | None) -> list[int]:
        if episodes is None:
            return sorted(self.episodes)
        unknown = sorted(set(episodes) - set(self.episodes))
        if unknown or not episodes:
            raise DataError(
                f'dataset {self.root} has no episode {unknown[0] if unknown else "chosen"}',
                f'it has {len(self.episodes)}, numbered from {min(self.episodes, default=0)}',
            )
        return sorted(set(episodes))


def read_meta(root: Path) -> Meta:
    """:raises DataError: not a dataset's folder, another version, or broken."""
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
        read_tables = _read_parquet if version == 'v3.0' else _read_json_lines
        tasks, episodes = read_tables(root / 'meta')
        return Meta(
            root=root,
            version=version,
            fps=float(info['fps']),
            features=info['features'],
            tasks=tasks,
            episodes={int(e['episode_index']): e | {'length': int(e['length'])} for e in episodes},
            video_path=info.get('video_path') or '',
            chunks_size=int(info['chunks_size']),
        )
    except _READ_ERRORS as error:
        raise unreadable(f'dataset {root}: meta', error) from None


def _read_json_lines(meta: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    def entries(name: str) -> list[dict[str, Any]]:
        text = (meta / name).read_text(encoding='utf-8')
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    tasks = {int(entry['task_index']): entry['task'] for entry in entries('tasks.jsonl')}
    return tasks, entries('episodes.jsonl')


def _read_parquet(meta: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    parquet = library('pyarrow.parquet')
    tasks = parquet.ParquetFile(meta / 'tasks.parquet').read()
    # The instruction is the index of a pandas table, which older writers left without a name.
    index = '__index_level_0__' if 'task' not in tasks.column_names else 'task'
    columns = tasks.column('task_index').to_pylist(), tasks.column(index).to_pylist()
    episodes: list[dict[str, Any]] = []
    for file in sorted((meta / 'episodes').glob('*/*.parquet')):
        table = parquet.ParquetFile(file)
        wanted = ('episode_index', 'length', 'videos/')
        names = [name for name in table.schema_arrow.names if name.startswith(wanted)]
        episodes += table.read(columns=names).to_pylist()
    return {int(n): str(task) for n, task in zip(*columns, strict=True)}, episodes


# --- frames --------------------------------------------------------------------------------------


def read_frames(
    meta: Meta, files: Sequence[Path], features: Sequence[str], episodes: Sequence[int]
) -> dict[str, np.ndarray]:
    """N frames of some episodes, ordered by episode and time, from whatever files they are in:
    feature -> float64 (N, width); ``episode_index``, ``frame_index``, ``task_index``, and where a
    frame is: ``file``, number of ``files``, row ``group`` and ``row`` of it; int64 (N,).

    :raises DataError: frames are missing or there twice, not finite, or a file is broken.
    """
    parts: list[dict[str, np.ndarray]] = []
    for number, file in enumerate(files):
        part = _read_numbers(meta, file, features)
        # By the frame's own index, as in lerobot: published meta/episodes name wrong files.
        keep = np.isin(part['episode_index'], episodes)
        part['file'] = np.full(len(keep), number)
        parts.append({name: values[keep] for name, values in part.items()})
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((found['frame_index'], found['episode_index']))
    found = {name: values[order] for name, values in found.items()}
    for episode in episodes:
        begin, end = np.searchsorted(found['episode_index'], (episode, episode + 1))
        length = meta.episodes[episode]['length']
        if not np.array_equal(found['frame_index'][begin:end], np.arange(length)):
            raise DataError(
                f'dataset {meta.root}: episode {episode} has {length} frames, but {end - begin} '
                'are in its files or they are not numbered one by one',
                "fetch it again, or choose others with 'episodes'",
            )
        for name in features:
            require_finite(found[name][begin:end], f'{meta.root}, episode {episode}')
    return found


def _read_numbers(meta: Meta, file: Path, features: Sequence[str]) -> dict[str, np.ndarray]:
    parquet = library('pyarrow.parquet')
    try:
        opened = parquet.ParquetFile(file)
        table = opened.read(columns=[*_INDEX, *features])
        out = {name: table.column(name).to_numpy() for name in _INDEX}
        groups = range(opened.num_row_groups)
        sizes = np.array([opened.metadata.row_group(i).num_rows for i in groups], np.int64)
        out['group'] = np.repeat(groups, sizes)
        out['row'] = np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        for name in features:
            values = table.column(name).combine_chunks()
            # A feature of width 1 may be a column of numbers, wider ones are lists.
            flat = values.flatten() if hasattr(values, 'flatten') else values
            shape = (len(table), *meta.features[name]['shape'])
            out[name] = np.asarray(flat).astype(np.float64).reshape(shape)
        return out
    except _READ_ERRORS as error:
        raise unreadable(file, error) from None


class ParquetImages:
    """Images in parquet files, read by row groups (100 frames or an episode)."""

    def __init__(self, keep_bytes: int = KEPT_BYTES) -> None:
        self.groups: Cache[Any] = Cache(keep_bytes, size=attrgetter('nbytes'))

    def read(self, feature: str, file: Path, group: int, row: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB. :raises DataError: it is not there or no image."""
        parquet = library('pyarrow.parquet')

        def read_group() -> Any:
            opened = parquet.ParquetFile(file, memory_map=True)
            table = opened.read_row_group(group, columns=[feature])
            return table.column(feature).combine_chunks()

        where = f'{file}: {feature!r}, row {row} of group {group}'
        try:
            entry = self.groups.get((feature, file, group), read_group)[row].as_py()
            data = entry['bytes'] or (file.parents[2] / entry['path']).read_bytes()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except (*_READ_ERRORS, cv2.error) as error:
            raise unreadable(where, error) from None
        if image is None:
            raise DataError(f'{where} is no image', 'fetch it again')
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Videos:
    """Random access to the frames of any number of video files of one rate, by their time."""

    def __init__(self, fps: float, kept_files: int = KEPT_FILES) -> None:
        library('av')
        self._fps = fps
        self._open: Cache[_Video] = Cache(kept_files, close=_Video.close)

    def read(self, path: Path, time_s: float) -> np.ndarray:
        """The frame at most half a frame away, uint8 (H, W, 3). :raises DataError: none is."""
        av = library('av')
        try:
            video = self._open.get(path, lambda: _Video(av.open(str(path)), self._fps))
            return video.read(time_s)
        except (*_READ_ERRORS, LookupError, av.FFmpegError) as error:
            self._open.forget(path)
            raise unreadable(f'{path}: frame at {time_s:.3f} s', error) from None


class _Video:
    def __init__(self, container: Any, fps: float) -> None:
        self._container, self._period = container, 1.0 / fps
        self._stream = container.streams.video[0]
        # Processes, not threads, share the cores when training; and threads hold frames back.
        self._stream.codec_context.thread_count = 1
        self._decoded: Any = None
        self._last: Any = None

    def close(self) -> None:
        self._container.close()

    def read(self, time_s: float) -> np.ndarray:
        if self._last is None or abs(self._last.time - time_s) > self._period / 2:
            self._last = self._find(time_s)
        return self._last.to_ndarray(format='rgb24')

    def _find(self, time_s: float) -> Any:
        ahead = 0 if self._last is None else round((time_s - self._last.time) / self._period)
        if 0 < ahead <= _READ_ON_FRAMES and (found := self._read_on(time_s)):
            return found
        # To the last key frame before; a little late, so that rounding does not miss it.
        ticks = int((max(time_s, 0.0) + self._period / 4) / self._stream.time_base)
        self._container.seek(ticks, stream=self._stream)
        self._decoded = self._container.decode(self._stream)
        if found := self._read_on(time_s):
            return found
        raise LookupError('no frame that near')

    def _read_on(self, time_s: float) -> Any:
        for frame in self._decoded:  # the next that is not too early, unless it is too late
            if frame.time >= time_s - self._period / 2:
                return frame if frame.time <= time_s + self._period / 2 else None
        return None


# --- source --------------------------------------------------------------------------------------


class LeRobot(EpisodeSource):
    """A folder in LeRobot's format. Images, state and actions are taken as they are, the gripper's
    command excepted: the robot must later give and take the same.

    :raises DataError: the folder is no such dataset, incomplete, or does not fit the profile.
    """

    def __init__(self, root: str | Path, profile: Profile, **options: Any) -> None:
        chosen = from_mapping(LeRobotOptions, options, 'format lerobot')
        _require_meaning(profile, chosen)
        self._meta = meta = read_meta(Path(root).expanduser())
        self._cameras = {name: chosen.cameras[name] for name in profile.cameras}
        kinds = {key: meta.feature(key, of_images=True) for key in self._cameras.values()}
        self._filmed = {key for key, feature in kinds.items() if feature['dtype'] == 'video'}
        widths = {chosen.action: profile.action_dim}
        if profile.proprio_dim:
            widths[chosen.state] = profile.proprio_dim
        for name, width in widths.items():
            has = meta.feature(name)['shape'][0]
            if has != width:
                raise DataError(
                    f'{name!r} of dataset {meta.root} has {has} numbers, profile '
                    f'{profile.name!r} takes {width}',
                    'use a profile of this robot',
                )
        _require_rate(meta, profile, chosen)
        files = sorted((meta.root / 'data').glob('*/*.parquet'))
        if not files:
            raise DataError(f'dataset {meta.root} has no data/*/*.parquet', 'fetch it again')
        episodes = meta.chosen(chosen.episodes)
        self._frames = read_frames(meta, files, list(widths), episodes)
        self.actions = self._frames[chosen.action]
        self.states = self._frames[chosen.state] if profile.proprio_dim else None
        lengths = [meta.episodes[episode]['length'] for episode in episodes]
        self.steps = Steps(lengths, profile.chunk, chosen.stride, chosen.whole_chunks)
        if not len(self.steps):
            raise DataError(f'dataset {meta.root} has no episode as long as a chunk', 'add some')
        self._require_tasks_and_videos(episodes)  # better now than in an hour
        grippers = gripper_columns(profile)
        self.actions[:, grippers] = GRIPPERS[chosen.gripper](self.actions[:, grippers])
        self._files, self._embedded = files, ParquetImages()
        self._videos = Videos(meta.fps) if self._filmed else None

    def _task(self, episode: int, step: int) -> str:
        return self._meta.tasks[int(self._frames['task_index'][step])]

    def _images(self, episode: int, step: int) -> dict[str, np.ndarray]:
        return {camera: self._image(key, step) for camera, key in self._cameras.items()}

    def _image(self, feature: str, step: int) -> np.ndarray:
        frame = {name: int(self._frames[name][step]) for name in (*_INDEX, *_PLACE)}
        if self._videos is None or feature not in self._filmed:
            file = self._files[frame['file']]
            return self._embedded.read(feature, file, frame['group'], frame['row'])
        path, begin_s = self._meta.video(feature, frame['episode_index'])
        return self._videos.read(path, begin_s + frame['frame_index'] / self._meta.fps)

    def _require_tasks_and_videos(self, episodes: Sequence[int]) -> None:
        meta = self._meta
        unknown = set(self._frames['task_index'].tolist()) - set(meta.tasks)
        if unknown:
            raise DataError(f'dataset {meta.root} lacks task {min(unknown)}', 'fetch it again')
        files = (meta.video(key, n)[0] for key in sorted(self._filmed) for n in episodes)
        for file in dict.fromkeys(files):
            if not file.is_file():
                raise DataError(
                    f'video {file} is missing', "fetch it, or choose others with 'episodes'"
                )


def _require_meaning(profile: Profile, options: LeRobotOptions) -> None:
    missing = [camera for camera in profile.cameras if camera not in options.cameras]
    if missing:
        raise ProfileError(
            f'cameras lacks {missing} of profile {profile.name!r}', 'name a feature for each'
        )
    if options.stride > 1 and profile.action_kind != 'joint_positions':
        raise ProfileError(
            f'stride is {options.stride} for {profile.action_kind!r}, whose actions in between '
            'would be lost',
            "use 1, and a profile with the dataset's period",
        )


def _require_rate(meta: Meta, profile: Profile, options: LeRobotOptions) -> None:
    fps, stride, period = options.fps or meta.fps, options.stride, profile.control_period_s
    ratio = period * fps
    if abs(ratio / stride - 1) <= _RATE_TOLERANCE:
        return
    nearest_stride = max(round(ratio), 1)
    remedy = f"use a profile with control_period_s: {stride / fps:g}, or give the true 'fps'"
    if nearest_stride > 1 and abs(ratio / nearest_stride - 1) <= _RATE_TOLERANCE:
        remedy = f'with joint positions use stride: {nearest_stride}, else {remedy}'
    raise DataError(
        f'dataset {meta.root} has {fps:g} frames per second with stride {stride}, a step of '
        f'profile {profile.name!r} is {period:g} s',
        remedy,
    )
