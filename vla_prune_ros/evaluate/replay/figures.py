"""Figures of one replayed bag: cost, modes, error, axes, gripper; methods keep their colours."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..figures import MARKERS, MODE_COLOURS, OTHER_MODE, figure_class, handle, panels
from .metrics import AXES, Comparison
from .results import BagResult, Series

MOST_POINTS = 400  # a line of more points is drawn as windows
MOST_ERRORS = 120  # errors jump from query to query: what lasts is seen in medians

# Distinct with every kind of colour vision, and from the colours of the modes.
_PALETTE = ('#0072b2', '#e69f00', '#882255', '#56b4e9', '#332288', '#999933')
_DENSE, _SPEED, _RECORDED = '#4d4d4d', '#1d1f23', '#b8bcc4'
_MODE_HEIGHTS = {'dense': 1.0, 'fine': 0.66, 'coarse': 0.33}
_REFUSED = {'marker': 'x', 'markersize': 7, 'markeredgewidth': 1.8, 'linestyle': ''}
_BIAS = {'color': 'black', 'marker': 'D', 'linestyle': '', 'markersize': 4.5}
_BIAS |= {'markeredgecolor': 'white', 'markeredgewidth': 0.7}
_LANE = {'fontsize': 8, 'rotation': 0, 'ha': 'right', 'va': 'center'}
_LONGEST_NAME = 36
_PAUSE = 4.0  # of the usual time between two queries
_BARS = 0.8  # of the space of a group of bars
_WIDTH, _DPI = 10.4, 120
_STYLE = {
    'axes.axisbelow': True,
    'axes.grid': True,
    'axes.labelsize': 9,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.6,
    'legend.fontsize': 8,
    'legend.frameon': False,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
}


@dataclass(frozen=True)
class Pen:
    """How a method is drawn in every figure."""

    label: str
    colour: str
    marker: str


Pens = Mapping[str, Pen]
Lines = Mapping[str, tuple[Sequence[float], np.ndarray]]
"""Method -> times in s and float64 (N,) values, NaN where unknown."""


def bag_figures(bag: BagResult, methods: Sequence[str]) -> dict[str, str]:
    """Name -> PNG as data URI, of the figures that have something to show.

    :param methods: of all bags: they give the colours.
    :raises VlaPruneError: matplotlib is not installed.
    """
    figure_class()
    from matplotlib import rc_context

    drawn, found = pens(methods), {}
    with rc_context(_STYLE):
        for draw in (cost_figure, modes_figure, error_figure, axes_figure, gripper_figure):
            if (figure := draw(bag, drawn)) is not None:
                buffer = io.BytesIO()
                figure.savefig(buffer, format='png', dpi=_DPI)
                coded = base64.b64encode(buffer.getvalue()).decode('ascii')
                name = draw.__name__.removesuffix('_figure')
                found[name] = f'data:image/png;base64,{coded}'
    return found


def pens(methods: Sequence[str]) -> dict[str, Pen]:
    """The same wherever the methods are the same; dense is grey."""
    others = [method for method in methods if method != 'dense']
    colours = {m: _PALETTE[i % len(_PALETTE)] for i, m in enumerate(others)} | {'dense': _DENSE}
    return {
        method: Pen(plot_text(method), colours[method], MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    }


def plot_text(name: str) -> str:
    """A name that matplotlib shows as it is: no formula, no hidden label, not endless."""
    short = name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}…'
    text = ''.join(c if c.isprintable() else '?' for c in short).replace('$', r'\$')
    return f' {text}' if text.startswith('_') else text or '?'


def windows(t_s: Sequence[float], values: np.ndarray, most: int) -> np.ndarray:
    """float64 (4, N): times, medians, least and largest values of windows of a line.

    Up to ``most`` points each has its own, and a long pause one of NaN, so that no line is drawn
    through it; beyond, windows have equally many points.
    """
    times = np.asarray(t_s, np.float64)
    if len(times) <= most:
        steps = np.diff(times)
        if len(steps):
            after = 1 + np.flatnonzero(steps > _PAUSE * np.median(steps))
            times = np.insert(times, after, times[after - 1] + 0.5 * steps[after - 1])
            values = np.insert(values, after, np.nan)
        return np.stack([times, values, values, values])
    out = np.full((4, most // 2), np.nan)
    parts = (np.array_split(of, most // 2) for of in (times, values))
    for i, (part, found) in enumerate(zip(*parts, strict=True)):
        out[0, i], found = part.mean(), found[np.isfinite(found)]
        if len(found):
            out[1:, i] = np.median(found), found.min(), found.max()
    return out


def durations(t_s: Sequence[float]) -> np.ndarray:
    """float64 (N,): a query lasts until the next one, before a pause as long as usual."""
    steps = np.diff(np.asarray(t_s, np.float64))
    usual = (float(np.median(steps)) if len(steps) else 0.0) or 1.0
    return np.append(np.where((steps > 0) & (steps <= 3 * usual), steps, usual), usual)


def axis_limit(values: Iterable[np.ndarray]) -> float | None:
    """Where to cut an axis that a few outliers would flatten; None where there are none."""
    every = np.concatenate([*values, np.empty(0)])
    every = every[np.isfinite(every)]
    if len(every) < 20:
        return None
    usual, most = float(np.percentile(every, 97)), float(every.max())
    return 1.5 * usual if usual > 0 and most > 4 * usual else None


def _lines(bag: BagResult, name: str) -> Lines:
    every = {m: (s.t_s, np.array(getattr(s, name), float)) for m, s in bag.series.items()}
    return {m: line for m, line in every.items() if np.isfinite(line[1]).any()}


def cost_figure(bag: BagResult, drawn: Pens) -> Any | None:
    labels = {'latency_ms': 'latency, ms', 'visual_tokens': 'visual tokens'}
    refused = any(any(series.refusal) for series in bag.series.values())
    return _over_time(bag, drawn, labels, MOST_POINTS, refused)


def error_figure(bag: BagResult, drawn: Pens) -> Any | None:
    sides = {'dense_mm': 'dense', 'recorded_mm': 'recorded'}
    labels = {name: f'against {side},\nmm per step' for name, side in sides.items()}
    return _over_time(bag, drawn, labels, MOST_ERRORS, refused=False)


def _over_time(
    bag: BagResult, drawn: Pens, labels: Mapping[str, str], most: int, refused: bool
) -> Any | None:
    there = {name: lines for name in labels if (lines := _lines(bag, name))}
    if not there and not refused:
        return None
    names = list(there) or list(labels)[:1]
    figure, axes = _timed(len(names), 0.75 + 1.8 * len(names))
    for axis, name in zip(axes, names, strict=True):
        _draw_lines(axis, there.get(name, {}), drawn, most)
        axis.set_ylabel(labels[name])
    if refused:
        for method, series in bag.series.items():
            _mark_refusals(axes[0], series, drawn[method].colour, height=0.0)
    used = {method for lines in there.values() for method in lines}
    return _finish(figure, drawn, used, refused=refused)


def modes_figure(bag: BagResult, drawn: Pens) -> Any | None:
    asked = {m: bag.series[m] for m in drawn if m in bag.series and bag.series[m].t_s}
    if not asked:
        return None
    heights = [3.0, *(1.0 for _ in asked)]
    figure, (first, *lanes) = _timed(len(heights), 2.0 + 0.52 * len(asked), heights)
    _draw_speed(first, asked.values())
    for axis, (method, series) in zip(lanes, asked.items(), strict=True):
        _draw_modes(axis, series)
        axis.set_ylabel(drawn[method].label, **_LANE)
    there = {mode for series in asked.values() for mode in series.mode if mode}
    order = [*(m for m in _MODE_HEIGHTS if m in there), *sorted(there - set(_MODE_HEIGHTS))]
    style = {'marker': 's', 'markersize': 9, 'linestyle': ''}
    modes = [handle(mode, color=MODE_COLOURS.get(mode, OTHER_MODE), **style) for mode in order]
    refused = any(any(series.refusal) for series in asked.values())
    return _finish(figure, drawn, (), modes, refused=refused)


def gripper_figure(bag: BagResult, drawn: Pens) -> Any | None:
    asked = {m: line for m, line in _lines(bag, 'gripper').items() if m in drawn}
    if not asked:
        return None
    recorded = bag.recorded_series
    grey = {'color': _RECORDED, 'linewidth': 6}
    figure, axes = _timed(len(asked), 0.8 + 0.75 * len(asked))
    for axis, (method, (t_s, gripper)) in zip(axes, asked.items(), strict=True):
        if recorded is not None:
            values = np.array(recorded['gripper'], float)
            axis.step(recorded['t_s'], values, where='post', solid_capstyle='butt', **grey)
        axis.step(t_s, gripper, where='post', color=drawn[method].colour, linewidth=1.3)
        axis.set_ylabel(drawn[method].label, **_LANE)
        axis.set_yticks([0, 1], ['closed', 'open'])
        axis.set_ylim(-0.12, 1.12)
    return _finish(figure, drawn, asked, [handle('recorded', **grey)] if recorded else [])


def _draw_lines(axis: Any, lines: Lines, drawn: Pens, most: int) -> None:
    """A line per method from zero up; outliers that would flatten the rest are arrows."""
    for place, (method, (t_s, values)) in enumerate(lines.items()):
        pen, (times, middle, low, high) = drawn[method], windows(t_s, values, most)
        shade = 0.5 / (1 + len(lines))  # of many lines, the shades must not hide the lines
        axis.fill_between(times, low, high, color=pen.colour, alpha=shade, lw=0)
        every = max(len(times) // 10, 1)  # about ten markers, not on those of the others
        axis.plot(times, middle, color=pen.colour, linewidth=1.2, marker=pen.marker,
                  markersize=4, markevery=(place * every // len(lines), every))  # fmt: skip
    top = axis_limit(values for _, values in lines.values())
    if top is not None:
        farthest = (top, 0.0)
        for method, (t_s, values) in lines.items():
            above = [(value, t) for t, value in zip(t_s, values, strict=True) if value > top]
            if above:
                times, height = [t for _, t in above], [0.95 * top] * len(above)
                axis.plot(times, height, '^', color=drawn[method].colour, markersize=6)
            farthest = max([farthest, *above])
        style = {'fontsize': 8, 'textcoords': 'offset points', 'xytext': (6, -4)}
        axis.annotate(f'{farthest[0]:.0f}', (farthest[1], 0.95 * top), **style)
    highest = max((float(np.nanmax(values)) for _, values in lines.values()), default=1.0)
    axis.set_ylim(0, top or 1.05 * highest or 1.0)


def _draw_speed(axis: Any, every: Iterable[Series]) -> None:
    """The speed is that of the bag: the method that knew most of it shows it."""
    best = max(every, key=lambda series: int(np.isfinite(np.array(series.speed_m_s, float)).sum()))
    values = np.array(best.speed_m_s, float)
    axis.set_ylabel('speed, m/s')
    if np.isfinite(values).any():
        _draw_lines(axis, {'': (best.t_s, values)}, {'': Pen('', _SPEED, '')}, MOST_POINTS)
    else:
        axis.set_yticks([])
        axis.text(0.5, 0.5, 'speed unknown', transform=axis.transAxes, ha='center', fontsize=9)


def _draw_modes(axis: Any, series: Series) -> None:
    bars: dict[str, list[tuple[float, float]]] = {}
    for begin, length, mode in zip(series.t_s, durations(series.t_s), series.mode, strict=True):
        if mode:
            bars.setdefault(mode, []).append((begin, length))
    for mode, spans in sorted(bars.items(), key=lambda item: -len(item[1])):  # rare ones on top
        # Without snapping and with a thin edge, queries narrower than a pixel are still seen.
        axis.broken_barh(spans, (0, _MODE_HEIGHTS.get(mode, 1.0)), linewidth=0.3, snap=False,
                         color=MODE_COLOURS.get(mode, OTHER_MODE))  # fmt: skip
    _mark_refusals(axis, series, 'black', height=0.5)
    axis.set_ylim(0, 1.08)
    axis.set_yticks([])
    axis.grid(False)
    axis.spines['left'].set_visible(False)


def _mark_refusals(axis: Any, series: Series, colour: str, height: float) -> None:
    """A cross at every refused query, at a height of 0 to 1 of the axis."""
    times = [t for t, refusal in zip(series.t_s, series.refusal, strict=True) if refusal]
    if times:  # an empty line takes part in the layout, at the corner of the figure
        axis.plot(times, [height] * len(times), color=colour, clip_on=False, zorder=5,
                  transform=axis.get_xaxis_transform(), **_REFUSED)  # fmt: skip


def axes_figure(bag: BagResult, drawn: Pens) -> Any | None:
    """Error, bias and sign agreement: three panels per side that chunks are compared with."""
    every = {
        side: {r.method: found for r in bag.rows if (found := getattr(r, f'versus_{side}'))}
        for side in ('dense', 'recorded')
    }
    shown = {side: rows for side, rows in every.items() if rows}
    if not shown:
        return None
    size = _WIDTH, 0.5 + 2.1 * len(shown)
    figure, axes = panels(len(shown), 3, size, gridspec_kw={'width_ratios': (1, 1, 1.7)})
    for line, (side, compared) in zip(axes, shown.items(), strict=True):
        rows = [(drawn[method], comparison) for method, comparison in compared.items()]
        _draw_errors(line[0], rows, AXES[:3], f'against {side}, mm')
        _draw_errors(line[1], rows, AXES[3:], f'against {side}, deg')
        _draw_signs(line[2], rows)
    used = {method for compared in shown.values() for method in compared}
    return _finish(figure, drawn, used, [handle('signed mean', **_BIAS)])


def _draw_errors(
    axis: Any, rows: Sequence[tuple[Pen, Comparison]], names: Sequence[str], label: str
) -> None:
    for place, (pen, comparison) in enumerate(rows):
        found = [comparison.axes[name] for name in names]
        x = _draw_bars(axis, [f['mean_abs'] for f in found], pen, place, len(rows))
        axis.plot(x, [f['bias'] for f in found], **_BIAS)
    axis.axhline(0, color='black', linewidth=0.8)
    _name_groups(axis, names, label)


def _draw_signs(axis: Any, rows: Sequence[tuple[Pen, Comparison]]) -> None:
    for place, (pen, comparison) in enumerate(rows):
        percentages = 100 * np.array([comparison.sign_agreement[n] for n in AXES], float)
        x = _draw_bars(axis, percentages, pen, place, len(rows))
        for still in x[~np.isfinite(percentages)]:
            axis.text(still, 3, 'no motion', rotation=90, fontsize=6.5, ha='center', va='bottom')
    axis.axhline(50, color='black', linewidth=0.8, linestyle=':')
    axis.set_ylim(0, 100)
    _name_groups(axis, AXES, 'same sign, % of steps')


def _draw_bars(axis: Any, heights: Sequence[float], pen: Pen, place: int, rows: int) -> np.ndarray:
    x = np.arange(len(heights)) + (place - (rows - 1) / 2) * _BARS / rows
    axis.bar(x, heights, _BARS / rows, color=pen.colour, edgecolor='white', linewidth=0.5)
    return x


def _name_groups(axis: Any, names: Sequence[str], label: str) -> None:
    axis.set_ylabel(label)
    axis.set_xticks(range(len(names)), [name.removeprefix('delta_') for name in names])
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(False, axis='x')


def _timed(rows: int, height: float, ratios: Sequence[float] = ()) -> tuple[Any, Sequence[Any]]:
    """Axes one below the other, over the time of the bag."""
    heights = {'height_ratios': ratios} if ratios else {}
    figure, axes = panels(rows, 1, (_WIDTH, height), sharex=True, gridspec_kw=heights)
    axes[-1, 0].set_xlabel('time since the start of the bag, s')
    return figure, axes[:, 0]


def _finish(
    figure: Any,
    drawn: Pens,
    methods: Iterable[str],
    more: Sequence[Any] = (),
    *,
    refused: bool = False,
) -> Any:
    """With a legend of these methods and handles on top."""
    used = [pen for method, pen in drawn.items() if method in set(methods)]
    handles = [handle(p.label, color=p.colour, marker=p.marker, linewidth=2) for p in used]
    handles += [*more, *[handle('refused query', color='black', **_REFUSED)] * refused]
    longest = max((len(one.get_label()) for one in handles), default=1)
    columns = max(1, min(len(handles), int(_WIDTH / (0.45 + 0.075 * longest))))  # in the figure
    if handles:
        figure.legend(handles=handles, loc='upper center', ncol=columns)
    top = (0.06 + 0.19 * -(-len(handles) // columns)) / figure.get_figheight()
    figure.tight_layout(h_pad=0.5, rect=(0, 0, 1, 1 - top))
    return figure
