"""What an arm would have executed of a series of chunks: each until the next one comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bench_rows import quantiles

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
    return quantiles(values) if len(values) else None
