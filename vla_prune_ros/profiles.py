"""Robot profiles: the constants that a checkpoint was trained with, chosen explicitly.

The published code picks these by searching the whole command line for the words libero, aloha and
bridge; here a profile is named, or read from a YAML file that a user writes for his own robot.
Values: OpenVLA-OFT's platform constants (``prismatic/vla/constants.py``), robosuite's OSC_POSE
scaling (``osc_pose.json``: 0.05 m and 0.5 rad per unit and step).

Whether what a user says of his cameras and his arm's pose fits the profile of the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import yaml

from .errors import ProfileError

DELTA_POSE_NAMES = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz', 'gripper')


@dataclass(frozen=True)
class Profile:
    """What a checkpoint expects and what its actions mean.

    :param name: shown in status and reports.
    :param cameras: names in the order the model takes them; the third-person camera first.
    :param chunk: K, steps per inference.
    :param action_dim: D, numbers per step.
    :param proprio_dim: length of the state vector; 0 where the checkpoint takes none.
    :param normalization: ``'bounds_q99'`` (q01/q99) or ``'bounds'`` (min/max) of the statistics
        file.
    :param control_period_s: seconds per step.
    :param action_kind: ``'delta_pose'`` (6 end-effector deltas and a gripper) or
        ``'joint_positions'``.
    :param action_names: D names, published as ``joint_names`` of the chunk.
    :param action_scale: D factors from the checkpoint's units to SI (m, rad, gripper fraction).
    :param proprio_kind: ``'pose_gripper'`` (xyz, axis-angle, finger positions), ``'joints'`` or
        ``'none'``.
    :param pre_resize: side in pixels of a bicubic resize before everything else, 0 for none
        (ALOHA).
    """

    name: str
    cameras: tuple[str, ...]
    chunk: int
    action_dim: int
    proprio_dim: int
    normalization: str
    control_period_s: float
    action_kind: str
    action_names: tuple[str, ...]
    action_scale: tuple[float, ...]
    proprio_kind: str
    pre_resize: int = 0

    def __post_init__(self) -> None:
        where = f'profile {self.name!r}'
        checks = (
            (len(self.cameras) >= 1, 'cameras is empty', 'name at least one camera'),
            (
                len(set(self.cameras)) == len(self.cameras),
                'cameras repeats a name',
                'name each camera once',
            ),
            (self.chunk >= 1, f'chunk is {self.chunk}', 'use 1 or more steps'),
            (self.action_dim >= 1, f'action_dim is {self.action_dim}', 'use 1 or more'),
            (self.proprio_dim >= 0, f'proprio_dim is {self.proprio_dim}', 'use 0 for none'),
            (
                self.normalization in ('bounds_q99', 'bounds'),
                f'normalization is {self.normalization!r}',
                "use 'bounds_q99' or 'bounds'",
            ),
            (
                np.isfinite(self.control_period_s) and self.control_period_s > 0,
                f'control_period_s is {self.control_period_s}',
                'use seconds above 0',
            ),
            (
                self.action_kind in ('delta_pose', 'joint_positions'),
                f'action_kind is {self.action_kind!r}',
                "use 'delta_pose' or 'joint_positions'",
            ),
            (
                self.proprio_kind in ('pose_gripper', 'joints', 'none'),
                f'proprio_kind is {self.proprio_kind!r}',
                "use 'pose_gripper', 'joints' or 'none'",
            ),
            (
                self.action_kind != 'delta_pose' or self.action_dim == 7,
                f'delta_pose has action_dim {self.action_dim}',
                'use 7: six deltas and the gripper',
            ),
            (
                len(self.action_names) == self.action_dim,
                f'action_names has {len(self.action_names)} names',
                f'give {self.action_dim}',
            ),
            (
                len(self.action_scale) == self.action_dim,
                f'action_scale has {len(self.action_scale)} numbers',
                f'give {self.action_dim}',
            ),
            (
                all(np.isfinite(s) and s > 0 for s in self.action_scale),
                f'action_scale is {self.action_scale}',
                'use finite numbers above 0',
            ),
        )
        for good, what, remedy in checks:
            if not good:
                raise ProfileError(f'{where}: {what}', remedy)

    def to_si(self, actions: np.ndarray) -> np.ndarray:
        """Checkpoint units -> m, rad and gripper fraction. float64 (K, D) -> float64 (K, D)."""
        return np.asarray(actions, np.float64) * np.asarray(self.action_scale)

    def from_si(self, actions: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_si`."""
        return np.asarray(actions, np.float64) / np.asarray(self.action_scale)


