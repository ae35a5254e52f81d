"""How far two series of chunks are apart, and how smoothly chunks follow each other.

Borders and openings of the gripper are those of the steps that are executed before the next chunk
comes; everything else is compared over complete chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.spatial.transform import Rotation

from ...profiles import DELTA_POSE_NAMES
from ..statistics import percentiles
from .columns import Column, figures, number, percent, shown

AXES = DELTA_POSE_NAMES[:6]
DEAD_BAND_MM, DEAD_BAND_DEG = 0.2, 0.1
"""A smaller step has no direction."""
FLIP_WINDOW_NS = 1_000_000_000
"""Openings or closings further apart are not the same one."""
Flip = tuple[int, bool]
"""Stamp in ns, and True where the gripper opens."""
Figures = dict[str, float]
"""``mean``, ``p50``, ``p95`` and the like of a distribution."""


@dataclass(frozen=True)
class Flips:
    here: int
    there: int
    matched: int
    offset_ms: Figures | None


def _mean_sign(agreement: dict[str, float | None]) -> str:
    known = [ratio for ratio in agreement.values() if ratio is not None]
    return percent(sum(known) / len(known) if known else None)


def _flips(text: Callable[[Flips], str], name: str, short: str = '') -> Column:
    meaning = 'gripper changes of the method, of the other, paired; time between paired ones'
    return Column(meaning, text, name, short)


@dataclass(frozen=True)
class Comparison:
    """Over the steps that both sides know.

    :param end_mm: of chunks that both sides know completely; None where there is none.
    :param axes: axis -> ``mean_abs`` and ``bias`` in mm or degrees.
    :param sign_agreement: axis -> ratio, None where nothing moved.
    """

    steps: int = shown(Column('steps of chunks that were compared', str))
    translation_mm: Figures = shown(
        *figures('distance between translations of a step', mean='mm', p50='', p95='p95', max='')
    )
    rotation_deg: Figures = shown(
        *figures('angle between rotations of a step', mean='deg', p50='', p95='', max='')
    )
    end_mm: Figures | None = shown(
        *figures('distance between the ends of complete chunks', mean='end mm', p95='', max='')
    )
    axes: dict[str, Figures]
    sign_agreement: dict[str, float | None] = shown(
        Column('same direction, of steps where both move', _mean_sign, short='sign %')
    )
    gripper_agreement: float = shown(
        Column('steps on which both want the gripper open or closed', percent, short='grip %')
    )
    flips: Flips = shown(
        _flips(lambda f: f'{f.here}/{f.there}/{f.matched}', 'here/there/paired', 'flips'),
        _flips(lambda f: number(f.offset_ms and f.offset_ms['mean']), 'mean, ms', 'apart ms'),
        _flips(lambda f: number(f.offset_ms and f.offset_ms['p95']), 'p95, ms'),
    )


def _error(comparison: Comparison, axis: str) -> str:
    error = comparison.axes[axis]
    bias = number(error['bias'])
    return f'{number(error["mean_abs"])} ({"" if bias.startswith("-") else "+"}{bias})'


def _same_sign(comparison: Comparison, axis: str) -> str:
    return percent(comparison.sign_agreement[axis])


AXIS_COLUMNS = tuple(
    Column(meaning, partial(cell, axis=axis), axis.removeprefix('delta_'), group=group)
    for axes, group, meaning, cell in (
        (AXES[:3], 'error (bias), mm', 'mean absolute and mean difference per step', _error),
        (AXES[3:], 'error (bias), deg', 'mean absolute and mean difference per step', _error),
        (AXES, 'sign agreement, %', 'same direction, of steps where both move', _same_sign),
    )
    for axis in axes
)
"""Per axis of the base frame; cells take a comparison."""


@dataclass(frozen=True)
class Borders:
    """:param jerk_m_s3: third difference of the position that spans a border, over the period."""

    borders: int = shown(Column('places where a chunk replaces another', str, short='borders'))
    jump_mm: Figures | None = shown(
        *figures('change of the step translation at borders', p50='border mm', p95='')
    )
    inside_mm: Figures | None = shown(
        *figures('change of the step translation inside chunks', p50='inside', p95='')
    )
    jerk_m_s3: Figures | None = shown(*figures('jerk at borders', p50='', p95=''))


@dataclass(frozen=True, eq=False)
class Executed:
    """:param steps: float64 (n, 7): m, rad, gripper.
    :param run: int64 (n,): steps of one number follow each other without a gap.
    :param chunk: int64 (n,): the chunk that a step is of.
    """

    stamps_ns: np.ndarray
    steps: np.ndarray
    run: np.ndarray
    chunk: np.ndarray

    def flips(self) -> list[Flip]:
        is_open = self.steps[:, 6] >= 0.5
        turned = (is_open[1:] != is_open[:-1]) & (self.run[1:] == self.run[:-1])
        at = np.flatnonzero(turned) + 1
        return [(int(self.stamps_ns[i]), bool(is_open[i])) for i in at]


@dataclass(frozen=True, eq=False)
class ChunkSeries:
    """The N chunks of one side on one bag; two sides of a bag have the same instants.

    :param epochs: chunks of two do not follow each other.
    :param actions: float64 (N, K, 7): m, rad, gripper 0 ... 1; ``known``: bool (N, K).
    """

    stamps_ns: Sequence[int]
    epochs: Sequence[int]
    actions: np.ndarray
    known: np.ndarray
    dt_s: float

    @cached_property
    def executed(self) -> Executed:
        """Steps of each chunk up to the stamp of the next, as ``chunk_executor`` takes them, or up
        to the first that is unknown."""
        dt_ns, size = round(1e9 * self.dt_s), self.actions.shape[1]
        places: list[tuple[int, int, int, int]] = []
        run = 0
        for i, (stamp, epoch) in enumerate(zip(self.stamps_ns, self.epochs, strict=True)):
            follows = i + 1 < len(self.stamps_ns) and self.epochs[i + 1] == epoch
            until = (self.stamps_ns[i + 1] - stamp + dt_ns // 2) // dt_ns if follows else size
            count = int(min(until, np.logical_and.accumulate(self.known[i]).sum()))
            places += [(stamp + j * dt_ns, i, j, run) for j in range(count)]
            if not follows or count < until:
                run += 1
        stamps, chunk, step, runs = np.array(places, np.int64).reshape(-1, 4).T
        return Executed(stamps_ns=stamps, steps=self.actions[chunk, step], run=runs, chunk=chunk)


def compare(sides: Sequence[tuple[ChunkSeries, ChunkSeries]]) -> Comparison | None:
    """A method's chunks with another side's over several bags; None without a common step."""
    if not sides:
        return None
    here_all = np.concatenate([here.actions for here, _ in sides])
    there_all = np.concatenate([there.actions for _, there in sides])
    known = np.concatenate([here.known & there.known for here, there in sides])
    if not known.any():
        return None
    here, there = here_all[known], there_all[known]
    apart = in_mm_and_degrees(here) - in_mm_and_degrees(there)
    complete = known.all(axis=1)
    ends = (here_all[complete] - there_all[complete])[..., :3].sum(axis=1)
    return Comparison(
        steps=len(here),
        translation_mm=_spread(np.linalg.norm(apart[:, :3], axis=1)),
        rotation_deg=_spread(rotation_apart_deg(here[:, 3:6], there[:, 3:6])),
        end_mm=_spread(1e3 * np.linalg.norm(ends, axis=1)) if len(ends) else None,
        axes={
            name: {'mean_abs': float(np.abs(a).mean()), 'bias': float(a.mean())}
            for name, a in zip(AXES, apart.T, strict=True)
        },
        sign_agreement=sign_agreement(here, there),
        gripper_agreement=float(np.mean((here[:, 6] >= 0.5) == (there[:, 6] >= 0.5))),
        flips=compare_flips([(a.executed.flips(), b.executed.flips()) for a, b in sides]),
    )


def step_error_mm(here: ChunkSeries, there: ChunkSeries) -> list[float | None]:
    """Mean over the known steps of each chunk."""
    apart = 1e3 * np.linalg.norm((here.actions - there.actions)[..., :3], axis=-1)
    return [
        float(row[known].mean()) if known.any() else None
        for row, known in zip(apart, here.known & there.known, strict=True)
    ]


def in_mm_and_degrees(actions: np.ndarray) -> np.ndarray:
    """float64 (n, 7) in m and rad -> (n, 6) in mm and degrees."""
    return np.column_stack([1e3 * actions[:, :3], np.degrees(actions[:, 3:6])])


def rotation_apart_deg(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Angle between rotation vectors (n, 3) in rad, in degrees (n,)."""
    turn = Rotation.from_rotvec(here) * Rotation.from_rotvec(there).inv()
    return np.degrees(turn.magnitude())


