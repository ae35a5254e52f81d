"""HTML as a tree: the serialiser escapes whatever stands in it, so no page can break."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element, tostring

from .replay_columns import Column

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
