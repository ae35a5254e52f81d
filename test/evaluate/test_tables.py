"""One declaration of columns gives a table for the console and one for Markdown."""

from rich.console import Console

from vla_prune_ros.evaluate.tables import Column, fixed, markdown_table, rich_table

COLUMNS = (
    Column('method', lambda row: row[0], is_name=True, is_code=True),
    Column('ms', lambda row: fixed(row[1])),
)
ROWS = [('{a: 1|2}', 3.25), ('[bold]dense', None)]


def test_markdown_cells_hold_no_bar_of_their_own():
    lines = markdown_table(COLUMNS, ROWS).splitlines()
    assert lines[2:] == ['| `{a: 1/2}` | 3.2 |', '| `[bold]dense` | - |']
    assert {line.count('|') for line in lines} == {3}


def test_names_are_no_markup_on_the_console():
    console = Console(width=60)
    with console.capture() as capture:
        console.print(rich_table('[red]title', COLUMNS, ROWS, section=lambda row: row[1]))
    text = capture.get()
    assert '[bold]dense' in text and '[red]title' in text and '{a: 1|2}' in text
