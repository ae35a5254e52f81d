"""What the figures of a replay have in common: lines over time, refusals, axes and the legend."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .replay_series import Pen, known, top_of, windows
from .results_plot import figure_class

Lines = Mapping[str, tuple[Sequence[float], np.ndarray]]
TIME = 'time since the start of the bag, s'
MOST_POINTS = 400
"""A line of more points than this is drawn as windows."""
_WIDTH = 10.4
_REFUSED = {'marker': 'x', 'markersize': 7, 'markeredgewidth': 1.8, 'linestyle': ''}


def panels(
    rows: int, columns: int, height: float, shared: bool = True, **ratios: Sequence[float]
) -> tuple[Any, Any]:
    """A figure of the width of the page, and its axes as an array (rows, columns).

    :param height: of the figure, inches.
    :param shared: axes of a column share their x.
    :param ratios: ``width_ratios`` and ``height_ratios``.
    :raises VlaPruneError: matplotlib is not installed.
    """
    figure = figure_class()(figsize=(_WIDTH, height))
    sharing = 'col' if shared else False
    return figure, figure.subplots(
        rows, columns, squeeze=False, sharex=sharing, gridspec_kw=ratios
    )


def draw_lines(axis: Any, lines: Lines, drawn: Mapping[str, Pen], most: int) -> None:
    """A line per method from zero up; outliers that would flatten the rest are arrows.

    :param lines: method -> (times in s, float64 (N,) values, NaN where unknown).
    :param most: a line of more points is drawn as windows.
    """
    top = top_of([values for _, values in lines.values()])
    for place, (method, (t_s, values)) in enumerate(lines.items()):
        pen, line = drawn[method], windows(t_s, values, most)
        if not line.whole:
            shade = 0.5 / (1 + len(lines))  # of many lines, the shades must not hide the lines
            axis.fill_between(line.t_s, line.low, line.high, color=pen.colour, alpha=shade, lw=0)
        every = max(len(line.t_s) // 10, 1)  # about ten markers, not on those of the others
        axis.plot(line.t_s, line.middle, color=pen.colour, linewidth=1.2, marker=pen.marker,
                  markersize=4, markevery=(place * every // len(lines), every))  # fmt: skip
    if top is not None:
        _outliers(axis, lines, drawn, top)
    axis.set_ylim(0, top)
    dress(axis)


def _outliers(axis: Any, lines: Lines, drawn: Mapping[str, Pen], top: float) -> None:
    """Arrows at the upper edge, and how far up the farthest is."""
    farthest = (top, 0.0)
    for method, (t_s, values) in lines.items():
        above = [(value, t) for t, value in zip(t_s, values, strict=True) if value > top]
        if above:
            axis.plot([t for _, t in above], [0.95 * top] * len(above), '^',
                      color=drawn[method].colour, markersize=6)  # fmt: skip
            farthest = max(farthest, *above)
    axis.annotate(f'{farthest[0]:.0f}', (farthest[1], 0.95 * top), fontsize=8,
                  textcoords='offset points', xytext=(6, -4))  # fmt: skip


def mark_refusals(axis: Any, series: Mapping[str, Any], colour: str, height: float) -> None:
    """A cross at every refused query.

    :param height: where, as a share of the height of the axis.
    """
    times = [t for t, refusal in zip(series['t_s'], series['refusal'], strict=True) if refusal]
    if not times:  # an empty line takes part in the layout, at the corner of the figure
        return
    axis.plot(
        times,
        np.full(len(times), height),
        color=colour,
        transform=axis.get_xaxis_transform(),
        clip_on=False,
        zorder=5,
        **_REFUSED,
    )


def handle(label: str, **style: Any) -> Any:
    """An entry of the legend that is not a method."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def refusal_handle() -> Any:
    """The legend's entry for :func:`mark_refusals`."""
    return handle('refused query', color='black', **_REFUSED)


def dress(axis: Any) -> None:
    """Small ticks, a faint grid, no frame where nothing is read."""
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ('top', 'right'):
        axis.spines[side].set_visible(False)


def finish(
    figure: Any, drawn: Mapping[str, Pen], methods: Iterable[str], more: Sequence[Any] = ()
) -> Any:
    """Lay it out, with the legend above: the methods that are drawn, then the rest."""
    handles = [
        handle(drawn[m].label, color=drawn[m].colour, marker=drawn[m].marker, linewidth=2)
        for m in methods
    ]
    handles += more
    columns = _columns([h.get_label() for h in handles])
    lines = -(-len(handles) // columns) if handles else 0
    if handles:
        figure.legend(handles=handles, loc='upper center', ncol=columns, fontsize=8,
                      frameon=False)  # fmt: skip
    share = (0.06 + 0.19 * lines) / figure.get_figheight()
    figure.tight_layout(h_pad=0.5, rect=(0, 0, 1, 1 - share))
    return figure


def _columns(labels: Sequence[str]) -> int:
    """Entries in a line of the legend, so that it stays inside the figure."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), int(_WIDTH / (0.45 + 0.075 * longest))))


def lines_of(bag: Mapping[str, Any], name: str) -> Lines:
    """Method -> times and values of one series, of the methods that have any."""
    every = {m: (s['t_s'], known(s.get(name))) for m, s in bag['series'].items()}
    return {m: line for m, line in every.items() if np.isfinite(line[1]).any()}
