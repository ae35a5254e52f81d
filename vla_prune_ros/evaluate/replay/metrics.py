"""How far two series of chunks are apart, step by step: translation, rotation, gripper.

What an arm would have executed of a series of chunks: each until the next one comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ...profiles import DELTA_POSE_NAMES
from ..statistics import percentiles

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


FLIP_WINDOW_NS = 1_000_000_000
"""Openings or closings further apart are not the same one."""


@dataclass(frozen=True, eq=False)
class Executed:
    """Steps in order, of one bag.

    :param stamps_ns: int64 (n,) when each begins.
    :param steps: float64 (n, 7): m, rad, gripper.
    :param run: int64 (n,): steps of one number follow each other without a gap.
    :param chunk: int64 (n,): the chunk that a step is of.
    """

    stamps_ns: np.ndarray
    steps: np.ndarray
    run: np.ndarray
    chunk: np.ndarray


def execute(
    stamps_ns: Sequence[int],
    epochs: Sequence[int],
    actions: np.ndarray,
    known: np.ndarray,
    dt_s: float,
) -> Executed:
    """Steps of each chunk up to the stamp of the next, as ``chunk_executor`` takes them.

    :param stamps_ns: (N,) of the chunks; ``epochs``: (N,), chunks of two do not follow each other.
    :param actions: float64 (N, K, 7). :param known: bool (N, K); from the first unknown step on
        nothing is executed.
    """
    dt_ns, size = round(1e9 * dt_s), actions.shape[1]
    out: list[tuple[int, np.ndarray, int, int]] = []
    run = 0
    for i, (stamp, epoch) in enumerate(zip(stamps_ns, epochs, strict=True)):
        follows = i + 1 < len(stamps_ns) and epochs[i + 1] == epoch
        until = (stamps_ns[i + 1] - stamp + dt_ns // 2) // dt_ns if follows else size
        count = int(min(until, np.logical_and.accumulate(known[i]).sum()))
        out += [(stamp + j * dt_ns, actions[i, j], run, i) for j in range(count)]
        if not follows or count < until:
            run += 1
    columns = list(zip(*out, strict=True)) or [(), np.zeros((0, 7)), (), ()]
    return Executed(
        np.asarray(columns[0], np.int64),
        np.asarray(columns[1], np.float64).reshape(-1, 7),
        np.asarray(columns[2], np.int64),
        np.asarray(columns[3], np.int64),
    )


def borders(parts: Sequence[Executed], dt_s: float) -> dict[str, Any]:
    """How much the translation of a step changes where one chunk replaces another, and inside.

    ``jerk_m_s3``: third difference of the position over the control period, where it spans a
    border.
    """
    jumps, inside, jerks = [], [], []
    for part in parts:
        moved, run, chunk = part.steps[:, :3], part.run, part.chunk
        change = 1e3 * np.linalg.norm(np.diff(moved, axis=0), axis=1)
        follows, new = run[1:] == run[:-1], chunk[1:] != chunk[:-1]
        jumps.append(change[follows & new])
        inside.append(change[follows & ~new])
        if len(moved) > 2:
            third = np.linalg.norm(np.diff(moved, n=2, axis=0), axis=1) / dt_s**3
            jerks.append(third[(run[2:] == run[:-2]) & (chunk[2:] != chunk[:-2])])
    return {
        'borders': int(sum(map(len, jumps))),
        'jump_mm': _quantiles(jumps),
        'inside_mm': _quantiles(inside),
        'jerk_m_s3': _quantiles(jerks),
    }


def flips(executed: Executed) -> list[tuple[int, bool]]:
    """Stamp and direction (True: opens) of each step at which the gripper turns over."""
    is_open = executed.steps[:, 6] >= 0.5
    turned = (is_open[1:] != is_open[:-1]) & (executed.run[1:] == executed.run[:-1])
    at = np.flatnonzero(turned) + 1
    return [(int(executed.stamps_ns[i]), bool(is_open[i])) for i in at]


def compare_flips(
    pairs: Sequence[tuple[Sequence[tuple[int, bool]], Sequence[tuple[int, bool]]]],
) -> dict[str, Any]:
    """How the gripper of one side follows that of the other, over several bags.

    The two nearest of one direction are the same one, then the next nearest, up to a second.
    """
    offsets: list[int] = []
    for here, there in pairs:
        offsets += _matched(here, there)
    late = np.abs(np.asarray(offsets, np.float64)) * 1e-6
    return {
        'here': sum(len(here) for here, _ in pairs),
        'there': sum(len(there) for _, there in pairs),
        'matched': len(offsets),
        'offset_ms': (
            {'mean': float(late.mean()), 'p95': float(np.percentile(late, 95))}
            if offsets
            else None
        ),
    }


def _matched(here: Sequence[tuple[int, bool]], there: Sequence[tuple[int, bool]]) -> list[int]:
    """Here minus there, ns."""
    candidates = sorted(
        (abs(a - b), i, j)
        for i, (a, opens) in enumerate(here)
        for j, (b, other) in enumerate(there)
        if opens == other and abs(a - b) <= FLIP_WINDOW_NS
    )
    used_here, used_there, out = set(), set(), []
    for _, i, j in candidates:
        if i not in used_here and j not in used_there:
            used_here.add(i)
            used_there.add(j)
            out.append(here[i][0] - there[j][0])
    return out


def _quantiles(parts: Sequence[np.ndarray]) -> dict[str, float] | None:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return percentiles(values)
