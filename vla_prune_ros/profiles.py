"""Robot profiles: the constants that a checkpoint was trained with, named or from a YAML file.
Values: OpenVLA-OFT's platform constants (``prismatic/vla/constants.py``), robosuite's OSC_POSE
scaling (``osc_pose.json``: 0.05 m and 0.5 rad per unit and step)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from .config import Above, check_values, load_yaml, option
from .errors import ProfileError

DELTA_POSE_NAMES = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz', 'gripper')


@dataclass(frozen=True)
class Profile:
    """What a checkpoint expects and what its actions mean."""

    name: str = option(doc='Shown in status and reports.')
    cameras: tuple[str, ...] = option(
        doc='Names in the order the model takes them, the third-person camera first.'
    )
    chunk: int = option(doc='K, steps per inference.', low=1)
    action_dim: int = option(doc='D, numbers per step; 7 for delta_pose.', low=1)
    proprio_dim: int = option(
        doc='Length of the state vector; 0 where the checkpoint takes none.', low=0
    )
    normalization: str = option(
        doc='bounds_q99 (q01 and q99 of the statistics file) or bounds (min and max).',
        choices=('bounds_q99', 'bounds'),
    )
    control_period_s: float = option(doc='Seconds per step.', low=Above(0))
    action_kind: str = option(
        doc='delta_pose (6 end-effector deltas and a gripper) or joint_positions.',
        choices=('delta_pose', 'joint_positions'),
    )
    action_names: tuple[str, ...] = option(doc='D names, published as joint_names of the chunk.')
    action_scale: tuple[float, ...] = option(
        doc="D factors from the checkpoint's units to SI (m, rad, gripper fraction).", low=Above(0)
    )
    proprio_kind: str = option(
        doc='pose_gripper (xyz, axis-angle, finger positions), joints or none.',
        choices=('pose_gripper', 'joints', 'none'),
    )
    pre_resize: int = option(
        0, 'Side in pixels of a bicubic resize before everything else, 0 for none (ALOHA).', low=0
    )

    def __post_init__(self) -> None:
        where = f'profile {self.name!r}'
        check_values(Profile, {f.name: getattr(self, f.name) for f in fields(self)}, where)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ProfileError(f'{where}: cameras is {self.cameras}', 'name each camera once')
        if self.action_kind == 'delta_pose' and self.action_dim != 7:
            what = f'{where}: delta_pose has action_dim {self.action_dim}'
            raise ProfileError(what, 'use 7: six deltas and the gripper')
        for name in ('action_names', 'action_scale'):
            if len(getattr(self, name)) != self.action_dim:
                what = f'{where}: {name} has {len(getattr(self, name))} items'
                raise ProfileError(what, f'give {self.action_dim}')

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
            *('waist', 'shoulder', 'elbow', 'forearm_roll', 'wrist_angle', 'wrist_rotate'),
            'gripper',
        )
    ),
    action_scale=(1.0,) * 14,
    proprio_kind='joints',
    pre_resize=256,
)

# BridgeData V2: deltas are already metres and radians, at 5 Hz.
BRIDGE = replace(
    LIBERO,
    name='bridge',
    cameras=('primary',),
    chunk=5,
    proprio_dim=7,
    control_period_s=0.2,
    action_scale=(1.0,) * 7,
)

PROFILES: Mapping[str, Profile] = {p.name: p for p in (LIBERO, ALOHA, BRIDGE)}


def load_profile(profile: 'str | Path | Profile') -> Profile:
    """A profile by name, as it is, or from a YAML file that names a ``base`` profile and the
    fields that differ; see docs/bring-your-own-robot.md.
    :raises ProfileError: unknown name, unreadable file, unknown field or bad value."""
    if isinstance(profile, Profile):
        return profile
    if str(profile) in PROFILES:
        return PROFILES[str(profile)]
    path = Path(profile).expanduser()
    if path.suffix not in ('.yaml', '.yml'):
        what = f'unknown profile {str(profile)!r}'
        raise ProfileError(what, f'use one of {sorted(PROFILES)} or the path of a .yaml profile')
    data, where = load_yaml(path, 'profile file'), f'profile file {path}'
    base = data.pop('base', None)
    if not isinstance(base, str) or base not in PROFILES:
        raise ProfileError(f'{where}: base is {base!r}', f'use one of {sorted(PROFILES)}')
    return replace(PROFILES[base], **{'name': path.stem, **check_values(Profile, data, where)})
