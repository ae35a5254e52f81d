"""The results of ``vla-prune bench`` for people: tables, notes and figures."""

from pathlib import Path
from typing import Any

from ..demo import stage_label
from ..figures import figure_class, save_figure
from ..machine import where
from ..tables import Column, fixed, quantile, rich_table
from .curve import CostCurve
from .dtype import DtypeBench
from .node import TARGET_MS, NodeBench
from .pruning import PruningBench, PruningRow, WholeRun
from .simulator import BAR_SIZE, BAR_STEPS_PER_S, PARTS, SimBench

STAGES = ('preprocess', 'vision', 'selection', 'language', 'head')
COLOURS = {
    'preprocess': '#c4c4c4',
    'vision': '#7570b3',
    'selection': '#e6ab02',
    'language': '#d95f02',
    'head': '#1b9e77',
}
AXES = {
    'visual_tokens': 'visual tokens, all cameras',
    'cameras': 'cameras, dense',
    'chunk': 'steps of the chunk, dense',
}

# --- pruning -----------------------------------------------------------------------------------

_NAMES = (
    Column('method', lambda r: r.method, is_name=True),
    Column('mode', lambda r: r.mode, is_name=True),
)
_TOTALS = (
    *_NAMES,
    Column('n', lambda r: str(r.queries)),
    Column('tok.', lambda r: f'{r.visual_tokens:.0f}'),
    Column('p50', lambda r: quantile(r.latency_ms)),
    Column('p95', lambda r: quantile(r.latency_ms, 'p95')),
    Column('dense', lambda r: f'{r.speedup_vs_dense:.2f}'),
    Column('publ', lambda r: fixed(r.speedup_vs_published, '.2f')),
    Column('sel', lambda r: f'{r.selection_percent_of_dense:.1f}'),
    Column('TFLOP', lambda r: fixed(r.tflops, '.3g')),
    Column('roof', lambda r: fixed(r.roofline_ms, '.0f', 100 / r.latency_ms['p50'])),
)
_STAGES = (
    *_NAMES,
    *(Column(s, lambda r, s=s: quantile(r.stages_ms.get(s))) for s in STAGES),
    Column('refresh', lambda r: quantile(r.refresh_ms)),
)


def pruning_report(result: PruningBench) -> list[Any]:
    title = f'pruning methods in ms, {_model(result)}, on {_device(result)}'
    return [
        rich_table(title, _TOTALS, result.rows),
        rich_table('stages in ms, p50', _STAGES, result.rows),
        *pruning_notes(result),
    ]


def pruning_notes(result: PruningBench) -> list[str]:
    model, settings, machine = result.model, result.settings, result.machine
    roof = machine['roofline']
    notes = [
        'dense, publ.: p50 of dense, and of dense as the published code runs it, divided by '
        'p50 of the row. sel: selection, part of p50, in percent of dense p50. roof: the '
        'least time that this machine can need, in percent of p50.',
        f'Measured limits: {roof["tflops"]:.3g} TFLOP/s in a product of {model["dtype"]}, '
        f'{roof["gb_per_s"]:.3g} GB/s in a copy. Peak of memory {result.memory_peak_gb:.2g} GB.',
    ]
    notes += [_whole_run(row) for row in result.whole_run if len(row.modes) > 1]
    slow = max(result.rows, key=_first_in_p50)
    if slow.first_ms is not None:
        notes.append(
            'First query of a mode behind the warm-up, in p50 of that mode: at most '
            f'{_first_in_p50(slow):.2f} ({slow.method}, {slow.mode}).'
        )
    if settings['refresh']:
        notes.append(
            'refresh: dense pass between queries, not in p50; the robot executes a chunk in '
            f'{settings["chunk_ms"]:.0f} ms.'
        )
    if model['shared_layers']:
        notes.append(
            f'All {model["layers"]} decoder layers use the weights of the first: same work, '
            'memory of one.'
        )
    if model['layers'] != model['layers_published']:
        notes.append(f'{model["layers"]} of {model["layers_published"]} decoder layers.')
    if result.untrained:
        notes.append('Random weights: times mean something, actions do not.')
    if settings['load_before'] > 0.5 * machine['cores']:
        notes.append(
            f'The machine was busy: load average {settings["load_before"]:.1f} on '
            f'{machine["cores"]} cores before the run.'
        )
    if not result.ok:
        notes.append('Some actions were not finite: the times are not to be trusted.')
    return notes


def _first_in_p50(row: PruningRow) -> float:
    return (row.first_ms or 0.0) / row.latency_ms['p50']


def _whole_run(row: WholeRun) -> str:
    modes = ', '.join(f'{count} {mode}' for mode, count in row.modes.items())
    return (
        f'{row.method} over the whole run ({modes}), by mean times: {row.speedup_vs_dense:.2f} of '
        f'dense, {fixed(row.speedup_vs_published, ".2f")} of published.'
    )


