"""LIBERO's demonstration files, with the conventions that OpenVLA-OFT's checkpoints learned.

Layout: ``scripts/create_dataset.py`` of LIBERO. What is left out and turned:
``regenerate_libero_dataset.py`` and ``libero_dataset_transform`` of openvla-oft.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np

from ...config import from_mapping, option
from ...errors import DataError
from ...profiles import Profile
from .base import GRIPPERS, Cache, EpisodeSource, Steps, library, require_finite, unreadable

NOOP_NORM = 1e-4
PERIOD_S = 0.05
_SUFFIX = '_demo'
_STATE = ('ee_pos', 'ee_ori', 'gripper_states')
_ARM_JOINTS = 7
_OPEN_FILES = 256  # the largest suite, libero_90, has 90


@dataclass(frozen=True)
class LiberoHdf5Options:
    cameras: Mapping[str, str] = option(
        {'primary': 'agentview_rgb', 'wrist': 'eye_in_hand_rgb'},
        'Camera of the profile: name of its images under obs.',
    )
    whole_chunks: bool = option(
        True, 'Only frames with a whole chunk ahead are samples, as in the published training.'
    )


@dataclass(frozen=True)
class Demo:
    path: Path
    name: str
    instruction: str
    frames: np.ndarray  # int64 (T,), number of the image that each of T kept steps followed from
    actions: np.ndarray
    states: np.ndarray


def demonstrations(path: Path, file: Any, images: Sequence[str]) -> Iterator[Demo]:
    """:raises DataError: not one of LIBERO's files, or one that cannot be used."""
    data = file.get('data', {})
    names = [name for name in data if name.startswith('demo_') and name[5:].isdigit()]
    names.sort(key=lambda name: int(name[5:]))
    if not names:
        raise DataError(
            f'{path} holds no demonstrations of LIBERO', "give files with 'data/demo_0' in them"
        )
    convention = data.attrs.get('macros_image_convention', 'opengl')
    if convention != 'opengl':
        raise DataError(
            f'{path} has images in the convention {convention!r}',
            "record it with robosuite's IMAGE_CONVENTION = 'opengl'",
        )
    instruction = instruction_of(path, data)
    shift = int(seen_after(data[names[0]]))
    for name in names:
        actions, states = _numbers(f'{path}, {name}', data[name], images)
        kept = kept_steps(actions)
        kept = kept[kept >= shift]
        if len(kept):
            actions, frames = actions[kept], kept - shift
            actions[:, -1] = GRIPPERS['libero'](actions[:, -1])
            yield Demo(
                path, name, instruction, frames=frames, actions=actions, states=states[frames]
            )


def kept_steps(actions: np.ndarray) -> np.ndarray:
    """Numbers of the actions (T, 7) that are no no-ops; the rule is openvla-oft's ``is_noop``."""
    still = np.linalg.norm(actions[:, :-1], axis=1) < NOOP_NORM
    kept: list[int] = []
    for step, gripper in enumerate(actions[:, -1]):
        if not (still[step] and (not kept or gripper == actions[kept[-1], -1])):
            kept.append(step)
    return np.array(kept, np.int64)


def seen_after(demo: Any) -> bool:
    """Whether what a step holds was seen after its action.

    ``states`` are MuJoCo's before the action: time, then positions, the arm's first. Observed
    joints that agree better with the *next* state were read after it.
    """
    if 'states' not in demo or 'obs/joint_states' not in demo:
        return False
    arm = demo['states'][:, 1 : 1 + _ARM_JOINTS]
    seen = demo['obs/joint_states'][:-1]
    return bool(np.abs(seen - arm[1:]).sum() < np.abs(seen - arm[:-1]).sum())


def instruction_of(path: Path, data: Any) -> str:
    """See :class:`LiberoHdf5`. :raises DataError: the file does not say."""
    if path.stem.endswith(_SUFFIX):
        words = path.stem[: -len(_SUFFIX)].split('_')
        scenes = [i for i, word in enumerate(words) if 'SCENE' in word]
        return ' '.join(words[scenes[-1] + 1 if scenes else 0 :])
    try:
        instruction = json.loads(data.attrs['problem_info'])['language_instruction']
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f'{path} does not say what its task is',
            "name it after the task, ending in '_demo.hdf5'",
        ) from None
    return ''.join(instruction).strip('"')


