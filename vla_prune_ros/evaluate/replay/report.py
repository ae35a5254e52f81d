"""How the report of a replay looks: on a screen, in the dark and on paper.

HTML as a tree: the serialiser escapes whatever stands in it, so no page can break.

What the model saw at a few moments: a picture per method, pruned patches dimmed.

What came out of a replay, in sentences.

One bag of a replay in the report: its topics, losses, tables, figures and pictures.

The result of ``vla-prune replay`` as one HTML file that needs nothing else.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element, tostring

import cv2
import numpy as np

from ...errors import VlaPruneError
from ...runtime.overlay import draw_overlay
from .columns import BORDERS, BY_AXIS, COST, ERROR, Column, filled, number, percent, plural
from .figures import bag_pictures, pens

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d1f23; --soft: #5c626b; --paper: #ffffff; --card: #f5f6f8; --line: #d9dce1;
  --warn: #7a3b00; --warn-back: #ffe9c7; --bad: #8f1d1d; --bad-back: #fde2e0;
  --good: #14532d; --good-back: #dcf3e2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8e9ec; --soft: #a3a9b3; --paper: #15171b; --card: #1f2228; --line: #373c45;
    --warn: #ffd592; --warn-back: #4a2f05; --bad: #ffb4ad; --bad-back: #551a1a;
    --good: #a8e6bd; --good-back: #123822;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 12px; }
h2 { font-size: 20px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 26px 0 8px; }
h1, h2, h3, li, td, th, figcaption, p { overflow-wrap: anywhere; }
p, ul { margin: 8px 0; max-width: 90ch; }
ul { padding-left: 22px; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); padding: 10px;
  border-radius: 6px; }
.banner { padding: 10px 14px; border-radius: 6px; font-weight: 600; max-width: none; }
.warn { background: var(--warn-back); color: var(--warn); }
.bad { background: var(--bad-back); color: var(--bad); }
.good { background: var(--good-back); color: var(--good); }
.none, figcaption, .note { color: var(--soft); font-size: 13.5px; }
.wide { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { background: var(--card); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
.words th, .words td:first-child { overflow-wrap: normal; }
.figures { font-size: 13px; }
.figures th, .figures td { padding: 4px 6px; }
.figures tbody th { min-width: 12.5em; }
.figures td, .figures thead th { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.figures thead th[colspan] { text-align: center; }
.figures thead th:first-child { text-align: left; }
.figures thead tr + tr th:first-child { text-align: right; }
.figures td.start { border-left: 1px solid var(--line); }
.pairs th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.chip { display: inline-block; width: 10px; height: 10px; margin-right: 6px; border-radius: 2px;
  border: 1px solid var(--soft); }
figure { margin: 12px 0 22px; }
figcaption { margin-top: 5px; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px;
  background: #ffffff; }
.strip td, .strip thead th { min-width: 150px; border-bottom: none; }
.strip figure { margin: 0; }
.strip img { width: 224px; border-radius: 3px; }
.strip tbody th { min-width: 8em; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; font-size: 13.5px; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 700px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --card: #f0f0f0; --line: #bbbbbb;
    --warn: #000000; --warn-back: #ffffff; --bad: #000000; --bad-back: #ffffff;
    --good: #000000; --good-back: #ffffff; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .banner { border: 2px solid #000000; }
  .chip { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wide { overflow: visible; }
  table, .figures, code, pre { font-size: 7.5pt; }
  th, td, .figures th, .figures td { padding: 2px 4px; }
  .figures tbody th { min-width: 0; }
  dl { font-size: 8pt; gap: 0 16px; }
  .strip img { width: 110px; }
  .strip td, .strip thead th { min-width: 0; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""


Child = Element | str | None
# What HTML forbids in text: control characters, and halves of pairs from undecodable file names.
_FORBIDDEN = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')


def node(tag: str, *children: Child, **attributes: str) -> Element:
    """An element of text and elements, in order; None is left out.

    :param attributes: a trailing underscore is dropped: ``class_``.
    """
    out = Element(tag, {k.rstrip('_'): clean(v) for k, v in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            out.append(child)
        elif child is not None:
            add_text(out, clean(child))
    return out


def add_text(out: Element, text: str) -> None:
    """Append text after what the element holds."""
    if len(out):
        out[-1].tail = (out[-1].tail or '') + text
    else:
        out.text = (out.text or '') + text


def clean(text: str) -> str:
    """Replace what a page must not hold."""
    return _FORBIDDEN.sub('\N{REPLACEMENT CHARACTER}', text)


def document(title: str, style: str, body: Iterable[Child]) -> str:
    """A whole page.

    :param style: CSS, trusted: it is written as it stands.
    """
    head = node(
        'head',
        node('meta', charset='utf-8'),
        node('meta', name='viewport', content='width=device-width, initial-scale=1'),
        node('title', title),
        node('style', style),
    )
    page = node('html', head, node('body', node('main', *body)), lang='en')
    return '<!DOCTYPE html>\n' + tostring(page, encoding='unicode', method='html') + '\n'


def section(title: str, *children: Child, level: int = 2, **attributes: str) -> Element:
    """A heading and what belongs to it."""
    return node('section', node(f'h{level}', title), *children, **attributes)


def folded(summary: str, *children: Child) -> Element:
    """What is shown on a click."""
    return node('details', node('summary', summary), *children)


def pairs(of: Mapping[str, Child]) -> Element:
    """Names and values, a line each."""
    rows = (node('tr', node('th', name, scope='row'), node('td', of[name])) for name in of)
    return node('table', node('tbody', *rows), class_='pairs')


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[Child]]) -> Element:
    """A table of text."""
    head = node('thead', node('tr', *(node('th', h, scope='col') for h in heads)))
    body = node('tbody', *(node('tr', *(node('td', cell) for cell in row)) for row in rows))
    return _wide(node('table', head, body, class_='words'))


def figures_table(
    first: str,
    columns: Sequence[Column],
    rows: Iterable[tuple[Child, Mapping[str, Any]]],
) -> Element:
    """A table of numbers; columns of one group share a head.

    :param first: head of the column of names.
    :param rows: name, and what the cells are read from.
    """
    groups = [(name, list(some)) for name, some in groupby(columns, lambda c: c.group)]
    names = [c for _, some in groups if some[0].name for c in some]
    top = [node('th', first, scope='col', rowspan='2')]
    for name, some in groups:
        span = {'colspan': str(len(some))} if some[0].name else {'rowspan': '2'}
        top.append(node('th', name, scope='col', title=some[0].meaning, **span))
    below = [node('th', c.name, scope='col', title=c.meaning) for c in names]
    if not below:
        for cell in top:
            del cell.attrib['rowspan']
    head = node('thead', node('tr', *top), node('tr', *below) if below else None)
    starts = {id(some[0]) for _, some in groups}
    body = node('tbody', *(_figures_row(name, row, columns, starts) for name, row in rows))
    return _wide(node('table', head, body, class_='figures'))


def _figures_row(
    name: Child, row: Mapping[str, Any], columns: Sequence[Column], starts: set[int]
) -> Element:
    cells = (
        node('td', c.cell(row), **({'class': 'start'} if id(c) in starts else {})) for c in columns
    )
    return node('tr', node('th', name, scope='row'), *cells)


def meanings(columns: Iterable[Column]) -> Element:
    """What the columns mean, a line for those of one group."""
    lines: list[Element] = []
    for (group, meaning), some in groupby(columns, lambda c: (c.group, c.meaning)):
        names = ', '.join(column.name for column in some if column.name)
        lines += [node('dt', f'{group}: {names}' if names else group), node('dd', meaning)]
    return node('dl', *lines)


def picture(source: str, text: str, caption: Child = None) -> Element:
    """An embedded image.

    :param source: data URI.
    :param text: what it shows, for who cannot see it.
    :param caption: below it.
    :raises ValueError: the source is not embedded.
    """
    if not source.startswith('data:image/'):
        raise ValueError('pictures of the report are embedded as data URIs')
    below = None if caption is None else node('figcaption', caption)
    return node('figure', node('img', src=source, alt=text), below)


def _wide(table: Element) -> Element:
    """Wide tables scroll by themselves; the page does not."""
    return node('div', table, class_='wide')


_PREFIX = 'data:image/jpeg;base64,'
_QUALITY = 85


def strip_table(strip: Iterable[Mapping[str, Any]], heads: Mapping[str, Element]) -> Element:
    """A line per moment and camera, a picture per method.

    :param strip: of a bag of the result dict of ``vla-prune replay``.
    :param heads: method -> head of its column.
    """
    head = node('tr', node('th', 'moment', scope='col'))
    head.extend(heads.values())
    rows = [_line(moment, list(heads)) for moment in strip]
    table = node('table', node('thead', head), node('tbody', *rows), class_='strip')
    return node('div', table, class_='wide')


def overlay_uri(image: np.ndarray, kept: str) -> str:
    """The picture with pruned patches dimmed, as JPEG data URI.

    :param image: uint8 (S, S, 3) RGB, S a multiple of the patches of a side.
    :param kept: ``'1'`` for each patch that was kept, else ``'0'``, row-major.
    """
    mask = np.frombuffer(kept.encode('ascii'), np.uint8) == ord('1')
    drawn = draw_overlay(image, mask)
    quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
    _, coded = cv2.imencode('.jpg', np.ascontiguousarray(drawn[..., ::-1]), quality)
    return _PREFIX + base64.b64encode(coded.tobytes()).decode('ascii')


def read_uri(uri: str | None) -> np.ndarray | None:
    """Picture of a JPEG data URI, uint8 (H, W, 3) RGB; None where it is none."""
    if not uri or not uri.startswith(_PREFIX):
        return None
    try:
        coded = base64.b64decode(uri[len(_PREFIX) :], validate=True)
    except (ValueError, binascii.Error):
        return None
    picture_bgr = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR) if coded else None
    return None if picture_bgr is None else np.ascontiguousarray(picture_bgr[..., ::-1])


def _line(moment: Mapping[str, Any], methods: Sequence[str]) -> Element:
    name = node('th', f'{moment["t_s"]:.2f} s', node('br'), moment['camera'], scope='row')
    image = read_uri(moment['image'])
    if image is None:
        lost = node('td', 'the picture could not be read', colspan=str(len(methods)))
        return node('tr', name, lost)
    return node('tr', name, *(node('td', _cell(moment, image, method)) for method in methods))


def _cell(moment: Mapping[str, Any], image: np.ndarray, method: str) -> Element:
    kept = (moment['kept'] or {}).get(method)
    if not kept:
        return node('p', 'no answer', class_='none')
    said = f'{kept.count("1")}/{len(kept)}'
    mode = (moment['mode'] or {}).get(method)
    said = f'{mode}, {said}' if mode else said
    where = f'{moment["camera"]} at {moment["t_s"]:.2f} s, {method}: {said} patches kept'
    return picture(overlay_uri(image, kept), where, said)


_BASE = 'dense'


def verdict(result: Mapping[str, Any]) -> Iterator[Element]:
    """What was replayed, what is wrong, and a sentence per method.

    :param result: what ``report.json`` holds.
    """
    yield node('p', _problem_words(result), class_=f'banner {"good" if result["ok"] else "bad"}')
    yield node('p', _what(result))
    rows = [row for row in result['rows'] if row['queries']]
    if not rows:
        yield node('p', 'No query could be run: there are no figures to show.')
        return
    base = next((row for row in rows if row['method'] == _BASE), None)
    yield node(
        'ul', *(node('li', node('b', row['method']), _method_verdict(row, base)) for row in rows)
    )


def _problem_words(result: Mapping[str, Any]) -> str:
    names = ', '.join(dict.fromkeys(p['code'] for p in result['problems']))
    if result['ok']:
        return f'Good, with remarks: {names}.' if names else 'Good: no problems were found.'
    return f'Bad result: {names or "see below"}.'


def _what(result: Mapping[str, Any]) -> str:
    bags = result['bags']
    seconds = sum(bag['duration_s'] or 0.0 for bag in bags)
    asked = sum(bag['queries'] or 0 for bag in bags)
    methods = ', '.join(row['method'] for row in result['rows']) or 'none'
    one = f'bag {bags[0]["name"]}' if len(bags) == 1 else f'{len(bags)} bags'
    profile = (result['settings'] or {}).get('profile')
    on = f', profile {profile}' if profile else ''
    return (
        f'Replayed {one} ({_length(seconds)}, {plural(asked, "query")}) with the checkpoint '
        f'{result["checkpoint"]}{on}. Methods: {methods}.'
    )


def _length(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.1f} s'
    return '{} min {} s'.format(*divmod(round(seconds), 60))


def _method_verdict(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    parts = [_cost(row, None if row is base else base)]
    far = [
        f'from {what} by {_error(row[name])}'
        for name, what in (('versus_dense', 'dense'), ('versus_recorded', 'the recorded actions'))
        if row[name]
    ]
    parts.append(f'differs {", and ".join(far)}' if far else '')
    if row['refused']:
        parts.append(f'{row["refused"]} of {row["queries"]} queries were refused')
    return ': ' + '; '.join(part for part in parts if part) + '.'


def _cost(row: Mapping[str, Any], base: Mapping[str, Any] | None) -> str:
    """Tokens and latency, beside those of dense where there are."""
    tokens, latency = row['visual_tokens'], (row['latency_ms'] or {}).get('p50')
    if tokens is None and latency is None:
        return 'gave no answer'
    said = f'{number(tokens)} visual tokens'
    if base and tokens is not None and base['visual_tokens']:
        said += f' ({percent(tokens / base["visual_tokens"])} % of dense)'
    if latency is None:
        return said
    said += f', {number(latency)} ms per query'
    known = (base or {}).get('latency_ms')
    return (
        f'{said} ({known["p50"] / latency:.2f} x as fast as dense)' if known and latency else said
    )


def _error(comparison: Mapping[str, Any]) -> str:
    step, turn = comparison['translation_mm'] or {}, comparison['rotation_deg'] or {}
    said = (
        f'{number(step.get("mean"))} mm and {number(turn.get("mean"))} deg per step '
        f'(p95 {number(step.get("p95"))} mm)'
    )
    share = comparison['gripper_agreement']
    return said if share is None else f'{said}, gripper the same in {percent(share)} % of steps'


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
        *([] if alone else _problems_bag_html(bag['problems'])),
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


def _problems_bag_html(problems: Sequence[Mapping[str, str]]) -> Iterator[Element]:
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
    for nth, bag in enumerate(result['bags'], start=1):
        yield bag_section(bag, methods, nth, alone=len(result['bags']) == 1)
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
