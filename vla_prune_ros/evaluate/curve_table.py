"""The result of ``vla-prune bench --curve`` for people."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from .bench_plot import TITLES
from .pruning_tables import model_words


def curve_table(result: Mapping[str, Any]) -> Table:
    """One row per point."""
    on_cpu = result['model']['device'] == 'cpu'
    where = result['machine']['cpu'] if on_cpu else result['model']['device']
    title = f'what a query costs in ms, {model_words(result)}, on {where}'
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    table.add_column('axis')
    for name in ('value', 'p50', 'p95', 'TFLOP'):
        table.add_column(name, justify='right')
    for row in result['rows']:
        tflops = '-' if row['tflops'] is None else f'{row["tflops"]:.3g}'
        latency = row['latency_ms']
        table.add_row(
            TITLES[row['axis']],
            str(row['value']),
            f'{latency["p50"]:.1f}',
            f'{latency["p95"]:.1f}',
            tflops,
        )
    return table
