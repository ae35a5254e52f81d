"""Figures against the hand-made result dict of ``replay_result``: what is drawn is read back from
the axes, and windows and runs are compared with loops."""

import base64

import cv2
import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='the plot extra is not installed')

from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from replay_result import METHODS, bag, empty_bag, row, series

from vla_prune_ros.evaluate.figures import MODE_COLOURS
from vla_prune_ros.evaluate.replay.figures import (
    axes_figure,
    bag_figures,
    cost_figure,
    durations,
    error_figure,
    gripper_figure,
    modes_figure,
    pens,
    plot_text,
    windows,
)

ODD = ('lightvla@reference-lightvla', '{name: specprune, budget: [56, 52]}', '_$x_1$ \n', 'x' * 90)
PENS = pens(METHODS)


def lines(axis):
    """Colour -> points of the lines of an axis that has any points."""
    return {
        line.get_color(): [tuple(point) for point in line.get_xydata() if np.isfinite(point).all()]
        for line in axis.lines
        if line.get_linestyle() != 'None'
    }


def crosses(axis):
    """Times of refused queries."""
    return [t for line in axis.lines if line.get_marker() == 'x' for t in line.get_xdata()]


def long_series(method, count):
    values = np.arange(count, dtype=float)
    return series(
        method, t_s=(0.2 * values).tolist(), refusal=[''] * count,
        mode=['dense' if i % 24 == 0 else 'fine' for i in range(count)],
        **{name: (30 + values % 7).tolist() for name in
           ('latency_ms', 'visual_tokens', 'speed_m_s', 'dense_mm', 'recorded_mm', 'gripper')},
    )  # fmt: skip


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('methods', 'count'), [(METHODS, 4), (('dense',), 1), (ODD, 1), (ODD, 3000)]
)
def test_every_figure_is_a_small_png(methods, count):
    one = bag(methods=methods)
    if count != 4:
        one = bag(methods=methods, series={m: long_series(m, count) for m in methods})
    figures = bag_figures(one, methods)
    assert set(figures) == {'cost', 'modes', 'error', 'axes', 'gripper'}
    for source in figures.values():
        head, _, body = source.partition(',')
        assert head == 'data:image/png;base64' and len(body) < 4e5
        image = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
        assert image.std() > 5


def test_where_nothing_is_known_there_is_no_figure():
    assert bag_figures(empty_bag(), METHODS) == bag_figures(bag(rows=(), series={}), METHODS) == {}
    alone = {'dense': series('dense', recorded_mm=[None] * 4)}
    assert error_figure(bag(series=alone), PENS) is None
    assert axes_figure(bag(rows=[row('dense', versus_recorded=None)]), PENS) is None


def test_cost_and_error_over_time():
    latency, tokens = cost_figure(bag(), PENS).axes
    colours = {m: pen.colour for m, pen in PENS.items()}
    assert lines(latency)[colours['specprune']] == [(0.5, 80), (1, 81), (2, 82)]
    assert lines(tokens)[colours['specprune']] == [(0.5, 128), (1, 128), (2, 128)]
    assert crosses(latency) == [1.5, 1.5] and not crosses(tokens)
    assert latency.get_ylim()[0] == tokens.get_ylim()[0] == 0
    dense, recorded = error_figure(bag(), PENS).axes
    assert lines(dense) == {colours['specprune']: [(0.5, 1), (1, 2), (2, 1.5)]}
    assert lines(recorded)[colours['dense']] == [(0.5, 6), (1, 7), (2, 8)]
    none = {m: series(m, recorded_mm=[None] * 4) for m in METHODS}
    assert len(error_figure(bag(series=none), PENS).axes) == 1


def test_outliers_do_not_flatten_the_rest():
    slow = long_series('dense', 50)
    slow.latency_ms[:] = [2000.0] + [40.0] * 49
    axis = cost_figure(bag(series={'dense': slow}), PENS).axes[0]
    assert axis.get_ylim() == (0, 60)
    arrows = [line.get_xdata().tolist() for line in axis.lines if line.get_linestyle() == 'None']
    assert arrows == [[0.0]]


