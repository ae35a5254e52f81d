"""The result of ``vla-prune evaluate`` as Markdown, for a page that quotes it."""

from collections.abc import Mapping
from typing import Any

from .results_table import cost_cells, success_cells

_HEAD = (
    ('task', 'method', 'success', '%', '95 %', 'points', '95 %', '- / +', 'p', 'wrong cube'),
    (
        'task',
        'method',
        'tokens',
        '%',
        'dense/coarse/fine %',
        'queries',
        'ms p50',
        'p95',
        'refresh',
    ),
)


def result_markdown(result: Mapping[str, Any]) -> str:
    """Two tables with a row per task and method, and the command that made them."""
    rows = result['rows']
    tables = (
        _table(
            _HEAD[0], [(row['task'], f'`{row["method"]}`', *success_cells(row)) for row in rows]
        ),
        _table(_HEAD[1], [(row['task'], f'`{row["method"]}`', *cost_cells(row)) for row in rows]),
    )
    return '\n\n'.join((*tables, f'`{result["command"]}`')) + '\n'


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ('---',) * len(head), *rows]
    return '\n'.join(
        f'| {" | ".join(cell.replace("|", "/") for cell in line)} |' for line in lines
    )
