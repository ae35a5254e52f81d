"""How a replay's figures read: numbers, shares and counts, and nothing where nothing is known.

The columns of a replay's tables: what they are called, what they mean and how they read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...profiles import DELTA_POSE_NAMES

NOTHING = '-'
_EMPTY: Mapping[str, Any] = {
    'queries': 0,
    'there': {},
    'topics': {},
    'instructions': [],
    'losses': {},
    'problems': [],
    'rows': [],
    'series': {},
    'strip': [],
}


def filled(bag: Mapping[str, Any]) -> dict[str, Any]:
    """A bag of the result dict whose unknown parts (a bag that could not be read) are empty."""
    return {**bag, **{name: none for name, none in _EMPTY.items() if bag.get(name) is None}}


def number(value: float | None) -> str:
    """About three digits; a small value that is not zero never reads as zero."""
    if value is None:
        return NOTHING
    size = abs(value)
    if 0 < size < 0.01:
        return f'{value:.2g}'
    return f'{value:.{0 if size >= 100 else 1 if size >= 10 else 2}f}'


def signed(value: float | None) -> str:
    """The same with its sign."""
    text = number(value)
    return text if value is None or text.startswith('-') else f'+{text}'


def percent(share: float | None) -> str:
    """A share of 0 to 1 as per cent; only a whole one reads as 100."""
    if share is None:
        return NOTHING
    if share == 1:
        return '100'
    return f'{min(100 * share, 99.9) if share < 1 else 100 * share:.1f}'


def counts(of: Mapping[str, int] | None) -> str:
    """``'stale:ee_pose 3, skew 1'``, the most frequent first."""
    ordered = sorted((of or {}).items(), key=lambda item: (-item[1], item[0]))
    return ', '.join(f'{name} {count}' for name, count in ordered) or NOTHING


def plural(count: int, word: str) -> str:
    """``'1 query'``, ``'2 queries'``."""
    if count == 1:
        return f'1 {word}'
    return f'{count} {word[:-1]}ies' if word.endswith('ry') else f'{count} {word}s'


Cell = Callable[[Mapping[str, Any]], str]
AXES = DELTA_POSE_NAMES[:6]
_MODES = ('dense', 'coarse', 'fine')


@dataclass(frozen=True)
class Column:
    """A column of the report and of the console.

    :param group: what it is a figure of, with the unit; columns of a group stand side by side.
    :param name: which figure; empty where the group has only one.
    :param meaning: one line, without the unit; the columns of a group share it.
    :param cell: what stands in it, from a row or a comparison of the result dict.
    :param short: head on the console; empty where the column is left out there.
    """

    group: str
    name: str
    meaning: str
    cell: Cell
    short: str = ''


def mean_sign(comparison: Mapping[str, Any]) -> float | None:
    """Mean of the sign agreement over the axes on which anything moved, 0 to 1."""
    known = [share for share in (comparison['sign_agreement'] or {}).values() if share is not None]
    return sum(known) / len(known) if known else None


def _figure(part: str, which: str) -> Cell:
    """``row[part][which]``, a dash where either is unknown."""
    return lambda row: number((row.get(part) or {}).get(which))


def _modes(row: Mapping[str, Any]) -> str:
    modes = row['modes'] or {}
    whole = sum(modes.values())
    if not whole:
        return NOTHING
    text = '/'.join(f'{100 * modes.get(mode, 0) / whole:.0f}' for mode in _MODES)
    others = {mode: count for mode, count in modes.items() if mode not in _MODES}
    return f'{text}, {counts(others)}' if others else text


def _flips(comparison: Mapping[str, Any]) -> str:
    flips = comparison['flips']
    return '/'.join(str(flips[w]) for w in ('here', 'there', 'matched')) if flips else NOTHING


def _offset(which: str) -> Cell:
    return lambda comparison: number(
        ((comparison['flips'] or {}).get('offset_ms') or {}).get(which)
    )


def _axis(axis: str) -> Cell:
    def cell(comparison: Mapping[str, Any]) -> str:
        found = (comparison['axes'] or {}).get(axis)
        return f'{number(found["mean_abs"])} ({signed(found["bias"])})' if found else NOTHING

    return cell


def _sign(axis: str) -> Cell:
    return lambda comparison: percent((comparison['sign_agreement'] or {}).get(axis))


def _spread(
    group: str, part: str, about: str, names: Sequence[str], shorts: Mapping[str, str]
) -> tuple[Column, ...]:
    """A column per figure of a distribution."""
    return tuple(
        Column(group, name, about, _figure(part, name), shorts.get(name, '')) for name in names
    )


COST: tuple[Column, ...] = (
    Column(
        'queries', '', 'times the policy was asked', lambda row: str(row['queries']), 'queries'
    ),
    Column(
        'refused',
        '',
        'queries whose input or answer the guard refused: they gave no chunk',
        lambda row: str(row['refused']),
        'refused',
    ),
    Column('why refused', '', 'refusals by reason', lambda row: counts(row['refusals'])),
    Column(
        'visual tokens',
        '',
        'tokens of all cameras that reach the last layer, mean of the queries',
        lambda row: number(row['visual_tokens']),
        'tokens',
    ),
    Column(
        'dense/coarse/fine, %',
        '',
        'how often the method looked at everything, coarsely and finely',
        _modes,
        'dense/coarse/fine %',
    ),
    *_spread('latency, ms', 'latency_ms', 'time of a query', ('p50', 'p95'),
             {'p50': 'ms p50', 'p95': 'p95'}),
    *_spread('refresh, ms', 'refresh_ms', 'dense look after a query, not in the latency',
             ('p50', 'p95'), {'p50': 'refresh'}),
)  # fmt: skip
"""What a query costs; cells take a ROW of the result."""

ERROR: tuple[Column, ...] = (
    Column('steps', '', 'steps of chunks that were compared', lambda c: str(c['steps'])),
    *_spread('translation, mm', 'translation_mm', 'distance between the translations of a step',
             ('mean', 'p50', 'p95', 'max'), {'mean': 'mm', 'p95': 'p95'}),
    *_spread('rotation, deg', 'rotation_deg', 'angle between the rotations of a step',
             ('mean', 'p50', 'p95', 'max'), {'mean': 'deg'}),
    *_spread('end of chunk, mm', 'end_mm', 'distance between where the two whole chunks lead',
             ('mean', 'p95', 'max'), {'mean': 'end mm'}),
    Column(
        'sign, %',
        '',
        'steps that move the same way along an axis, of those where both move; mean of the axes',
        lambda c: percent(mean_sign(c)),
        'sign %',
    ),
    Column(
        'gripper, %',
        'agree',
        'steps on which both want the gripper open, or both closed',
        lambda c: percent(c['gripper_agreement']),
        'grip %',
    ),
    Column(
        'gripper flips',
        'here/there/both',
        'changes between open and closed: of the method, of the other, and paired',
        _flips,
        'flips',
    ),
    Column('flips apart, ms', 'mean', 'time between paired flips', _offset('mean'), 'apart ms'),
    Column('flips apart, ms', 'p95', 'time between paired flips', _offset('p95')),
)  # fmt: skip
"""How far chunks are from others; cells take a CMP of the result."""

BY_AXIS: tuple[Column, ...] = tuple(
    Column(group, axis.removeprefix('delta_'), about, cell(axis))
    for group, about, cell, axes in (
        ('error (bias), mm', 'mean absolute difference and mean difference per step', _axis,
         AXES[:3]),
        ('error (bias), deg', 'mean absolute difference and mean difference per step', _axis,
         AXES[3:]),
        ('sign agreement, %', 'steps that move the same way, of those where both move', _sign,
         AXES),
    )
    for axis in axes
)  # fmt: skip
"""The same per axis of the base frame; cells take a CMP of the result."""

BORDERS: tuple[Column, ...] = (
    Column(
        'borders',
        '',
        'places where a chunk replaces the one before it',
        lambda b: str(b['borders']),
    ),
    *_spread('at borders, mm', 'jump_mm',
             'change of the step translation where a chunk replaces another', ('p50', 'p95'),
             {'p50': 'border mm'}),
    *_spread('inside chunks, mm', 'inside_mm',
             'change of the step translation from step to step', ('p50', 'p95'),
             {'p50': 'inside'}),
    *_spread('jerk at borders, m/s³', 'jerk_m_s3', 'the change at borders as jerk',
             ('p50', 'p95'), {}),
)  # fmt: skip
"""Smoothness; cells take a row's ``borders``."""
