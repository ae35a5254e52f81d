"""The result of ``vla-prune replay`` on a console: cost, how far actions are apart, problems."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from .columns import BORDERS, COST, ERROR, NOTHING, Column, counts, filled, plural

_MOST = 12
_LEGEND = (
    'mm, deg: mean per step, p95: of mm. end: where whole chunks lead. sign: same direction, of '
    'steps where both move. flips: here/there/paired; apart: time between paired ones.',
    'border, inside: median change of the step translation in mm, where a chunk replaces another '
    'and inside chunks.',
)


def replay_tables(result: Mapping[str, Any]) -> list[Table]:
    """Cost and error over all bags, a row per method; then the bags, where there are several.

    :param result: what ``report.json`` holds.
    """
    label = ', UNTRAINED' if result['untrained'] else ''
    asked = sum(bag['queries'] or 0 for bag in result['bags'])
    title = f'replay of {plural(len(result["bags"]), "bag")}, {plural(asked, "query")}{label}'
    tables = [
        _cost_table(title, result['rows']),
        _error_table(result['rows']),
        _border_table(result['rows']),
    ]
    return [*tables, _bag_table(result['bags'])] if len(result['bags']) > 1 else tables


def _cost_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = _shown(COST)
    table = _table(title, ('method',), [column.short for column in columns])
    for row in rows:
        table.add_row(escape(row['method']), *_cells(columns, row))
    return table


def _border_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = _shown(BORDERS)
    table = _table('from step to step', ('method',), [column.short for column in columns])
    for row in rows:
        table.add_row(escape(row['method']), *_cells(columns, row['borders']))
    return table


def _error_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = _shown(ERROR)
    table = _table(
        'error of the chunks, per step', ('method', 'against'), [c.short for c in columns]
    )
    for row in rows:
        for name, comparison in (
            ('dense', row['versus_dense']),
            ('recorded', row['versus_recorded']),
        ):
            if comparison:
                table.add_row(escape(row['method']), name, *_cells(columns, comparison))
    return table


def _bag_table(bags: Sequence[Mapping[str, Any]]) -> Table:
    """What tells the bags apart."""
    shown = [c for c in COST if c.short in ('queries', 'refused', 'tokens', 'ms p50')]
    error = [c for c in ERROR if c.short == 'mm']
    heads = [*(c.short for c in shown), 'mm to dense', 'to recorded']
    table = _table('bag by bag', ('bag', 'method'), heads)
    for bag in map(filled, bags):
        for place, row in enumerate(bag['rows'], start=1):
            versus = (row['versus_dense'], row['versus_recorded'])
            far = (cell for comparison in versus for cell in _cells(error, comparison))
            table.add_row(escape(bag['name']), escape(row['method']), *_cells(shown, row), *far,
                          end_section=place == len(bag['rows']))  # fmt: skip
    return table


def replay_notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures mean, what was lost and what is wrong; one sentence each."""
    notes = []
    if result['untrained']:
        notes.append('UNTRAINED: random weights; errors and modes mean nothing here, times do.')
    if any(row['queries'] for row in result['rows']):
        notes += _LEGEND
    for bag in result['bags']:
        notes += _bag_notes(filled(bag))
    notes += _problems(result['problems'])
    return notes


def _bag_notes(bag: Mapping[str, Any]) -> Iterator[str]:
    if bag['losses']:
        yield f'{bag["name"]}: not used while pairing: {counts(bag["losses"])}.'
    for row in bag['rows']:
        if row['refused']:
            yield f'{bag["name"]}, {row["method"]}: refused {counts(row["refusals"])}.'


def _problems(problems: Sequence[Mapping[str, str]]) -> list[str]:
    """The first problems, and how many more there are of which kind."""
    if not problems:
        return []
    lines = [f'{plural(len(problems), "problem")}:']
    lines += [f'  {p["bag"]}: {p["code"]}: {p["text"]}' for p in problems[:_MOST]]
    rest = Counter(p['code'] for p in problems[_MOST:])
    return [*lines, f'  and more: {counts(rest)}'] if rest else lines


def _shown(columns: Sequence[Column]) -> tuple[Column, ...]:
    return tuple(column for column in columns if column.short)


def _cells(columns: Sequence[Column], of: Mapping[str, Any] | None) -> tuple[str, ...]:
    return tuple(NOTHING if of is None else escape(column.cell(of)) for column in columns)


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    for name in words:
        table.add_column(name, overflow='fold')
    for name in numbers:
        table.add_column(name, justify='right', no_wrap=True)
    return table
