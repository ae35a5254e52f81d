"""The result of ``vla-prune bench --pruning`` for people: two tables and what to know of them.

The results of ``vla-prune bench --pruning`` and ``--curve`` as pictures.

The result of ``vla-prune bench --curve`` for people.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..figures import figure_class, save_figure

STAGES = ('preprocess', 'vision', 'selection', 'language', 'head')


def pruning_tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Totals with their ratios to dense, and the stages; one row per method and mode."""
    where = result['machine']['cpu']
    where = where if result['model']['device'] == 'cpu' else result['model']['device']
    title = f'pruning methods in ms, {model_words(result)}, on {where}'
    columns = ('n', 'tok.', 'p50', 'p95', 'dense', 'publ', 'sel', 'TFLOP', 'roof')
    totals = _table(title, columns)
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
            _or_dash(row['speedup_vs_published'], '.2f'),
            f'{row["selection_percent_of_dense"]:.1f}',
            _or_dash(row['tflops'], '.3g'),
            _or_dash(row['roofline_ms'], '.0f', 100 / latency['p50']),
        )
        cells = [row['stages_ms'].get(s) for s in STAGES] + [row['refresh_ms']]
        stages.add_row(*names, *(_ms(c) for c in cells))
    return totals, stages


def pruning_notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures leave open, one sentence each."""
    model, settings = result['model'], result['settings']
    notes = [
        'dense, publ.: p50 of dense, and of dense as the published code runs it, divided by '
        'p50 of the row. sel: selection, part of p50, in percent of dense p50. roof: the '
        'least time that this machine can need, in percent of p50.'
    ]
    roof = result['machine']['roofline']
    notes.append(
        f'Measured limits: {roof["tflops"]:.3g} TFLOP/s in a product of {model["dtype"]}, '
        f'{roof["gb_per_s"]:.3g} GB/s in a copy. Peak of memory {result["memory_peak_gb"]:.2g} GB.'
    )
    notes += [_whole_run(row) for row in result['whole_run'] if len(row['modes']) > 1]
    slow = max(result['rows'], key=lambda r: (r['first_ms'] or 0.0) / r['latency_ms']['p50'])
    if slow['first_ms'] is not None:
        notes.append(
            'First query of a mode behind the warm-up, in p50 of that mode: at most '
            f'{slow["first_ms"] / slow["latency_ms"]["p50"]:.2f} ({slow["method"]}, '
            f'{slow["mode"]}).'
        )
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


def _whole_run(row: Mapping[str, Any]) -> str:
    modes = ', '.join(f'{count} {mode}' for mode, count in row['modes'].items())
    published = _or_dash(row['speedup_vs_published'], '.2f')
    return (
        f'{row["method"]} over the whole run ({modes}), by mean times: '
        f'{row["speedup_vs_dense"]:.2f} of dense, {published} of published.'
    )


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


def _or_dash(value: float | None, form: str, factor: float = 1.0) -> str:
    return '-' if value is None else format(factor * value, form)


COLOURS = {
    'preprocess': '#c4c4c4',
    'vision': '#7570b3',
    'selection': '#e6ab02',
    'language': '#d95f02',
    'head': '#1b9e77',
}
TITLES = {
    'visual_tokens': 'visual tokens, all cameras',
    'cameras': 'cameras, dense',
    'chunk': 'steps of the chunk, dense',
}


def plot_stages(result: Mapping[str, Any], path: Path) -> None:
    """A bar per method and mode: its stages' p50, one behind the other, and a tick at p95.

    :param result: as :func:`~.pruning_bench.run_pruning_bench` gives it.
    :raises VlaPruneError: matplotlib is not installed.
    """
    rows = result['rows']
    size = (8.0, 1.2 + 0.36 * len(rows))
    figure = figure_class()(figsize=size)
    axis = figure.subplots()
    names = [f'{row["method"]}, {row["mode"]}' for row in rows]
    left = [0.0] * len(rows)
    for stage in STAGES:
        widths = [row['stages_ms'].get(stage, {'p50': 0.0})['p50'] for row in rows]
        axis.barh(names, widths, left=left, label=stage, color=COLOURS[stage])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, row in enumerate(rows):
        latency = row['latency_ms']
        axis.plot([latency['p95']] * 2, [place - 0.3, place + 0.3], color='black', linewidth=1)
        text = f' {latency["p50"]:.0f} ms, {row["speedup_vs_dense"]:.2f} x'
        axis.text(max(latency['p95'], left[place]), place, text, va='center', fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel('ms per query: p50 of the stages; line: p95 of the query', fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, ncol=len(STAGES), loc='lower center', bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(_title(result), fontsize=9)
    save_figure(figure, path)


def plot_curve(result: Mapping[str, Any], path: Path) -> None:
    """Write :func:`curve_figure` to a file.

    :raises VlaPruneError: matplotlib is not installed.
    """
    save_figure(curve_figure(result), path)


def curve_figure(result: Mapping[str, Any]) -> Any:
    """p50 over visual tokens, over cameras and over steps, with p95 above.

    :param result: as :func:`~.cost_curve.run_cost_curve` gives it.
    """
    figure = figure_class()(figsize=(9.0, 3.2))
    for axis, (name, title) in zip(
        figure.subplots(1, 3, sharey=True), TITLES.items(), strict=True
    ):
        rows = [row for row in result['rows'] if row['axis'] == name]
        values = [row['value'] for row in rows]
        p50, p95 = ([row['latency_ms'][q] for row in rows] for q in ('p50', 'p95'))
        axis.plot(values, p50, 'o-', color=COLOURS['language'], markersize=4)
        axis.fill_between(values, p50, p95, color=COLOURS['language'], alpha=0.2, linewidth=0)
        axis.set_xlabel(title, fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    figure.axes[0].set_ylabel('ms per query, p50 to p95', fontsize=8)
    figure.axes[0].set_ylim(bottom=0)  # of all, once they are drawn: it ends the scaling
    figure.suptitle(_title(result), fontsize=9)
    return figure


def _title(result: Mapping[str, Any]) -> str:
    on_cpu = result['model']['device'] == 'cpu'
    where = result['machine']['cpu'] if on_cpu else result['model']['device']
    note = ', random weights' if result['untrained'] else ''
    return f'{model_words(result)}, {where}{note}'


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
