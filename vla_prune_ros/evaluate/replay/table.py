"""The result of ``vla-prune replay`` on a console: cost, how far actions are apart, problems."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from .columns import NOTHING, Column, columns_of, counts, plural
from .metrics import Borders, Comparison
from .results import BagProblem, BagResult, MethodRow, ReplayResult

_MOST_PROBLEMS = 12
_LEGEND = (
    'mm, deg: mean per step, p95: of mm. end: of complete chunks. sign: same direction, of '
    'steps where both move. flips: here/there/paired; apart: time between paired ones.',
    'border, inside: median change of the step translation in mm, where a chunk replaces another '
    'and inside chunks.',
)


def _short(kind: type) -> tuple[Column, ...]:
    """Columns that the console shows."""
    return tuple(column for column in columns_of(kind) if column.short)


def replay_tables(result: ReplayResult) -> list[Table]:
    """Cost and error over all bags, a row per method; then the bags, where there are several."""
    label = ', UNTRAINED' if result.untrained else ''
    asked = plural(sum(bag.queries for bag in result.bags), 'query')
    cost, error, smooth = _short(MethodRow), _short(Comparison), _short(Borders)
    tables = [
        _table(f'replay of {plural(len(result.bags), "bag")}, {asked}{label}', ('method',), cost),
        _table('error of the chunks, per step', ('method', 'against'), error),
        _table('from step to step', ('method',), smooth),
    ]
    for row in result.rows:
        method = escape(row.method)
        tables[0].add_row(method, *_cells(cost, row))
        for name, comparison in (('dense', row.versus_dense), ('recorded', row.versus_recorded)):
            if comparison is not None:
                tables[1].add_row(method, name, *_cells(error, comparison))
        tables[2].add_row(method, *_cells(smooth, row.borders))
    return [*tables, _bag_table(result.bags)] if len(result.bags) > 1 else tables


def _bag_table(bags: Sequence[BagResult]) -> Table:
    """What tells the bags apart."""
    cost = [c for c in _short(MethodRow) if c.short in ('queries', 'refused', 'tokens', 'ms p50')]
    error = [c for c in _short(Comparison) if c.short == 'mm']
    table = _table('bag by bag', ('bag', 'method'), cost)
    for head in ('mm to dense', 'to recorded'):
        table.add_column(head, justify='right', no_wrap=True)
    for bag in bags:
        for row in bag.rows:
            table.add_row(
                escape(bag.name),
                escape(row.method),
                *_cells(cost, row),
                *_cells(error, row.versus_dense),
                *_cells(error, row.versus_recorded),
                end_section=row is bag.rows[-1],
            )
    return table


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
    """The first problems, and how many more there are of which kind."""
    if problems:
        yield f'{plural(len(problems), "problem")}:'
    for problem in problems[:_MOST_PROBLEMS]:
        yield f'  {problem.bag}: {problem.code}: {problem.text}'
    rest = Counter(problem.code for problem in problems[_MOST_PROBLEMS:])
    if rest:
        yield f'  and more: {counts(rest)}'


def _cells(columns: Sequence[Column], of: Any | None) -> tuple[str, ...]:
    return tuple(NOTHING if of is None else escape(column.cell(of)) for column in columns)


def _table(title: str, names: Sequence[str], columns: Sequence[Column]) -> Table:
    table = Table(title=escape(title), title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    for name in names:
        table.add_column(name, overflow='fold')
    for column in columns:
        table.add_column(column.short, justify='right', no_wrap=True)
    return table
