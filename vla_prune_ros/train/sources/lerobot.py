"""LeRobot datasets by their file format, without the ``lerobot`` package."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import DataError, ProfileError
from ...profiles import Profile
from .lerobot_meta import Meta, read_meta
from .lerobot_parquet import ParquetPictures, read_frames
from .lerobot_video import Videos
from .sample import Sample
from .steps import GRIPPERS, Steps, gripper_columns, require_finite

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
    for good, what, mend in checks:
        if not good:
            raise ProfileError(what, mend)


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
    mend = f"use a profile with control_period_s: {stride / fps:g}, or give the true 'fps'"
    if whole > 1 and abs(ratio / whole - 1) <= _RATE_TOLERANCE:
        mend = f'with joint positions use stride: {whole}, else {mend}'
    raise DataError(
        f'dataset {meta.root} has {fps:g} frames per second with stride {stride}, a step of '
        f'profile {profile.name!r} is {period:g} s',
        mend,
    )


def _require_known(meta: Meta, episodes: Sequence[int]) -> list[int]:
    unknown = sorted(set(episodes) - set(meta.episodes))
    if unknown or not episodes:
        raise DataError(
            f'dataset {meta.root} has no episode {unknown[0] if unknown else "chosen"}',
            f'it has {len(meta.episodes)}, numbered from {min(meta.episodes, default=0)}',
        )
    return list(dict.fromkeys(episodes))
