"""How far two series of chunks are apart, step by step: translation, rotation, gripper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ..profiles import DELTA_POSE_NAMES

AXES = DELTA_POSE_NAMES[:6]
DEAD_BAND_MM, DEAD_BAND_DEG = 0.2, 0.1
"""Less than that per step is no direction."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """Answers to the same instants from two sides.

    :param here: float64 (N, K, 7): m, rad, gripper 0 ... 1. :param there: likewise.
    :param valid: bool (N, K), steps that both sides know.
    """

    here: np.ndarray
    there: np.ndarray
    valid: np.ndarray

    @classmethod
    def together(cls, parts: Sequence['Chunks']) -> 'Chunks':
        """Those of several bags."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in cls.__annotations__))


def compare(chunks: Chunks) -> dict[str, Any] | None:
    """All figures but those of the gripper over time; None where no step can be compared."""
    if not chunks.valid.any():
        return None
    here, there = chunks.here[chunks.valid], chunks.there[chunks.valid]
    apart = in_mm_and_degrees(here) - in_mm_and_degrees(there)
    return {
        'steps': len(here),
        'translation_mm': spread(np.linalg.norm(apart[:, :3], axis=1)),
        'rotation_deg': spread(rotation_apart_deg(here[:, 3:6], there[:, 3:6])),
        'end_mm': _end(chunks),
        'axes': {
            name: {'mean_abs': float(np.abs(a).mean()), 'bias': float(a.mean())}
            for name, a in zip(AXES, apart.T, strict=True)
        },
        'sign_agreement': sign_agreement(here, there),
        'gripper_agreement': float(np.mean((here[:, 6] >= 0.5) == (there[:, 6] >= 0.5))),
    }


def step_error_mm(chunks: Chunks) -> list[float | None]:
    """Mean distance of the translations of each chunk's steps; None where none is known."""
    apart = 1e3 * np.linalg.norm(chunks.here[..., :3] - chunks.there[..., :3], axis=-1)
    return [
        float(row[known].mean()) if known.any() else None
        for row, known in zip(apart, chunks.valid, strict=True)
    ]


def in_mm_and_degrees(actions: np.ndarray) -> np.ndarray:
    """float64 (n, 7) in m and rad -> (n, 6) in mm and degrees."""
    return np.column_stack([1e3 * actions[:, :3], np.degrees(actions[:, 3:6])])


def rotation_apart_deg(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Angle between rotation vectors (n, 3) in rad, in degrees (n,)."""
    turn = Rotation.from_rotvec(here) * Rotation.from_rotvec(there).inv()
    return np.degrees(turn.magnitude())


def sign_agreement(here: np.ndarray, there: np.ndarray) -> dict[str, float | None]:
    """Axis -> share of the steps that go the same way, of those where both sides go."""
    mine, other = in_mm_and_degrees(here), in_mm_and_degrees(there)
    band = np.array([DEAD_BAND_MM] * 3 + [DEAD_BAND_DEG] * 3)
    moving = (np.abs(mine) > band) & (np.abs(other) > band)
    same = np.sign(mine) == np.sign(other)
    return {
        name: float(same[m, i].mean()) if (m := moving[:, i]).any() else None
        for i, name in enumerate(AXES)
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """``mean``, ``p50``, ``p95`` and ``max``."""
    p50, p95 = np.percentile(values, (50, 95))
    return {
        'mean': float(values.mean()),
        'p50': float(p50),
        'p95': float(p95),
        'max': float(values.max()),
    }


def _end(chunks: Chunks) -> Mapping[str, float] | None:
    """Where whole chunks lead: distance of the sums of their translations."""
    whole = chunks.valid.all(axis=1)
    if not whole.any():
        return None
    apart = (chunks.here - chunks.there)[whole, :, :3].sum(axis=1)
    return spread(1e3 * np.linalg.norm(apart, axis=1))