LIBERO = Profile(
    name='libero',
    cameras=('primary', 'wrist'),
    chunk=8,
    action_dim=7,
    proprio_dim=8,
    normalization='bounds_q99',
    control_period_s=0.05,
    action_kind='delta_pose',
    action_names=DELTA_POSE_NAMES,
    action_scale=(0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
    proprio_kind='pose_gripper',
)

ALOHA = Profile(
    name='aloha',
    cameras=('primary', 'left_wrist', 'right_wrist'),
    chunk=25,
    action_dim=14,
    proprio_dim=14,
    normalization='bounds',
    control_period_s=0.04,
    action_kind='joint_positions',
    action_names=tuple(
        f'{side}_{joint}'
        for side in ('left', 'right')
        for joint in (
            'waist',
            'shoulder',
            'elbow',
            'forearm_roll',
            'wrist_angle',
            'wrist_rotate',
            'gripper',
        )
    ),
    action_scale=(1.0,) * 14,
    proprio_kind='joints',
    pre_resize=256,
)

# BridgeData V2: deltas are already metres and radians, at 5 Hz.
BRIDGE = Profile(
    name='bridge',
    cameras=('primary',),
    chunk=5,
    action_dim=7,
    proprio_dim=7,
    normalization='bounds_q99',
    control_period_s=0.2,
    action_kind='delta_pose',
    action_names=DELTA_POSE_NAMES,
    action_scale=(1.0,) * 7,
    proprio_kind='pose_gripper',
)

PROFILES: Mapping[str, Profile] = {p.name: p for p in (LIBERO, ALOHA, BRIDGE)}


def load_profile(profile: 'str | Path | Profile') -> Profile:
    """A profile by name, from a YAML file, or as it is.

    The YAML names a ``base`` profile and the fields that differ; see docs/bring-your-own-robot.md.

    :raises ProfileError: unknown name, unreadable file, unknown field or bad value.
    """
    if isinstance(profile, Profile):
        return profile
    text = str(profile)
    if text in PROFILES:
        return PROFILES[text]
    path = Path(text).expanduser()
    if path.suffix not in ('.yaml', '.yml'):
        raise ProfileError(
            f'unknown profile {text!r}',
            f'use one of {sorted(PROFILES)} or the path of a .yaml profile',
        )
    return _from_yaml(path)


def _from_yaml(path: Path) -> Profile:
    try:
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(
            f'profile file {path} cannot be read ({str(error).splitlines()[0]})',
            'check the path and that it is YAML',
        ) from None
    if not isinstance(data, dict):
        raise ProfileError(
            f'profile file {path} is not a mapping of fields', "start it with 'base: libero'"
        )
    base = data.pop('base', None)
    if not isinstance(base, str) or base not in PROFILES:
        raise ProfileError(
            f'profile file {path}: base is {base!r}', f'use one of {sorted(PROFILES)}'
        )
    known = {f.name: f.type for f in fields(Profile)}
    for name, value in data.items():
        if name not in known:
            raise ProfileError(
                f'profile file {path}: unknown field {name!r}', f'use one of {sorted(known)}'
            )
        if not _fits(value, known[name]):
            raise ProfileError(
                f'profile file {path}: {name} is {value!r}', f'give {_KINDS[known[name]]}'
            )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return replace(PROFILES[base], **{'name': path.stem, **values})


_KINDS = {
    str: 'a word',
    int: 'a whole number',
    float: 'a number',
    tuple[str, ...]: 'a list of words',
    tuple[float, ...]: 'a list of numbers',
}


def _fits(value: Any, hint: Any) -> bool:
    """YAML is untyped: without this, ``cameras: wrist`` would be five cameras of one letter."""
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(v, get_args(hint)[0]) for v in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def validate_profile(
    profile: Profile, rotate_180: Sequence[str], pose_offset_m: Sequence[float]
) -> None:
    """Parameters of the same names, of the node and of a replay.

    :raises ProfileError: a camera that the profile does not have, or no three numbers.
    """
    unknown = sorted(set(rotate_180) - set(profile.cameras))
    if unknown:
        raise ProfileError(
            f'rotate_180 names camera {", ".join(map(repr, unknown))}',
            f'use names of {list(profile.cameras)}',
        )
    if len(pose_offset_m) != 3:
        raise ProfileError(
            f'pose_offset_m has {len(pose_offset_m)} numbers', 'give x, y and z in m'
        )
