"""The last check before a chunk leaves, and the executor's pose target made of its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ..config import Above, check_values, option
from ..errors import ActionRefused

# A vector scaled to a limit may round to just above it; this margin keeps it at or below.
_ROUND_DOWN = 1.0 - 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Limits:
    """How far one step may move the end effector; None is no limit.
    :raises ProfileError: a value is not in its range; NaN would silently switch a check off."""

    max_step_m: float | None = option(doc='largest translation of one step, m', low=Above(0))
    max_step_rad: float | None = option(doc='largest rotation of one step, rad', low=Above(0))
    max_jerk_m: float | None = option(
        None, 'largest change of the translation from one step to the next, m', low=Above(0)
    )
    speed_scale: float = option(
        1.0, 'factor on every delta before the check, above 0 and at most 1', low=Above(0), high=1
    )
    scale_tolerance: float = option(
        1.25,
        'a step up to this factor beyond its limit is scaled down to it; one beyond that refuses '
        'the chunk',
        low=1,
    )

    def __post_init__(self) -> None:
        check_values(type(self), vars(self), 'limits')


@dataclass(frozen=True)
class GuardReport:
    """What the guard changed and saw in one chunk: numbers of steps, and sizes before scaling."""

    scaled_translation: int
    scaled_rotation: int
    largest_m: float
    largest_rad: float


class Guard:
    """Lets a chunk of end-effector deltas pass, scales it a little, or refuses it as a whole."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def check(
        self, actions_si: np.ndarray, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, GuardReport]:
        """Deltas float64 (K, 6) within the limits, gripper float64 (K,) within 0 ... 1, report.

        :param actions_si: (K, 7) in m, rad and gripper fraction.
        :raises ActionRefused: ``shape``, ``non_finite``, ``limit_translation``, ``limit_rotation``
            or ``limit_jerk``."""
        actions = _as_chunk(actions_si, names)
        bad = np.argwhere(~np.isfinite(actions))
        if len(bad):
            step, column = (int(i) for i in bad[0])
            what = f'action step {step} {names[column]} is {actions[step, column]}'
            raise ActionRefused('non_finite', what, 'check the checkpoint and its dtype')
        limits = self.limits
        deltas = actions[:, :6] * limits.speed_scale
        largest_m, scaled_m = self._scale(deltas[:, :3], 'translation', limits.max_step_m, 'm')
        largest_rad, scaled_rad = self._scale(
            deltas[:, 3:], 'rotation', limits.max_step_rad, 'rad'
        )
        self._check_jerk(deltas)
        report = GuardReport(
            scaled_translation=scaled_m,
            scaled_rotation=scaled_rad,
            largest_m=largest_m,
            largest_rad=largest_rad,
        )
        return deltas, np.clip(actions[:, 6], 0.0, 1.0), report

    def _scale(
        self, vectors: np.ndarray, kind: str, limit: float | None, unit: str
    ) -> tuple[float, int]:
        """Rows of ``vectors`` (K, 3) a little beyond ``limit``, in place."""
        sizes = _norms(vectors)
        worst = int(np.argmax(sizes))
        if limit is None:
            return float(sizes[worst]), 0
        # The whole chunk: the steps after a bad one were planned from where it would have led.
        if sizes[worst] > limit * self.limits.scale_tolerance:
            raise ActionRefused(
                f'limit_{kind}',
                f'action step {worst}: {kind} {sizes[worst]:.4g} {unit} is '
                f'beyond {self.limits.scale_tolerance:g} x max_step_{unit} {limit:g}',
                f'check unnorm_key and action_scale, or raise max_step_{unit}',
            )
        over = sizes > limit
        # One factor for the three numbers of a step: its direction stays.
        vectors[over] *= (limit / sizes[over] * _ROUND_DOWN)[:, None]
        return float(sizes[worst]), int(over.sum())

    def _check_jerk(self, deltas: np.ndarray) -> None:
        limit = self.limits.max_jerk_m
        if limit is None or len(deltas) < 2:
            return
        changes = _norms(np.diff(deltas[:, :3], axis=0))
        worst = int(np.argmax(changes))
        if changes[worst] > limit:
            raise ActionRefused(
                'limit_jerk',
                f'action step {worst + 1} changes the translation by '
                f'{changes[worst]:.4g} m, beyond max_jerk_m {limit:g}',
                'raise max_jerk_m, or check the checkpoint',
            )


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Length of each row; infinite, and so beyond any limit, where the squares overflow."""
    with np.errstate(over='ignore'):
        return np.sqrt(np.sum(vectors * vectors, axis=1))


def _as_chunk(actions_si: np.ndarray, names: Sequence[str]) -> np.ndarray:
    try:
        actions = np.asarray(actions_si, np.float64)
    except (TypeError, ValueError):
        raise ActionRefused(
            'shape', 'the actions are not numbers', 'check the action head'
        ) from None
    if actions.ndim != 2 or not actions.shape[1] == len(names) == 7 or not len(actions):
        what = f'the actions have shape {actions.shape} and {len(names)} names, not (K, 7)'
        raise ActionRefused('shape', what, 'use a profile and checkpoint with 7 numbers per step')
    return actions


class PoseTarget:
    """Adds the steps of a chunk to where the arm was measured when the chunk began.

    Anchoring each chunk anew keeps errors from adding up over chunks; inside a chunk the target is
    open loop, as the policy was trained.

    :param max_age_s: oldest measured pose to start from, by receipt."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age_ns = round(max_age_s * 1e9)
        self._measured: tuple[np.ndarray, np.ndarray] | None = None
        self._receipt_ns = 0
        self._anchor = True
        # Target position (3,) m and quaternion (4,) x y z w, None before the first step.
        self.pose: tuple[np.ndarray, np.ndarray] | None = None

    def measured(self, position: np.ndarray, quat_xyzw: np.ndarray, receipt_ns: int) -> None:
        """Take in a measured pose; one that is not finite or no rotation is ignored."""
        norm = np.linalg.norm(quat_xyzw)
        if np.isfinite(position).all() and np.isfinite(norm) and norm > 1e-6:
            self._measured, self._receipt_ns = (position, quat_xyzw / norm), receipt_ns

    def anchor_next(self) -> None:
        """The next step begins a new chunk: start it from the measured pose."""
        self._anchor = True

    def advance(self, delta: np.ndarray, mono_ns: int) -> bool:
        """Move the target by (6,) m and rad in the base frame, rotation applied from the left.
        :returns: False where a new chunk has no fresh measured pose to start from."""
        if self._anchor and not self.hold(mono_ns):
            return False
        self._anchor = False
        position, quaternion = self.pose
        turned = Rotation.from_rotvec(delta[3:]) * Rotation.from_quat(quaternion)
        self.pose = (position + delta[:3], turned.as_quat())
        return True

    def hold(self, mono_ns: int) -> bool:
        """Put the target where the arm is; False, and no target, where that is not known."""
        fresh = self._measured is not None and mono_ns - self._receipt_ns <= self._max_age_ns
        self.pose = self._measured if fresh else None
        self._anchor = True
        return fresh
