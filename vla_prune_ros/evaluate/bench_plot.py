"""The results of ``vla-prune bench --pruning`` and ``--curve`` as pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .pruning_tables import STAGES, model_words
from .results_plot import figure_class, save_figure

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