def plot_stages(result: PruningBench, path: Path) -> None:
    """A bar per method and mode: its stages' p50, one behind the other, and a tick at p95."""
    rows = result.rows
    figure = figure_class()(figsize=(8.0, 1.2 + 0.36 * len(rows)))
    axis = figure.subplots()
    names = [f'{row.method}, {row.mode}' for row in rows]
    ends = [0.0] * len(rows)
    for stage in STAGES:
        widths = [row.stages_ms.get(stage, {'p50': 0.0})['p50'] for row in rows]
        axis.barh(names, widths, left=ends, label=stage, color=COLOURS[stage])
        ends = [a + b for a, b in zip(ends, widths, strict=True)]
    for place, row in enumerate(rows):
        p50, p95 = row.latency_ms['p50'], row.latency_ms['p95']
        axis.plot([p95, p95], [place - 0.3, place + 0.3], color='black', linewidth=1)
        text = f' {p50:.0f} ms, {row.speedup_vs_dense:.2f} x'
        axis.text(max(p95, ends[place]), place, text, va='center', fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel('ms per query: p50 of the stages; line: p95 of the query', fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, ncol=len(STAGES), loc='lower center', bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(_title(result), fontsize=9)
    save_figure(figure, path)


# --- curve -------------------------------------------------------------------------------------

_CURVE = (
    Column('axis', lambda r: AXES[r.axis], is_name=True),
    Column('value', lambda r: str(r.value)),
    Column('p50', lambda r: quantile(r.latency_ms)),
    Column('p95', lambda r: quantile(r.latency_ms, 'p95')),
    Column('TFLOP', lambda r: fixed(r.tflops, '.3g')),
)


def curve_report(result: CostCurve) -> list[Any]:
    title = f'what a query costs in ms, {_model(result)}, on {_device(result)}'
    return [rich_table(title, _CURVE, result.rows)]


def plot_curve(result: CostCurve, path: Path) -> None:
    save_figure(curve_figure(result), path)


def curve_figure(result: CostCurve) -> Any:
    figure = figure_class()(figsize=(9.0, 3.2))
    for axis, (name, title) in zip(figure.subplots(1, 3, sharey=True), AXES.items(), strict=True):
        rows = [row for row in result.rows if row.axis == name]
        values = [row.value for row in rows]
        p50, p95 = ([row.latency_ms[q] for row in rows] for q in ('p50', 'p95'))
        axis.plot(values, p50, 'o-', color=COLOURS['language'], markersize=4)
        axis.fill_between(values, p50, p95, color=COLOURS['language'], alpha=0.2, linewidth=0)
        axis.set_xlabel(title, fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    figure.axes[0].set_ylabel('ms per query, p50 to p95', fontsize=8)
    figure.axes[0].set_ylim(bottom=0)  # of all, once they are drawn: it ends the scaling
    figure.suptitle(_title(result), fontsize=9)
    return figure


def _model(result: PruningBench | CostCurve) -> str:
    model, threads = result.model, result.settings['threads']
    name = model.get('preset') or model.get('checkpoint')
    plural = 's' * (threads > 1)
    return f'{name} {model["dtype"]}, {model["layers"]} layers, {threads} thread{plural}'


def _device(result: PruningBench | CostCurve) -> str:
    device = result.model['device']
    return result.machine['cpu'] if device == 'cpu' else device


def _title(result: PruningBench | CostCurve) -> str:
    note = ', random weights' if result.untrained else ''
    return f'{_model(result)}, {_device(result)}{note}'


# --- types of weights, simulator, node ---------------------------------------------------------

_DTYPES = (
    Column('dtype', lambda r: r.dtype, is_name=True),
    Column('weights MiB', lambda r: f'{r.weights_mib:.0f}'),
    Column('p50 ms', lambda r: quantile(r.latency_ms)),
    Column('p95 ms', lambda r: quantile(r.latency_ms, 'p95')),
    Column('time / bfloat16', lambda r: fixed(r.time_vs_bfloat16, '.2f')),
)


def dtype_report(result: DtypeBench) -> list[Any]:
    return [rich_table(f'whole policy by dtype on {where(result.machine)}', _DTYPES, result.rows)]


_SIM = (
    Column('fast visuals', lambda r: 'on' if r.fast_visuals else 'off', is_name=True),
    Column('steps/s', lambda r: f'{r.steps_per_s:.1f}'),
    Column('step p50 ms', lambda r: quantile(r.step_ms)),
    Column('p95 ms', lambda r: quantile(r.step_ms, 'p95')),
    *(Column(f'{part} ms', lambda r, part=part: quantile(r.parts_ms[part])) for part in PARTS),
)


def sim_report(result: SimBench) -> list[Any]:
    views = f'{result.size} x {result.size}'
    title = f'control loop with two {views} views on {where(result.machine)}'
    return [rich_table(title, _SIM, result.rows), result.scene, sim_verdict(result)]


def sim_verdict(result: SimBench) -> str:
    rate = next(row.steps_per_s for row in result.rows if row.fast_visuals)
    if result.size != BAR_SIZE:
        return f'the bar of {BAR_STEPS_PER_S:g} steps/s is for views of {BAR_SIZE}'
    verdict = 'met' if rate >= result.bar_steps_per_s else 'missed'
    return f'bar of {result.bar_steps_per_s:g} steps/s {verdict}: {rate:.1f} with fast visuals'


def node_report(result: NodeBench) -> list[Any]:
    totals = ('overhead', 'policy_total', 'age_primary', 'age_wrist')
    names = [name for name in result.stages_ms if name.startswith('node_')]
    columns = (
        Column('ms', stage_label, is_name=True),
        Column('p50', lambda name: quantile(result.stages_ms[name], 'p50', '.2f')),
        Column('p95', lambda name: quantile(result.stages_ms[name], 'p95', '.2f')),
    )
    title = f'node overhead on {where(result.machine)}: {result.queries} queries'
    table = rich_table(title, columns, [*names, *totals], section=lambda name: name in totals)
    return [table, node_verdict(result)]


def node_verdict(result: NodeBench) -> str:
    rates = ', '.join(
        f'{c} {sent:.1f} -> {result.received_hz[c]:.1f}' for c, sent in result.sent_hz.items()
    )
    return (
        f'640x480 images per second, sent -> received: {rates}\n'
        f'target: overhead p50 below {TARGET_MS:g} ms and all images received: '
        f'{"met" if result.ok else "MISSED"}'
    )