def test_modes_last_until_the_next_query():
    speed, _, pruned = modes_figure(bag(), PENS).axes
    assert list(lines(speed).values()) == [[(0.5, 0), (1, 0.25), (2, 0.125)]]
    bars = {}
    for bar in pruned.collections:
        extents = [path.get_extents() for path in bar.get_paths()]
        bars[to_hex(bar.get_facecolor()[0])] = [(e.x0, e.x1) for e in extents]
    assert bars == {
        MODE_COLOURS['dense']: [(0.5, 1)],
        MODE_COLOURS['coarse']: [(1, 1.5)],
        MODE_COLOURS['fine']: [(2, 2.5)],
    }
    assert crosses(pruned) == [1.5]


def test_axes_show_error_bias_and_sign():
    translation, rotation, sign, *recorded = axes_figure(bag(), PENS).axes
    assert [patch.get_height() for patch in translation.patches] == [1.375, 2.375, 3.375]
    assert [patch.get_height() for patch in rotation.patches] == [4.375, 5.375, 6.375]
    bias = [line.get_ydata().tolist() for line in translation.lines if line.get_marker() == 'D']
    assert bias == [[-2.5, -1.5, -0.5]]
    assert [patch.get_height() for patch in sign.patches][:5] == [75] * 5
    assert len(recorded[0].patches) == 6  # both methods against the recorded actions


def test_gripper_lies_over_what_was_recorded():
    recorded, own = gripper_figure(bag(), PENS).axes[1].lines
    assert recorded.get_xydata()[[0, 2]].tolist() == [[0.5, 1], [1.5, 0]]
    assert own.get_color() == PENS['specprune'].colour
    assert own.get_xydata()[[0, 1, 3]].tolist() == [[0.5, 1], [1, 1], [2, 0]]


def test_a_method_has_one_pen_and_its_name_is_shown_as_it_is():
    names = ['specprune', 'dense', *'abcd']
    drawn = pens(names)
    assert len({(pen.colour, pen.marker) for pen in drawn.values()}) == len(names)
    assert drawn['dense'].colour == pens(['dense'])['dense'].colour
    assert not {pen.colour for pen in drawn.values()} & set(MODE_COLOURS.values())
    for name in ('$x$', r'a\$b$c$', '_hidden', *ODD):
        assert not is_math_text(plot_text(name))
        assert plot_text(name).isprintable() and not plot_text(name).startswith('_')


def test_windows_are_medians_and_extremes():
    random = np.random.default_rng(5)
    t_s, values = np.arange(1000) * 0.1, random.normal(size=1000)
    values[:10], values[500] = np.nan, 99.0
    found = windows(t_s, values, 200)
    assert found.shape == (4, 100)
    for i in range(100):
        part = [v for v in values[10 * i : 10 * i + 10] if np.isfinite(v)]
        expected = [np.median(part), min(part), max(part)] if part else [np.nan] * 3
        np.testing.assert_allclose(found[:, i], [0.1 * (10 * i + 4.5), *expected])
    np.testing.assert_array_equal(windows(t_s[:200], values[:200], 200)[1:], [values[:200]] * 3)


def test_a_query_lasts_until_the_next_one_but_not_over_a_pause():
    found = durations([0.0, 0.5, 1.0, 1.6, 10.0, 10.5])
    np.testing.assert_allclose(found, [0.5, 0.5, 0.6, 0.5, 0.5, 0.5])
    assert durations([3.0]).tolist() == [1.0]


def test_no_line_is_drawn_through_a_pause():
    times, middle, *_ = windows([0.0, 0.2, 0.4, 3.4, 3.6], np.array([1.0, 2, 3, 4, 5]), 10)
    np.testing.assert_allclose(times, [0.0, 0.2, 0.4, 1.9, 3.4, 3.6])
    np.testing.assert_array_equal(middle, [1, 2, 3, np.nan, 4, 5])
    assert windows([1.0], np.ones(1), 10).shape == (4, 1)
