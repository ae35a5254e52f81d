"""The result of ``vla-prune replay`` as one HTML file that needs nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from .replay_bag_html import bag_section, figures
from .replay_columns import BORDERS, BY_AXIS, COST, ERROR
from .replay_markup import Child, document, folded, meanings, node, pairs, plain_table, section
from .replay_style import STYLE
from .replay_verdict import verdict
from .replay_words import plural

_FEW = 20


def replay_html(result: Mapping[str, Any]) -> str:
    """The report: what came out in words, problems, tables, then bag by bag, and on what.

    Everything in it is embedded and nothing runs: it may be mailed, printed and kept. Pictures
    are left out, and the page says so, where matplotlib is not installed.

    :param result: what ``report.json`` holds.
    """
    return document('Replay report', STYLE, _body(result))


def _body(result: Mapping[str, Any]) -> Iterator[Child]:
    methods = [row['method'] for row in result['rows']]
    yield node('h1', 'Replay report')
    if result['untrained']:
        yield node(
            'p',
            'UNTRAINED WEIGHTS: the checkpoint holds random numbers. Actions, errors and modes '
            'mean nothing here; times and tokens do.',
            class_='banner warn',
        )
    yield from verdict(result)
    yield _problems(result['problems'])
    yield section(
        'All bags' if len(result['bags']) != 1 else 'Methods',
        *figures(result['rows'], methods),
        _legend(),
    )
    if len(result['bags']) > 1:
        yield _contents(result['bags'])
    for number, bag in enumerate(result['bags'], start=1):
        yield bag_section(bag, methods, number, alone=len(result['bags']) == 1)
    yield _settings(result)


def _legend() -> Element:
    return folded(
        'what the columns mean',
        meanings((*COST, *ERROR, *BY_AXIS, *BORDERS)),
        node(
            'p',
            'p50: the median; p95: 95 % of the values are below. A dash: not known, or nothing to '
            'compare. x, y, z: axes of the base frame; rx, ry, rz: rotation about them.',
            class_='note',
        ),
    )


def _contents(bags: Sequence[Mapping[str, Any]]) -> Element:
    lines = [
        node(
            'li',
            node('a', bag['name'], href=f'#bag-{number}'),
            f': {plural(bag["queries"] or 0, "query")}',
        )
        for number, bag in enumerate(bags, start=1)
    ]
    return section('Bags', node('ul', *lines))


def _problems(problems: Sequence[Mapping[str, str]]) -> Element:
    if not problems:
        return section('Problems', node('p', 'None were found.'))
    rows = [(node('code', p['code']), p['bag'], p['text']) for p in problems]
    heads = ('problem', 'bag', 'what')
    shown = [plain_table(heads, rows[:_FEW])]
    if len(rows) > _FEW:
        shown.append(folded(f'{len(rows) - _FEW} more', plain_table(heads, rows[_FEW:])))
    return section('Problems', *shown)


def _settings(result: Mapping[str, Any]) -> Element:
    checkpoints = {f'checkpoint of {m}': c for m, c in (result['checkpoints'] or {}).items()}
    run = {'command': result['command'], 'checkpoint': result['checkpoint'], **checkpoints}
    parts = (
        ('Settings', result['settings']),
        ('Machine', result['machine']),
        ('Versions', result['versions']),
    )
    return section(
        'How it was made',
        pairs({name: node('code', _plain(value)) for name, value in run.items()}),
        *(section(name, pairs(_leaves(of or {})), level=3) for name, of in parts),
    )


def _leaves(of: Mapping[str, Any], prefix: str = '') -> dict[str, Child]:
    """Every value under its path of keys."""
    out: dict[str, Child] = {}
    for name, value in of.items():
        if isinstance(value, Mapping):
            out |= _leaves(value, f'{prefix}{name} ')
        else:
            out[f'{prefix}{name}'] = _plain(value)
    return out


def _plain(value: Any) -> str:
    if value is None or value == '':
        return '-'
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
