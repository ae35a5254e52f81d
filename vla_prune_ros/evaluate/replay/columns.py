"""Columns of a replay's results for page and console, declared at the field with the number."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..tables import NOTHING

_UNITS = {'_m_s3': 'm/s³', '_mm': 'mm', '_ms': 'ms', '_deg': 'deg', '_agreement': '%'}


def number(value: float | None) -> str:
    """About three digits; a small value that is not zero never reads as zero."""
    if value is None:
        return NOTHING
    size = abs(value)
    if 0 < size < 0.01:
        return f'{value:.2g}'
    return f'{value:.{0 if size >= 100 else 1 if size >= 10 else 2}f}'


def percent(ratio: float | None) -> str:
    """A ratio of 0 to 1 as per cent; only exactly 1 reads as 100."""
    if ratio is None:
        return NOTHING
    if ratio == 1:
        return '100'
    return f'{min(100 * ratio, 99.9) if ratio < 1 else 100 * ratio:.1f}'


def counts(of: Mapping[str, int]) -> str:
    """``'stale:ee_pose 3, skew 1'``, the most frequent first."""
    ordered = sorted(of.items(), key=lambda item: (-item[1], item[0]))
    return ', '.join(f'{name} {count}' for name, count in ordered) or NOTHING


def plural(count: int, word: str) -> str:
    """``'1 query'``, ``'2 queries'``."""
    if count == 1:
        return f'1 {word}'
    return f'{count} {word[:-1]}ies' if word.endswith('ry') else f'{count} {word}s'


@dataclass(frozen=True)
class Column:
    """:param cell: text of the field's value if not None; in :func:`columns_of` of the result.
    :param name: which figure of the quantity; empty where there is one only.
    :param short: head on the console; empty where the console leaves the column out.
    :param group: the field's name with its unit, for columns side by side of the same meaning.
    """

    meaning: str
    cell: Callable[[Any], str] = number
    name: str = ''
    short: str = ''
    group: str = ''


def shown(*columns: Column) -> Any:
    return field(metadata={'columns': columns})


def figures(meaning: str, **shorts: str) -> Iterator[Column]:
    """A column for each of these figures of a distribution, with its head on the console."""
    for name, short in shorts.items():
        yield Column(meaning, lambda value, name=name: number(value[name]), name, short)


def columns_of(kind: type) -> tuple[Column, ...]:
    """Columns of all fields of a result's type, in order; a dash where the field is None."""

    def column(name: str, declared: Column) -> Column:
        def cell(result: Any) -> str:
            value = getattr(result, name)
            return NOTHING if value is None else declared.cell(value)

        return replace(declared, group=_head(name), cell=cell)

    return tuple(column(f.name, c) for f in fields(kind) for c in f.metadata.get('columns', ()))


def _head(name: str) -> str:
    """``'jerk_m_s3'`` -> ``'jerk, m/s³'``."""
    unit = next((unit for unit in _UNITS if name.endswith(unit)), '')
    head = name.removesuffix(unit).replace('_', ' ')
    return f'{head}, {_UNITS[unit]}' if unit else head
