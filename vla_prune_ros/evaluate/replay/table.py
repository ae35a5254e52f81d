"""The result of ``vla-prune replay`` on a console: cost, how far actions are apart, problems."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from rich.table import Table

from .. import tables
from ..tables import NOTHING
from .columns import Column, columns_of, counts, plural
from .metrics import Borders, Comparison
from .results import BagProblem, BagResult, MethodRow, ReplayResult

_MOST_PROBLEMS = 12
_LEGEND = (
    'mm, deg: mean per step, p95: of mm. end: of complete chunks. sign: same direction, of '
    'steps where both move. flips: here/there/paired; apart: time between paired ones.',
    'border, inside: median change of the step translation in mm, where a chunk replaces another '
    'and inside chunks.',
)


def replay_tables(result: ReplayResult) -> list[Table]:
    """Cost and error over all bags, a row per method; then the bags, where there are several."""
    label = ', UNTRAINED' if result.untrained else ''
    asked = plural(sum(bag.queries for bag in result.bags), 'query')
    title = f'replay of {plural(len(result.bags), "bag")}, {asked}{label}'
    cost, error, smooth = map(_short, (MethodRow, Comparison, Borders))
    costs = [(row.method, *_cells(cost, row)) for row in result.rows]
    errors = [
        (row.method, name, *_cells(error, comparison))
        for row in result.rows
        for name, comparison in (('dense', row.versus_dense), ('recorded', row.versus_recorded))
        if comparison is not None
    ]
    borders = [(row.method, *_cells(smooth, row.borders)) for row in result.rows]
    out = [
        _table(title, ['method'], cost, costs),
        _table('error of the chunks, per step', ['method', 'against'], error, errors),
        _table('from step to step', ['method'], smooth, borders),
    ]
    return [*out, _bag_table(result.bags)] if len(result.bags) > 1 else out


def _bag_table(bags: Sequence[BagResult]) -> Table:
    cost = [c for c in _short(MethodRow) if c.short in ('queries', 'refused', 'tokens', 'ms p50')]
    error = [c for c in _short(Comparison) if c.short == 'mm']
    dense, recorded = (replace(c, short=h) for c in error for h in ('mm to dense', 'to recorded'))
    rows = []
    for bag in bags:
        for row in bag.rows:
            far = (*_cells(error, row.versus_dense), *_cells(error, row.versus_recorded))
            rows.append((bag.name, row.method, *_cells(cost, row), *far))
    return _table('bag by bag', ['bag', 'method'], [*cost, dense, recorded], rows)


def _short(kind: type) -> list[Column]:
    return [column for column in columns_of(kind) if column.short]


def _cells(columns: Sequence[Column], of: Any | None) -> Iterator[str]:
    return (NOTHING if of is None else column.cell(of) for column in columns)


def _table(
    title: str, names: list[str], columns: Sequence[Column], rows: Sequence[tuple[str, ...]]
) -> Table:
    heads = [*names, *(column.short for column in columns)]
    made = [
        tables.Column(head, itemgetter(i), is_name=i < len(names)) for i, head in enumerate(heads)
    ]
    return tables.rich_table(title, made, rows, *([itemgetter(0)] if len(names) > 1 else []))


def replay_notes(result: ReplayResult) -> list[str]:
    """What the figures mean, what was lost and what is wrong; one sentence each."""
    notes = []
    if result.untrained:
        notes.append('UNTRAINED: random weights; errors and modes mean nothing here, times do.')
    if any(row.queries for row in result.rows):
        notes += _LEGEND
    for bag in result.bags:
        if bag.losses:
            notes.append(f'{bag.name}: not used while pairing: {counts(bag.losses)}.')
        for row in bag.rows:
            if row.refused:
                notes.append(f'{bag.name}, {row.method}: refused {counts(row.refusals)}.')
    return [*notes, *_problems(result.problems)]


def _problems(problems: Sequence[BagProblem]) -> Iterator[str]:
    if problems:
        yield f'{plural(len(problems), "problem")}:'
    for problem in problems[:_MOST_PROBLEMS]:
        yield f'  {problem.bag}: {problem.code}: {problem.text}'
    rest = Counter(problem.code for problem in problems[_MOST_PROBLEMS:])
    if rest:
        yield f'  and more: {counts(rest)}'
