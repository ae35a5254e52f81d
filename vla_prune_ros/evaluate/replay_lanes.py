"""Pictures with a lane per method: its modes below the arm's speed, and its gripper."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .replay_drawing import (
    MOST_POINTS,
    TIME,
    dress,
    finish,
    handle,
    mark_refusals,
    panels,
    refusal_handle,
)
from .replay_series import Pen, known, runs, windows
from .results_plot import MODE_COLOURS

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
