"""What one of LIBERO's demonstration files holds, as the published training took it.

The layout is that of LIBERO's ``scripts/create_dataset.py``; what is left out and what is turned
follows openvla-oft (``regenerate_libero_dataset.py``, ``libero_dataset_transform``) and the
published conversion to RLDS, whose state is ``ee_states`` with ``gripper_states`` behind.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from .steps import GRIPPERS, require_finite

NOOP_NORM = 1e-4

_SUFFIX = '_demo'
_STATE = ('ee_pos', 'ee_ori', 'gripper_states')
_ARM_JOINTS = 7


@dataclass(frozen=True)
class Demo:
    """One demonstration of T kept steps.

    :param name: its group under ``data``. :param instruction: the task in plain words.
    :param frames: int64 (T,), number of the picture that each step followed from.
    :param actions: float64 (T, 7), the gripper 0 closed or 1 open.
    :param states: float64 (T, 8), position (m), rotation vector (rad), both fingers (m).
    """

    path: Path
    name: str
    instruction: str
    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray


def demonstrations(path: Path, file: Any, pictures: Sequence[str]) -> Iterator[Demo]:
    """Those of one file that have a step, by number.

    :param file: the open ``h5py.File``.
    :param pictures: names under ``obs`` that there must be.
    :raises DataError: not one of LIBERO's files, or one that cannot be used.
    """
    names = _demo_names(file['data']) if 'data' in file else []
    if not names:
        raise DataError(
            f'{path} holds no demonstrations of LIBERO', "give files with 'data/demo_0' in them"
        )
    data = file['data']
    _require_opengl(path, data)
    instruction = instruction_of(path, data)
    shift = int(seen_after(data[names[0]]))
    for name in names:
        actions, states = _numbers(f'{path}, {name}', data[name], pictures)
        kept = kept_steps(actions)
        kept = kept[kept >= shift]
        frames = kept - shift
        if len(kept):
            actions = actions[kept]
            actions[:, -1] = GRIPPERS['libero'](actions[:, -1])
            yield Demo(path, name, instruction, frames, actions, states[frames])


def kept_steps(actions: np.ndarray) -> np.ndarray:
    """Numbers of the actions (T, 7) that are no no-ops; rule: ``is_noop`` of openvla-oft's
    ``regenerate_libero_dataset.py``."""
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
    """What the file's task is; see :class:`~.libero_hdf5.LiberoHdf5`.

    :raises DataError: neither its name nor its content says so.
    """
    if path.stem.endswith(_SUFFIX):
        words = path.stem[: -len(_SUFFIX)].split('_')
        scenes = [i for i, word in enumerate(words) if 'SCENE' in word]
        return ' '.join(words[scenes[-1] + 1 if scenes else 0 :])
    try:
        told = json.loads(data.attrs['problem_info'])['language_instruction']
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f'{path} does not say what its task is',
            "name it after the task, ending in '_demo.hdf5'",
        ) from None
    return ''.join(told).strip('"')


def _numbers(where: str, demo: Any, pictures: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All actions and states of a demonstration, float64 (N, 7) and (N, 8)."""
    wanted = ['actions', *(f'obs/{key}' for key in (*_STATE, *pictures))]
    missing = [key for key in wanted if key not in demo]
    if missing:
        has = sorted(f'obs/{key}' for key in demo.get('obs', ()))
        raise DataError(f'{where} lacks {", ".join(missing)}', f'it has: {", ".join(has)}')
    actions = demo['actions'][()].astype(np.float64)
    parts = [demo[f'obs/{key}'][()].astype(np.float64) for key in _STATE]
    rows = {len(actions), *(len(demo[key]) for key in wanted)}
    widths = [part.shape[1:] for part in (actions, *parts)]
    if len(rows) > 1 or widths != [(7,), (3,), (3,), (2,)]:
        raise DataError(
            f'{where} has {sorted(rows)} steps, of {widths} numbers',
            'give a file with 7 numbers per action, 8 per state and as many pictures',
        )
    states = np.hstack(parts)
    require_finite(np.hstack((actions, states)), where)
    return actions, states


def _demo_names(data: Any) -> list[str]:
    names = [name for name in data if name.startswith('demo_') and name[5:].isdigit()]
    return sorted(names, key=lambda name: int(name[5:]))


def _require_opengl(path: Path, data: Any) -> None:
    convention = data.attrs.get('macros_image_convention', 'opengl')
    if convention != 'opengl':
        raise DataError(
            f'{path} has pictures in the convention {convention!r}',
            "record it with robosuite's IMAGE_CONVENTION = 'opengl'",
        )
