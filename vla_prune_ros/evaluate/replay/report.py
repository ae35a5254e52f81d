"""The page of a replay: the rows that ``report.html.j2`` lays out, and the page itself."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from ...errors import VlaPruneError
from . import columns
from .columns import Column, columns_of
from .figures import MOST_ERRORS, MOST_POINTS, bag_figures, pens
from .metrics import AXIS_COLUMNS, Borders, Comparison
from .results import BagResult, MethodRow, Moment, ReplayResult
from .thumbnails import overlay_uri

# What HTML forbids in text: control characters, and halves of pairs from undecodable file names.
_FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')


@dataclass(frozen=True)
class Group:
    """Columns that share a head; ``names`` is ``('',)`` where there is one only."""

    name: str
    meaning: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """:param rows: method -> cells.
    :param empty: what to say where there are no rows; without it the table is left out.
    """

    title: str
    groups: tuple[Group, ...]
    rows: Mapping[str, tuple[str, ...]]
    empty: str = ''


@dataclass(frozen=True)
class Summary:
    """A method beside dense; None where one of the two is unknown, and for dense itself."""

    row: MethodRow
    tokens_ratio: float | None
    speedup: float | None


@dataclass(frozen=True)
class Thumbnail:
    """What a method kept: ``'fine, 64/256'``; no ``image`` where it gave no answer."""

    method: str
    image: str
    caption: str


@dataclass(frozen=True)
class ThumbnailRow:
    t_s: float
    camera: str
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class BagSection:
    """:param figures: name -> PNG as data URI; ``no_figures`` says why there are none."""

    result: BagResult
    begins: datetime | None
    tables: tuple[Table, ...]
    figures: Mapping[str, str]
    no_figures: str
    thumbnails: tuple[ThumbnailRow, ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    :param settings: heading -> (path of keys, value) of each setting.
    """

    result: ReplayResult
    colours: Mapping[str, str]
    summaries: tuple[Summary, ...]
    tables: tuple[Table, ...]
    meanings: tuple[Group, ...]
    bags: tuple[BagSection, ...]
    made_by: tuple[tuple[str, str], ...]
    settings: Mapping[str, tuple[tuple[str, str], ...]]


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
    page = environment.get_template('report.html.j2').render(
        vars(build_report(result)), most_points=MOST_POINTS, most_errors=MOST_ERRORS
    )
    return _FORBIDDEN.sub('\N{REPLACEMENT CHARACTER}', page)


def build_report(result: ReplayResult) -> Report:
    methods = [row.method for row in result.rows]
    every = (*columns_of(MethodRow), *columns_of(Comparison), *AXIS_COLUMNS, *columns_of(Borders))
    return Report(
        result=result,
        colours={method: pen.colour for method, pen in pens(methods).items()},
        summaries=_summaries(result.rows),
        tables=_tables(result.rows),
        meanings=_groups(every),
        bags=tuple(_bag(bag, methods, alone=len(result.bags) == 1) for bag in result.bags),
        made_by=(
            ('command', _plain(result.command)),
            ('checkpoint', _plain(result.checkpoint)),
            *((f'checkpoint of {m}', _plain(card)) for m, card in result.checkpoints.items()),
        ),
        settings={
            'Settings': tuple(_leaves(result.settings)),
            'Machine': tuple(_leaves(result.machine)),
            'Versions': tuple(_leaves(result.versions)),
        },
    )


def _summaries(rows: Sequence[MethodRow]) -> tuple[Summary, ...]:
    ran = [row for row in rows if row.queries]
    dense = next((row for row in ran if row.method == 'dense'), None)
    out = []
    for row in ran:
        ratio = speedup = None
        if dense is not None and row is not dense:
            if row.visual_tokens is not None and dense.visual_tokens:
                ratio = row.visual_tokens / dense.visual_tokens
            if row.latency_ms and dense.latency_ms:
                speedup = dense.latency_ms.p50 / row.latency_ms.p50
        out.append(Summary(row=row, tokens_ratio=ratio, speedup=speedup))
    return tuple(out)


def _groups(of: Sequence[Column]) -> tuple[Group, ...]:
    return tuple(
        Group(name=name, meaning=meaning, names=tuple(column.name for column in some))
        for (name, meaning), some in groupby(of, lambda column: (column.group, column.meaning))
    )


def _tables(rows: Sequence[MethodRow]) -> tuple[Table, ...]:
    if not rows:
        return ()

    def table(title: str, of: Sequence[Column], values: list[Any], empty: str = '') -> Table:
        cells = {
            row.method: tuple(column.cell(value) for column in of)
            for row, value in zip(rows, values, strict=True)
            if value is not None
        }
        return Table(title=title, groups=_groups(of), rows=cells, empty=empty)

    cost, error, smooth = map(columns_of, (MethodRow, Comparison, Borders))
    dense, recorded = [r.versus_dense for r in rows], [r.versus_recorded for r in rows]
    no_dense, none = 'Nothing was compared with dense.', 'No recorded actions to compare with.'
    return (
        table('Cost', cost, list(rows)),
        table('Against dense', error, dense, no_dense),
        table('Against dense, per axis', AXIS_COLUMNS, dense),
        table('Against the recorded actions', error, recorded, none),
        table('Against the recorded actions, per axis', AXIS_COLUMNS, recorded),
        table('Chunk borders', smooth, [row.borders for row in rows]),
    )


def _bag(bag: BagResult, methods: Sequence[str], alone: bool) -> BagSection:
    """:param alone: the tables of the only bag stand in the page already."""
    figures, missing = {}, ''
    try:
        figures = bag_figures(bag, methods)
    except VlaPruneError as error:
        missing = str(error)
    return BagSection(
        result=bag,
        begins=datetime.fromtimestamp(bag.start_ns / 1e9, timezone.utc) if bag.start_ns else None,
        tables=() if alone else _tables(bag.rows),
        figures=figures,
        no_figures=missing,
        thumbnails=tuple(_thumbnails(moment, methods) for moment in bag.strip),
    )


def _thumbnails(moment: Moment, methods: Sequence[str]) -> ThumbnailRow:
    def thumbnail(method: str) -> Thumbnail:
        kept = moment.kept.get(method, '')
        if not kept:
            return Thumbnail(method, image='', caption='')
        caption = f'{moment.mode[method]}, {kept.count("1")}/{len(kept)}'
        return Thumbnail(method, image=overlay_uri(moment.image, kept), caption=caption)

    return ThumbnailRow(moment.t_s, moment.camera, tuple(map(thumbnail, methods)))


def _leaves(of: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
    for name, value in of.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f'{prefix}{name} ')
        else:
            yield f'{prefix}{name}', _plain(value)


def _plain(value: Any) -> str:
    if value is None or value == '':
        return '-'
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
