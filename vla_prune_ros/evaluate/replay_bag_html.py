"""One bag of a replay in the report: its topics, losses, tables, figures and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from xml.etree.ElementTree import Element

from ..errors import VlaPruneError
from .replay_columns import BORDERS, BY_AXIS, COST, ERROR, Column
from .replay_markup import (
    Child,
    figures_table,
    folded,
    node,
    pairs,
    picture,
    plain_table,
    section,
)
from .replay_plots import bag_pictures
from .replay_series import pens
from .replay_strip import strip_table
from .replay_words import filled

_SOURCES = {
    'twist': 'from twist commands',
    'pose_target': 'from pose targets',
    'ee_pose': 'from the measured end-effector pose',
    '': 'none',
}
_VERSUS = (
    ('versus_dense', 'Against dense', 'Nothing was compared with dense.'),
    ('versus_recorded', 'Against the recorded actions', 'No recorded actions to compare with.'),
)


def bag_section(
    bag: Mapping[str, Any], methods: Sequence[str], number: int, alone: bool
) -> Element:
    """Everything about one bag.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :param methods: of the whole result, in order.
    :param number: of the bag, from one: it is what the page links to.
    :param alone: it is the only bag, so its tables and problems stand in the page already.
    """
    bag = filled(bag)
    tables = [] if alone else figures(bag['rows'], methods)
    return section(
        f'Bag {bag["name"]}',
        pairs(_about(bag)),
        *([] if alone else _problems(bag['problems'])),
        section('Topics', *_topics(bag), level=3),
        section('Not used while pairing', _losses(bag['losses']), level=3),
        *tables,
        *_pictures(bag, methods),
        section('What the model saw', *_strip(bag, methods), level=3),
        id=f'bag-{number}',
    )


def figures(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[Child]:
    """The tables of numbers of some rows.

    :param methods: of the whole result: they give the colours.
    """
    if not rows:
        return [node('p', 'No method was run.', class_='none')]
    out: list[Child] = [_table('Cost', COST, [(row, row) for row in rows], methods)]
    for name, title, otherwise in _VERSUS:
        compared = [(row, row[name]) for row in rows if row[name]]
        if not compared:
            out.append(section(title, node('p', otherwise, class_='none'), level=3))
            continue
        out.append(_table(title, ERROR, compared, methods))
        out.append(_table(f'{title}, per axis', BY_AXIS, compared, methods))
    smooth = [(row, row['borders']) for row in rows if row['borders']]
    out.append(_table('Chunk borders', BORDERS, smooth, methods) if smooth else None)
    return out


def _table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    methods: Sequence[str],
) -> Element:
    named = [(_method(row['method'], methods), of) for row, of in rows]
    return section(title, figures_table('method', columns, named), level=3)


def _method(method: str, methods: Sequence[str]) -> Element:
    """Name with its colour."""
    chip = node('span', class_='chip', style=f'background:{pens(methods)[method].colour}')
    return node('span', chip, method)


def _about(bag: Mapping[str, Any]) -> dict[str, Child]:
    began = bag['start_ns']
    start = datetime.fromtimestamp(began / 1e9, timezone.utc) if began else None
    said = bag['instructions']
    return {
        'path': node('code', bag['path']),
        'begins': '-' if start is None else f'{start:%Y-%m-%d %H:%M:%S} UTC',
        'length': '-' if bag['duration_s'] is None else f'{bag["duration_s"]:.1f} s',
        'queries': str(bag['queries']),
        'epochs': f'{bag["epochs"]} (memory begins anew after a jump of time or an instruction)',
        'instructions': node('ul', *(node('li', text) for text in said)) if said else 'none',
        'recorded actions': _SOURCES.get(bag['recorded'], bag['recorded']),
    }


def _problems(problems: Sequence[Mapping[str, str]]) -> Iterator[Element]:
    if problems:
        rows = [(node('code', p['code']), p['text']) for p in problems]
        yield section('Problems', plain_table(('problem', 'what'), rows), level=3)


def _topics(bag: Mapping[str, Any]) -> Iterator[Child]:
    there, used = bag['there'], bag['topics']
    guess = 'Guessed by type and name: check them.' if bag['guessed'] else 'Named by the user.'
    yield node('p', guess, class_='banner warn' if bag['guessed'] else 'note')
    rows = [
        (stream, node('code', topic), *_topic(there.get(topic))) for stream, topic in used.items()
    ]
    if rows:
        yield plain_table(('stream', 'topic', 'type', 'messages'), rows)
    others = [(node('code', t), *_topic(there[t])) for t in there if t not in used.values()]
    if others:
        yield folded(
            f'{len(others)} other topics of the bag',
            plain_table(('topic', 'type', 'messages'), others),
        )


def _topic(found: Mapping[str, Any] | None) -> tuple[Child, str]:
    if found is None:
        return 'not in the bag', '-'
    return node('code', found['type']), str(found['count'])


def _losses(losses: Mapping[str, int]) -> Element:
    if not losses:
        return node('p', 'Nothing was lost.', class_='none')
    ordered = sorted(losses.items(), key=lambda item: (-item[1], item[0]))
    return plain_table(('reason', 'count'), [(node('code', n), str(c)) for n, c in ordered])


def _pictures(bag: Mapping[str, Any], methods: Sequence[str]) -> Iterator[Element]:
    try:
        drawn = bag_pictures(bag, methods)
    except VlaPruneError as missing:
        yield node('p', f'No figures: {missing}.', class_='banner warn')
        return
    for one in drawn:
        image = picture(one.source, f'{one.title}. {one.text}', one.text)
        yield section(one.title, image, level=3)


def _strip(bag: Mapping[str, Any], methods: Sequence[str]) -> Iterator[Element]:
    if not bag['strip']:
        yield node('p', 'No pictures: no query was run.', class_='none')
        return
    yield node('p', 'Patches that were pruned are dark; below each picture the mode and the '
               'patches kept.', class_='note')  # fmt: skip
    heads = {m: node('th', _method(m, methods), scope='col') for m in methods}
    yield strip_table(bag['strip'], heads)
