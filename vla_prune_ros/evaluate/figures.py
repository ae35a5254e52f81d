"""The result of ``vla-prune evaluate`` as figures: success over tokens, and modes over time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..errors import VlaPruneError
from .closed_loop.episodes import EpisodeKey, EpisodeResult

MODE_COLOURS = {'dense': '#c4c4c4', 'coarse': '#d95f02', 'fine': '#1b9e77'}
OTHER_MODE = '#e7298a'
MARKERS = 'osD^v<>Pp*hX'
_SPEED_COLOUR = '#7570b3'
_WIDTH = 9.0


def plot_success(result: Mapping[str, Any], path: Path) -> None:
    """Success with its 95 % interval over the mean of visual tokens; a marker per method, a panel
    over all tasks and for each of them.

    :param result: as ``vla-prune evaluate`` writes it.
    :raises VlaPruneError: matplotlib is not installed.
    """
    rows = [row for row in result['rows'] if row['queries']]
    tasks = list(dict.fromkeys(row['task'] for row in rows))
    tasks.sort(key=lambda task: task != 'all')
    columns = min(len(tasks), 3) or 1
    lines = -(-len(tasks) // columns) or 1
    figure, axes = panels(lines, columns, (_WIDTH, 0.9 + 2.7 * lines), sharey=True)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes.flat, tasks, strict=False):
        _success_axis(axis, task, [row for row in rows if row['task'] == task], result)
    handles, _ = axes.flat[0].get_legend_handles_labels()
    note = ' (UNTRAINED weights)' if result['untrained'] else ''
    note += ' (GENERATED ASSETS)' if result['generated_assets'] else ''
    _save(figure, path, f'closed loop in {result["settings"]["simulator"]}{note}', handles)


def plot_modes(episodes: Mapping[EpisodeKey, EpisodeResult], path: Path, most: int = 3) -> None:
    """Mode and visual tokens of every query over the control steps, with the arm's speed.

    A row per method, a column for each of the first ``most`` episodes that all methods have run.

    :raises VlaPruneError: matplotlib is not installed.
    """
    methods = list(dict.fromkeys(key.method for key in episodes))
    shown = _common(episodes, methods)[:most]
    if not shown:
        return
    size = (_WIDTH, 0.8 + 1.5 * len(methods))
    figure, axes = panels(len(methods), len(shown), size, sharex='col', sharey=True)
    fastest = max((q.motion_m_s or 0.0 for e in episodes.values() for q in e.queries), default=0.0)
    for line, method in zip(axes, methods, strict=True):
        line[0].set_ylabel(method, fontsize=8)
        for axis, (task, seed) in zip(line, shown, strict=True):
            _modes_axis(axis, episodes[EpisodeKey(method, task, seed)], fastest)
    for axis, (task, seed) in zip(axes[0], shown, strict=True):
        axis.set_title(f'{task}, seed {seed}', fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel('control step', fontsize=8)
    modes = {mode: {'color': c, 'marker': 's', 'ls': ''} for mode, c in MODE_COLOURS.items()}
    modes[f'speed of the end effector, 0 to {fastest:.2f} m/s'] = {'color': _SPEED_COLOUR}
    handles = [handle(label, **style) for label, style in modes.items()]
    _save(figure, path, 'visual tokens that reach the last layer, by query', handles)


def _save(figure: Any, path: Path, title: str, handles: Sequence[Any]) -> None:
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=handles, loc='lower center', ncol=4, fontsize=8, frameon=False)
    save_figure(figure, path, bottom=0.4 / figure.get_figheight())


def _success_axis(
    axis: Any, task: str, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> None:
    methods = result['settings']['methods']
    for row in rows:
        index = methods.index(row['method'])
        rate, (low, high) = row['success_rate'], row['success_ci95']
        axis.errorbar(
            row['visual_tokens'],
            100 * rate,
            yerr=[[100 * (rate - low)], [100 * (high - rate)]],
            marker=MARKERS[index % len(MARKERS)],
            color=f'C{index % 10}',
            capsize=3,
            label=row['method'],
        )
    axis.set_title(task, fontsize=9)
    axis.set_xlabel('visual tokens, mean', fontsize=8)
    axis.set_ylabel('success, %', fontsize=8)
    axis.set(xlim=(0, None), ylim=(-3, 103))
    axis.grid(alpha=0.3)


def _modes_axis(axis: Any, episode: EpisodeResult, fastest: float) -> None:
    queries = episode.queries
    ends = [*(query.step for query in queries[1:]), episode.steps]
    for query, end in zip(queries, ends, strict=True):
        colour = MODE_COLOURS.get(query.mode, OTHER_MODE)
        axis.bar(query.step, query.visual_tokens, end - query.step, align='edge', color=colour)
    axis.set_ylim(0, 1.05 * max(episode.visual_all, 1))
    known = [(q.step, q.motion_m_s) for q in queries if q.motion_m_s is not None]
    if known:
        speed = axis.twinx()
        speed.plot(*zip(*known, strict=True), color=_SPEED_COLOUR, linewidth=1.2)
        speed.set_ylim(0, 1.05 * fastest or 1.0)
        speed.set_yticks([])
    axis.tick_params(labelsize=6)
    ending = 'success' if episode.success else 'failure'
    axis.text(0.98, 0.86, ending, transform=axis.transAxes, ha='right', fontsize=7)


def _common(
    episodes: Mapping[EpisodeKey, EpisodeResult], methods: Sequence[str]
) -> list[tuple[str, int]]:
    """Task and seed of those that every method has queries of; tasks take turns."""
    ran = Counter((key.task, key.seed) for key, episode in episodes.items() if episode.queries)
    by_task: dict[str, list[tuple[str, int]]] = {}
    for name in sorted(ran, key=lambda name: name[1]):
        if ran[name] == len(methods):
            by_task.setdefault(name[0], []).append(name)
    return [name for turn in zip_longest(*by_task.values()) for name in turn if name]


def figure_class() -> Any:
    """:raises VlaPruneError: matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # needs no display, and no state of pyplot
    except ImportError:
        raise VlaPruneError(
            'matplotlib is not installed, no figures are drawn',
            "pip install 'vla_prune_ros[plot]'",
        ) from None
    return Figure


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes in an array of two dimensions."""
    figure = figure_class()(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def handle(label: str, **style: Any) -> Any:
    """An entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def save_figure(figure: Any, path: Path, bottom: float = 0.0) -> None:
    """Write it; its axes leave the lowest ``bottom`` (0 to 1 of the height) free."""
    figure.tight_layout(rect=(0, bottom, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
