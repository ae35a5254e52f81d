"""Pictures of one replayed bag as they stand in the page: cost, modes, error, axes, gripper."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .replay_axes_plot import axes_figure
from .replay_drawing import (
    MOST_POINTS,
    TIME,
    draw_lines,
    finish,
    lines_of,
    mark_refusals,
    panels,
    refusal_handle,
)
from .replay_lanes import gripper_figure, modes_figure
from .replay_series import Pen, pens
from .replay_words import filled
from .results_plot import figure_class

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
