"""A result on the console, and as the page that ``report.html.j2`` lays out."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import jinja2
import rich.table

from ...errors import VlaPruneError
from .. import tables
from ..tables import NOTHING, rich_table
from . import columns
from .columns import Column, columns_of, counts, plural
from .figures import MOST_ERRORS, MOST_POINTS, bag_figures, pens
from .metrics import AXIS_COLUMNS, Borders, Comparison
from .results import BagResult, MethodRow, ReplayResult
from .thumbnails import overlay_uri

COST, ERROR, BORDERS = map(columns_of, (MethodRow, Comparison, Borders))

# --- console ----------------------------------------------------------------------------------

_MOST_PROBLEMS = 12
_LEGEND = (
    'mm, deg: mean per step, p95: of mm. end: of complete chunks. sign: same direction, of '
    'steps where both move. flips: here/there/paired; apart: time between paired ones.',
    'border, inside: median change of the step translation in mm, where a chunk replaces another '
    'and inside chunks.',
)


def replay_tables(result: ReplayResult) -> list[rich.table.Table]:
    """Cost and error over all bags, a row per method; then the bags, where there are several."""
    label = ', UNTRAINED' if result.untrained else ''
    asked = plural(sum(bag.queries for bag in result.bags), 'query')
    title = f'replay of {plural(len(result.bags), "bag")}, {asked}{label}'
    method = _named(method=attrgetter('method'))
    compared = [
        (row.method, side, comparison)
        for row in result.rows
        for side, comparison in (('dense', row.versus_dense), ('recorded', row.versus_recorded))
        if comparison is not None
    ]
    error = [*_named(method=itemgetter(0), against=itemgetter(1)), *_short(ERROR, itemgetter(2))]
    border = [*method, *_short(BORDERS, attrgetter('borders'))]
    found = [
        rich_table(title, [*method, *_short(COST)], result.rows),
        rich_table('error of the chunks, per step', error, compared, itemgetter(0)),
        rich_table('from step to step', border, result.rows),
    ]
    return [*found, _bag_table(result.bags)] if len(result.bags) > 1 else found


def _bag_table(bags: Sequence[BagResult]) -> rich.table.Table:
    cost = [c for c in COST if c.short in ('queries', 'refused', 'tokens', 'ms p50')]
    (mm,) = (c for c in ERROR if c.short == 'mm')
    shown = [
        *_named(bag=itemgetter(0), method=lambda row: row[1].method),
        *_short(cost, itemgetter(1)),
        *_short([replace(mm, short='mm to dense')], lambda row: row[1].versus_dense),
        *_short([replace(mm, short='to recorded')], lambda row: row[1].versus_recorded),
    ]
    rows = [(bag.name, row) for bag in bags for row in bag.rows]
    return rich_table('bag by bag', shown, rows, itemgetter(0))


def _named(**cells: Callable[[Any], str]) -> list[tables.Column]:
    return [tables.Column(head, cell, is_name=True) for head, cell in cells.items()]


def _short(
    of: Sequence[Column], value: Callable[[Any], Any] = lambda row: row
) -> list[tables.Column]:
    """Columns of ``value`` of a row, dashes where that is None."""

    def cell(column: Column, row: Any) -> str:
        found = value(row)
        return NOTHING if found is None else column.cell(found)

    return [tables.Column(c.short, partial(cell, c)) for c in of if c.short]


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
    if result.problems:
        notes.append(f'{plural(len(result.problems), "problem")}:')
    notes += [f'  {p["bag"]}: {p["code"]}: {p["text"]}' for p in result.problems[:_MOST_PROBLEMS]]
    rest = Counter(problem['code'] for problem in result.problems[_MOST_PROBLEMS:])
    return [*notes, f'  and more: {counts(rest)}'] if rest else notes


# --- page -------------------------------------------------------------------------------------

# What HTML forbids in text: control characters, and halves of pairs from undecodable file names.
_FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')


def replay_html(result: ReplayResult) -> str:
    """The page: one file that fetches nothing and runs nothing, to be mailed, printed and kept.

    Figures are left out, and the page says so, where matplotlib is not installed.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ('number', 'percent', 'plural', 'counts'):
        environment.filters[name] = getattr(columns, name)
    environment.filters |= {
        'groups': _groups,
        'json': partial(json.dumps, ensure_ascii=False),
        'overlay': overlay_uri,
        'time': lambda ns: datetime.fromtimestamp(ns / 1e9, timezone.utc),
    }
    methods = [row.method for row in result.rows]
    page = environment.get_template('report.html.j2').render(
        result=result,
        colours={method: pen.colour for method, pen in pens(methods).items()},
        columns={'cost': COST, 'error': ERROR, 'axes': AXIS_COLUMNS, 'borders': BORDERS},
        bags=[(bag, *_figures(bag, methods)) for bag in result.bags],
        most_points=MOST_POINTS,
        most_errors=MOST_ERRORS,
    )
    return _FORBIDDEN.sub('\N{REPLACEMENT CHARACTER}', page)


def _groups(of: Sequence[Column]) -> list[tuple[str, str, list[str]]]:
    """Head, meaning and names of the columns that share a head; ``['']`` for a single column."""
    by_head = groupby(of, lambda column: (column.group, column.meaning))
    return [(head, meaning, [c.name for c in some]) for (head, meaning), some in by_head]


def _figures(bag: BagResult, methods: Sequence[str]) -> tuple[Mapping[str, str], str]:
    """Name -> PNG as data URI, and why there are none."""
    try:
        return bag_figures(bag, methods), ''
    except VlaPruneError as error:
        return {}, str(error)
