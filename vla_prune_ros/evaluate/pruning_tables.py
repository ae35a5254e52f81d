"""The result of ``vla-prune bench --pruning`` for people: two tables and what to know of them."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

STAGES = ('preprocess', 'vision', 'selection', 'language', 'head')


def pruning_tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Totals with their ratios to dense, and the stages; one row per method and mode."""
    where = result['machine']['cpu']
    where = where if result['model']['device'] == 'cpu' else result['model']['device']
    title = f'pruning methods in ms, {model_words(result)}, on {where}'
    totals = _table(title, ('n', 'tokens', 'p50', 'p95', 'speedup', 'select %', 'TFLOP'))
    stages = _table('stages in ms, p50', (*STAGES, 'refresh'))
    for row in result['rows']:
        names, latency = (row['method'], row['mode']), row['latency_ms']
        totals.add_row(
            *names,
            str(row['queries']),
            f'{row["visual_tokens"]:.0f}',
            _ms(latency),
            _ms(latency, 'p95'),
            f'{row["speedup_vs_dense"]:.2f}',
            f'{row["selection_percent_of_dense"]:.1f}',
            '-' if row['tflops'] is None else f'{row["tflops"]:.3g}',
        )
        cells = [row['stages_ms'].get(s) for s in STAGES] + [row['refresh_ms']]
        stages.add_row(*names, *(_ms(c) for c in cells))
    return totals, stages


def pruning_notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures leave open, one sentence each."""
    model, settings = result['model'], result['settings']
    notes = [
        'speedup: dense p50 / p50 of the row. select %: selection, part of p50, in percent of '
        'dense p50.'
    ]
    if settings['refresh']:
        notes.append(
            'refresh: dense look between queries, not in p50; the robot executes a chunk in '
            f'{settings["chunk_ms"]:.0f} ms.'
        )
    if model['shared_layers']:
        notes.append(
            f'All {model["layers"]} decoder layers use the weights of the first: same work, '
            'memory of one.'
        )
    if model['layers'] != model['layers_published']:
        notes.append(f'{model["layers"]} of {model["layers_published"]} decoder layers.')
    if result['untrained']:
        notes.append('Random weights: times mean something, actions do not.')
    if settings['load_before'] > 0.5 * result['machine']['cores']:
        notes.append(
            f'The machine was busy: load average {settings["load_before"]:.1f} on '
            f'{result["machine"]["cores"]} cores before the run.'
        )
    if not result['ok']:
        notes.append('Some actions were not finite: the times are not to be trusted.')
    return notes


def model_words(result: Mapping[str, Any]) -> str:
    """Model, dtype and threads in a few words."""
    model, settings = result['model'], result['settings']
    name = model.get('preset') or model.get('checkpoint')
    threads = f'{settings["threads"]} thread{"s" * (settings["threads"] > 1)}'
    return f'{name} {model["dtype"]}, {model["layers"]} layers, {threads}'


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    table.add_column('method', overflow='fold')  # a long name takes two lines, and is whole
    table.add_column('mode', no_wrap=True)
    for name in columns:
        table.add_column(name, justify='right', no_wrap=True)
    return table


def _ms(quantiles: Mapping[str, float] | None, which: str = 'p50') -> str:
    return '-' if quantiles is None else f'{quantiles[which]:.1f}'
