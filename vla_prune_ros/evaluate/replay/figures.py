"""Series of a replay made ready to draw: colours, gaps, windows and runs; no figure is drawn.

What the figures of a replay have in common: lines over time, refusals, axes and the legend.

Error, bias and sign agreement per axis of one replayed bag, as bars.

Pictures with a lane per method: its modes below the arm's speed, and its gripper.

Pictures of one replayed bag as they stand in the page: cost, modes, error, axes, gripper.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..figures import MODE_COLOURS, figure_class
from .columns import AXES, filled

# Told apart with every kind of colour vision, and from the colours of the modes.
_PALETTE = ('#0072b2', '#e69f00', '#882255', '#56b4e9', '#332288', '#999933')
_DENSE = '#4d4d4d'
_MARKERS = 'os^Dv<>Pp*hX'
_LONGEST = 36
_PAUSE = 4.0  # of the usual time between two queries


@dataclass(frozen=True)
class Pen:
    """How a method is drawn, wherever it is drawn.

    :param label: the name as a figure may show it.
    """

    label: str
    colour: str
    marker: str


@dataclass(frozen=True, eq=False)
class Windows:
    """A line, or medians of windows of it where it has too many points.

    :param t_s: float64 (N,) middle of each window.
    :param middle: float64 (N,) median of the known values; NaN where there are none.
    :param low: float64 (N,) least of them.
    :param high: float64 (N,) largest of them.
    :param whole: every point is a window of its own.
    """

    t_s: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    whole: bool


def pens(methods: Sequence[str]) -> dict[str, Pen]:
    """A pen per method, the same wherever the methods are the same."""
    others = [method for method in methods if method != 'dense']
    colours = {m: _PALETTE[i % len(_PALETTE)] for i, m in enumerate(others)} | {'dense': _DENSE}
    return {
        method: Pen(plot_text(method), colours[method], _MARKERS[i % len(_MARKERS)])
        for i, method in enumerate(methods)
    }


def plot_text(name: str) -> str:
    """A name that matplotlib shows as it is: no formula, no hidden label, not endless."""
    short = name if len(name) <= _LONGEST else f'{name[: _LONGEST - 1]}…'
    shown = ''.join(c if c.isprintable() else '?' for c in short).replace('$', r'\$')
    return f' {shown}' if shown.startswith('_') else shown or '?'


def known(values: Sequence[float | None] | None) -> np.ndarray:
    """Float64 (N,), NaN for None."""
    return np.asarray([] if values is None else values, np.float64)


def has_any(bag: Mapping[str, Any], name: str) -> bool:
    """Whether any method of the bag has a value in that series."""
    return any(np.isfinite(known(s.get(name))).any() for s in bag['series'].values())


def _broken(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With an unknown value in each long pause, so that no line is drawn through it."""
    steps = np.diff(times)
    if not len(steps):
        return times, values
    after = np.flatnonzero(steps > _PAUSE * np.median(steps)) + 1
    between = times[after - 1] + 0.5 * steps[after - 1]
    return np.insert(times, after, between), np.insert(values, after, np.nan)


