"""Tables for the console and for Markdown, from one declaration of their columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

NOTHING = '-'


@dataclass(frozen=True)
class Column:
    """``is_name``: it names the row, left-aligned and folded; ``is_code``: code in Markdown."""

    head: str
    cell: Callable[[Any], str]
    is_name: bool = False
    is_code: bool = False


def fixed(value: float | None, form: str = '.1f', factor: float = 1.0) -> str:
    """``value * factor`` in a format of Python's, a dash where nothing is known."""
    return NOTHING if value is None else format(factor * value, form)


def quantile(of: dict[str, float] | None, which: str = 'p50', form: str = '.1f') -> str:
    return NOTHING if of is None else format(of[which], form)


def rich_table(
    title: str,
    columns: Sequence[Column],
    rows: Iterable[Any],
    section: Callable[[Any], Any] = lambda row: None,
) -> Table:
    """For a console, with a line between rows for which ``section`` differs."""
    table = Table(title=escape(title), title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    for column in columns:
        if column.is_name:
            table.add_column(column.head, overflow='fold')
        else:
            table.add_column(column.head, justify='right', no_wrap=True)
    before: Any = None
    for row in rows:
        if before is not None and section(row) != section(before):
            table.add_section()
        table.add_row(*(escape(column.cell(row)) for column in columns))
        before = row
    return table


def markdown_table(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    lines = [[column.head for column in columns], ['---'] * len(columns)]
    for row in rows:
        cells = ((column.cell(row).replace('|', '/'), column.is_code) for column in columns)
        lines.append([f'`{text}`' if code else text for text, code in cells])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