def sign_agreement(here: np.ndarray, there: np.ndarray) -> dict[str, float | None]:
    """Axis -> ratio of the steps that go the same way, of those where both sides move."""
    mine, other = in_mm_and_degrees(here), in_mm_and_degrees(there)
    band = np.array([DEAD_BAND_MM] * 3 + [DEAD_BAND_DEG] * 3)
    moving = (np.abs(mine) > band) & (np.abs(other) > band)
    same = np.sign(mine) == np.sign(other)
    return {
        name: float(same[m, i].mean()) if (m := moving[:, i]).any() else None
        for i, name in enumerate(AXES)
    }


def borders(bags: Sequence[ChunkSeries]) -> Borders:
    jumps, inside, jerks = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for bag in bags:
        done = bag.executed
        moved, run, chunk = done.steps[:, :3], done.run, done.chunk
        change = 1e3 * np.linalg.norm(np.diff(moved, axis=0), axis=1)
        follows, new = run[1:] == run[:-1], chunk[1:] != chunk[:-1]
        jumps.append(change[follows & new])
        inside.append(change[follows & ~new])
        third = np.linalg.norm(np.diff(moved, n=2, axis=0), axis=1) / bag.dt_s**3
        jerks.append(third[(run[2:] == run[:-2]) & (chunk[2:] != chunk[:-2])])
    return Borders(
        borders=sum(map(len, jumps)),
        jump_mm=percentiles(np.concatenate(jumps)),
        inside_mm=percentiles(np.concatenate(inside)),
        jerk_m_s3=percentiles(np.concatenate(jerks)),
    )


def compare_flips(pairs: Sequence[tuple[Sequence[Flip], Sequence[Flip]]]) -> Flips:
    """The two nearest flips of a direction belong together, then the next nearest, up to 1 s."""
    late = [1e-6 * ns for here, there in pairs for ns in _matched_ns(here, there)]
    return Flips(
        here=sum(len(here) for here, _ in pairs),
        there=sum(len(there) for _, there in pairs),
        matched=len(late),
        offset_ms={'mean': float(np.mean(late)), **percentiles(late, (95,))} if late else None,
    )


def _matched_ns(here: Sequence[Flip], there: Sequence[Flip]) -> list[int]:
    candidates = sorted(
        (abs(a - b), i, j)
        for i, (a, opens) in enumerate(here)
        for j, (b, other) in enumerate(there)
        if opens == other and abs(a - b) <= FLIP_WINDOW_NS
    )
    partner: dict[int, int] = {}
    out = []
    for distance, i, j in candidates:
        if i not in partner and j not in partner.values():
            partner[i] = j
            out.append(distance)
    return out


def _spread(values: np.ndarray) -> Figures:
    return {'mean': float(values.mean()), **percentiles(values), 'max': float(values.max())}