def windows(t_s: Sequence[float], values: np.ndarray, most: int) -> Windows:
    """Medians and extremes of equally many points each, where there are more than ``most``."""
    times = np.asarray(t_s, np.float64)
    if len(times) <= most:
        times, values = _broken(times, values)
        return Windows(times, values, values, values, True)
    ends = np.linspace(0, len(times), most // 2 + 1).round().astype(int)
    parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    some = [values[part][np.isfinite(values[part])] for part in parts]
    return Windows(
        np.array([times[part].mean() for part in parts]),
        *(
            np.array([of(part) if len(part) else np.nan for part in some])
            for of in (np.median, np.min, np.max)
        ),
        whole=False,
    )


def interval(t_s: Sequence[float]) -> float:
    """Usual time between two queries, s; one second where there is none."""
    steps = np.diff(np.asarray(t_s, np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return usual if usual > 0 else 1.0


def runs(t_s: Sequence[float], labels: Sequence[str]) -> list[tuple[float, float, str]]:
    """Stretches of one label as (begin, length, label).

    A query lasts until the next one, at most three times as long as usual: a pause stays empty.
    """
    usual = interval(t_s)
    out: list[tuple[float, float, str]] = []
    following = [*t_s[1:], t_s[-1] + usual] if len(t_s) else []
    for begin, then, label in zip(t_s, following, labels, strict=True):
        length = then - begin if 0 < then - begin <= 3 * usual else usual
        if out and out[-1][2] == label and abs(sum(out[-1][:2]) - begin) < 1e-6 * usual:
            out[-1] = (out[-1][0], begin + length - out[-1][0], label)
        else:
            out.append((begin, length, label))
    return out


def top_of(values: Sequence[np.ndarray]) -> float | None:
    """Where to cut an axis that a few outliers would flatten; None where nothing sticks out."""
    every = np.concatenate([*values, np.empty(0)])
    every = every[np.isfinite(every)]
    if len(every) < 20:
        return None
    usual, most = float(np.percentile(every, 97)), float(every.max())
    return 1.5 * usual if usual > 0 and most > 4 * usual else None


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


_GROUP = 0.8  # share of the room of an axis that its bars take
_BIAS = {
    'color': 'black',
    'marker': 'D',
    'markersize': 4.5,
    'markeredgecolor': 'white',
    'markeredgewidth': 0.7,
    'linestyle': '',
}
_Rows = Sequence[tuple[Pen, Mapping[str, Any]]]


def axes_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """A line of three panels per thing that chunks are compared with; None without any.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :raises VlaPruneError: matplotlib is not installed.
    """
    every = {
        words: {row['method']: row[name] for row in bag['rows'] if row.get(name)}
        for name, words in (('versus_dense', 'dense'), ('versus_recorded', 'recorded'))
    }
    shown = {words: rows for words, rows in every.items() if rows}
    if not shown:
        return None
    figure, axes = panels(
        len(shown), 3, 0.5 + 2.1 * len(shown), shared=False, width_ratios=(1, 1, 1.7)
    )
    for line, (words, compared) in zip(axes, shown.items(), strict=True):
        rows = [(drawn[method], comparison) for method, comparison in compared.items()]
        _error_bars(line[0], rows, AXES[:3], f'against {words}, mm')
        _error_bars(line[1], rows, AXES[3:], f'against {words}, deg')
        _sign_bars(line[2], rows)
    used = {method for compared in shown.values() for method in compared}
    return finish(figure, drawn, [m for m in drawn if m in used], [handle('signed mean', **_BIAS)])


def _error_bars(axis: Any, rows: _Rows, names: Sequence[str], label: str) -> None:
    for place, (pen, comparison) in enumerate(rows):
        found = [(comparison['axes'] or {}).get(name) or {} for name in names]
        x = _places(len(names), place, len(rows))
        axis.bar(x, known([f.get('mean_abs') for f in found]), _GROUP / len(rows),
                 color=pen.colour, edgecolor='white', linewidth=0.5)  # fmt: skip
        axis.plot(x, known([f.get('bias') for f in found]), **_BIAS)
    axis.axhline(0, color='black', linewidth=0.8)
    axis.set_ylabel(label, fontsize=9)
    _name(axis, names)


def _sign_bars(axis: Any, rows: _Rows) -> None:
    for place, (pen, comparison) in enumerate(rows):
        shares = 100 * known([(comparison['sign_agreement'] or {}).get(name) for name in AXES])
        x = _places(len(AXES), place, len(rows))
        axis.bar(x, shares, _GROUP / len(rows), color=pen.colour, edgecolor='white',
                 linewidth=0.5)  # fmt: skip
        for still in x[~np.isfinite(shares)]:
            axis.text(still, 3, 'no motion', rotation=90, fontsize=6.5, ha='center', va='bottom')
    axis.axhline(50, color='black', linewidth=0.8, linestyle=':')
    axis.set_ylim(0, 100)
    axis.set_ylabel('same sign, % of steps', fontsize=9)
    _name(axis, AXES)


def _places(groups: int, place: int, rows: int) -> np.ndarray:
    """Where one method's bars stand: beside those of the others, around each group's number."""
    return np.arange(groups) + (place - (rows - 1) / 2) * _GROUP / rows


def _name(axis: Any, names: Sequence[str]) -> None:
    dress(axis)
    axis.set_xticks(range(len(names)), [name.removeprefix('delta_') for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(False, axis='x')


_HEIGHTS = {'dense': 1.0, 'fine': 0.66, 'coarse': 0.33}
_OTHER = '#e7298a'
_SPEED = '#1d1f23'
_RECORDED = '#b8bcc4'


def modes_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """Speed over time, and below it the modes of every method; None without a query.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :raises VlaPruneError: matplotlib is not installed.
    """
    asked = {m: bag['series'][m] for m in drawn if len(bag['series'].get(m, {}).get('t_s', ()))}
    if not asked:
        return None
    heights = [3.0, *(1.0 for _ in asked)]
    figure, axes = panels(len(heights), 1, 2.0 + 0.52 * len(asked), height_ratios=heights)
    _speed(axes[0, 0], list(asked.values()))
    for axis, (method, series) in zip(axes[1:, 0], asked.items(), strict=True):
        _modes(axis, series)
        _lane(axis, drawn[method].label)
    axes[-1, 0].set_xlabel(TIME, fontsize=9)
    return finish(figure, drawn, [], _mode_handles(asked.values()))


def gripper_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """First gripper command of every chunk over what was recorded; None without any.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :raises VlaPruneError: matplotlib is not installed.
    """
    asked = {
        m: bag['series'][m]
        for m in drawn
        if np.isfinite(known(bag['series'].get(m, {}).get('gripper'))).any()
    }
    if not asked:
        return None
    recorded = bag.get('recorded_series')
    figure, axes = panels(len(asked), 1, 0.8 + 0.75 * len(asked))
    for axis, (method, series) in zip(axes[:, 0], asked.items(), strict=True):
        if recorded is not None:
            axis.step(recorded['t_s'], known(recorded['gripper']), where='post', color=_RECORDED,
                      linewidth=6, solid_capstyle='butt')  # fmt: skip
        axis.step(series['t_s'], known(series['gripper']), where='post',
                  color=drawn[method].colour, linewidth=1.3)  # fmt: skip
        dress(axis)
        _lane(axis, drawn[method].label)
        axis.set_yticks([0, 1], ['closed', 'open'])
        axis.set_ylim(-0.12, 1.12)
    axes[-1, 0].set_xlabel(TIME, fontsize=9)
    extra = [] if recorded is None else [handle('recorded', color=_RECORDED, linewidth=6)]
    return finish(figure, drawn, list(asked), extra)


def _speed(axis: Any, every: Sequence[Mapping[str, Any]]) -> None:
    """The speed is that of the bag: the method that was told most of it shows it."""
    best = max(every, key=lambda series: int(np.isfinite(known(series['speed_m_s'])).sum()))
    values = known(best['speed_m_s'])
    axis.set_ylabel('speed, m/s', fontsize=9)
    dress(axis)
    if not np.isfinite(values).any():
        axis.set_yticks([])
        axis.text(0.5, 0.5, 'speed unknown', transform=axis.transAxes, ha='center', fontsize=9)
        return
    line = windows(best['t_s'], values, MOST_POINTS)
    if not line.whole:
        axis.fill_between(line.t_s, line.low, line.high, color=_SPEED, alpha=0.2, linewidth=0)
    axis.plot(line.t_s, line.middle, color=_SPEED, linewidth=1.2)
    axis.set_ylim(bottom=0)


def _modes(axis: Any, series: Mapping[str, Any]) -> None:
    stretches = runs(series['t_s'], series['mode'])
    lengths = Counter[str]()
    for _, length, mode in stretches:
        lengths[mode] += length
    for mode, _ in lengths.most_common():  # rare ones last: they stay on top
        if not mode:
            continue
        bars = [(begin, length) for begin, length, label in stretches if label == mode]
        # Without snapping and with a thin edge, queries narrower than a pixel are still seen.
        axis.broken_barh(bars, (0, _HEIGHTS.get(mode, 1.0)), linewidth=0.3, snap=False,
                         color=MODE_COLOURS.get(mode, _OTHER))  # fmt: skip
    mark_refusals(axis, series, 'black', 0.5)
    axis.set_ylim(0, 1.08)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    for side in ('top', 'right', 'left'):
        axis.spines[side].set_visible(False)


def _lane(axis: Any, label: str) -> None:
    axis.set_ylabel(label, fontsize=8, rotation=0, ha='right', va='center')


def _mode_handles(every: Any) -> list[Any]:
    """Entries of the modes that occur, those with the most tokens first."""
    there = {mode for series in every for mode in series['mode'] if mode}
    order = [*(m for m in _HEIGHTS if m in there), *sorted(there - set(_HEIGHTS))]
    handles = [
        handle(mode, color=MODE_COLOURS.get(mode, _OTHER), marker='s', markersize=9, linestyle='')
        for mode in order
    ]
    refused = any(any(series['refusal']) for series in every)
    return [*handles, refusal_handle()] if refused else handles


_DPI = 120
_MOST_ERRORS = 120  # errors jump from query to query: what lasts is seen in medians
_WINDOWS = ' With more than {} queries: medians of windows, shaded from least to largest.'


@dataclass(frozen=True)
class Picture:
    """A figure that stands in the page itself.

    :param source: PNG as data URI.
    :param text: what it shows, and how to read it.
    """

    title: str
    source: str
    text: str


def bag_pictures(bag: Mapping[str, Any], methods: Sequence[str]) -> list[Picture]:
    """Every figure of a bag that has something to show.

    :param bag: a bag of the result dict of ``vla-prune replay``.
    :param methods: of the whole result: they give the colours.
    :raises VlaPruneError: matplotlib is not installed.
    """
    figure_class()
    bag, drawn = filled(bag), pens(methods)
    made = ((title, make(bag, drawn), text) for title, make, text in _FIGURES)
    return [Picture(title, png_uri(f), text) for title, f, text in made if f is not None]


def png_uri(figure: Any) -> str:
    """A figure as data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=_DPI)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')


def cost_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """Latency and visual tokens over time; refused queries are crosses at the bottom."""
    return _over_time(
        bag,
        drawn,
        {'latency_ms': 'latency, ms', 'visual_tokens': 'visual tokens'},
        MOST_POINTS,
        refused=any(any(series['refusal']) for series in bag['series'].values()),
    )


def error_figure(bag: Mapping[str, Any], drawn: Mapping[str, Pen]) -> Any | None:
    """Translation error of each chunk over time, against dense and against what was recorded."""
    return _over_time(
        bag,
        drawn,
        {
            'dense_mm': 'against dense,\nmm per step',
            'recorded_mm': 'against recorded,\nmm per step',
        },
        _MOST_ERRORS,
        refused=False,
    )


def _over_time(
    bag: Mapping[str, Any],
    drawn: Mapping[str, Pen],
    labels: Mapping[str, str],
    most: int,
    refused: bool,
) -> Any | None:
    """A panel per series that has values; None where there is nothing to show."""
    there = {name: lines for name in labels if (lines := lines_of(bag, name))}
    if not there and not refused:
        return None
    shown = list(there) or list(labels)[:1]
    figure, axes = panels(len(shown), 1, 0.75 + 1.8 * len(shown))
    for axis, name in zip(axes[:, 0], shown, strict=True):
        draw_lines(axis, there.get(name, {}), drawn, most)
        axis.set_ylabel(labels[name], fontsize=9)
    if refused:
        for method, series in bag['series'].items():
            mark_refusals(axes[0, 0], series, drawn[method].colour, 0.0)
    axes[-1, 0].set_xlabel(TIME, fontsize=9)
    used = {method for lines in there.values() for method in lines}
    return finish(
        figure, drawn, [m for m in drawn if m in used], [refusal_handle()] if refused else []
    )


_FIGURES = (
    (
        'Latency and visual tokens',
        cost_figure,
        'Time of each query and the visual tokens that reach the last layer. Crosses: refused '
        'queries. Arrows: values beyond the axis, with the largest.'
        + _WINDOWS.format(MOST_POINTS),
    ),
    (
        'Modes over speed',
        modes_figure,
        'Speed of the end effector as the pruner was told, and below it the mode of every query: '
        'high for dense, half for fine, low for coarse.',
    ),
    (
        'Error over time',
        error_figure,
        'Mean distance between the translations of a chunk and of what it is compared with.'
        + _WINDOWS.format(_MOST_ERRORS),
    ),
    (
        'Error per axis',
        axes_figure,
        'Mean absolute difference per step and axis, its signed mean as a diamond, and how often '
        'both move the same way.',
    ),
    (
        'Gripper',
        gripper_figure,
        'First gripper command of every chunk; grey behind it what was recorded.',
    ),
)