def _numbers(where: str, demo: Any, images: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    wanted = ['actions', *(f'obs/{key}' for key in (*_STATE, *images))]
    missing = [key for key in wanted if key not in demo]
    if missing:
        has = sorted(f'obs/{key}' for key in demo.get('obs', ()))
        raise DataError(f'{where} lacks {", ".join(missing)}', f'it has: {", ".join(has)}')
    actions, *parts = (demo[key][()].astype(np.float64) for key in wanted[: 1 + len(_STATE)])
    rows = {len(demo[key]) for key in wanted}
    widths = [part.shape[1:] for part in (actions, *parts)]
    if len(rows) > 1 or widths != [(7,), (3,), (3,), (2,)]:
        raise DataError(
            f'{where} has {sorted(rows)} steps, of {widths} numbers',
            'give a file with 7 numbers per action, 8 per state and as many images',
        )
    states = np.hstack(parts)
    require_finite(np.hstack((actions, states)), where)
    return actions, states


class LiberoHdf5(EpisodeSource):
    """``*_demo.hdf5`` files as LIBERO publishes or as openvla-oft regenerates them; the latter, of
    256 x 256 pixels, are the ones to fine-tune a published checkpoint with.

    - Images are turned by 180 degrees.
    - State: ``ee_pos`` (m), ``ee_ori`` (rotation vector, rad), ``gripper_states`` (m).
    - Actions: the gripper's -1 open / +1 closed becomes 1 open / 0 closed, the rest stays.
    - Instruction: the file's name without ``_demo`` and without what goes up to ``SCENE``, as the
      published policies got it. The file's own ``language_instruction`` differs in most of
      libero_spatial, _object and _goal; it counts where the name does not end in ``_demo``.
    - Published files hold with every action what was seen *after* it (issue 54 of LIBERO),
      regenerated ones what was seen before. An image from after gets the next action.
    - Statistics are of all steps that are no no-ops, as the published ones are.

    :raises DataError: no such file, not one of LIBERO's, or not fit for the profile.
    """

    def __init__(self, path: str | Path, profile: Profile, **options: Any) -> None:
        chosen = from_mapping(LiberoHdf5Options, options, 'format libero_hdf5')
        _require_profile(profile, chosen.cameras)
        self._cameras = {name: chosen.cameras[name] for name in profile.cameras}
        self._files: Cache[Any] = Cache(_OPEN_FILES, close=methodcaller('close'))
        path = Path(path).expanduser()
        files = sorted(path.rglob('*.hdf5')) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise DataError(
                f'no demonstrations at {path}', 'give a .hdf5 file or a folder with some'
            )
        images = list(self._cameras.values())
        self._demos = [d for file in files for d in demonstrations(file, self._file(file), images)]
        sizes = [len(demo.frames) for demo in self._demos]
        self.steps = Steps(sizes, profile.chunk, whole_chunks=chosen.whole_chunks)
        if not len(self.steps):
            raise DataError(
                f'no demonstration in {path} has {profile.chunk} steps', 'give longer ones'
            )
        self._frames = np.concatenate([demo.frames for demo in self._demos])
        self.actions = np.concatenate([demo.actions for demo in self._demos])
        states = np.concatenate([demo.states for demo in self._demos])
        self.states = states if profile.proprio_dim else None

    def _task(self, episode: int, step: int) -> str:
        return self._demos[episode].instruction

    def _images(self, episode: int, step: int) -> dict[str, np.ndarray]:
        demo, frame = self._demos[episode], int(self._frames[step])
        try:
            seen = self._file(demo.path)['data'][demo.name]['obs']
            return {
                camera: np.ascontiguousarray(seen[key][frame][::-1, ::-1])
                for camera, key in self._cameras.items()
            }
        except (KeyError, OSError) as error:
            raise unreadable(demo.path, error) from None

    def _file(self, path: Path) -> Any:
        h5py = library('h5py')
        try:
            return self._files.get(path, lambda: h5py.File(path, 'r'))
        except OSError as error:
            raise unreadable(path, error) from None


def _require_profile(profile: Profile, cameras: Mapping[str, str]) -> None:
    unknown = [repr(camera) for camera in profile.cameras if camera not in cameras]
    kind, state, period = profile.action_kind, profile.proprio_dim, profile.control_period_s
    problems = {
        f"action_kind is {kind!r}, not 'delta_pose'": kind != 'delta_pose',
        f'proprio_dim is {state}, not 8 or 0': state not in (0, 8),
        f'control_period_s is {period}, not {PERIOD_S}': abs(period / PERIOD_S - 1) >= 0.01,
        f'camera {", ".join(unknown)} is not among {sorted(cameras)}': bool(unknown),
    }
    for what, found in problems.items():
        if found:
            raise DataError(
                f'demonstrations of LIBERO do not fit profile {profile.name!r}: {what}',
                "use the profile 'libero' or one based on it",
            )
