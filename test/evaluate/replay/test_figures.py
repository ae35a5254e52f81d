"""Figures against the hand-made result dict of ``replay_result``: what is drawn is read back from
the axes, and windows and runs are compared with loops."""

import base64
import sys

import cv2
import numpy as np
import pytest
from replay_result import AXES, METHODS, bag, empty_bag, row, series

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.figures import MODE_COLOURS
from vla_prune_ros.evaluate.replay import figures as replay_series
from vla_prune_ros.evaluate.replay.figures import (
    axes_figure,
    axis_limit,
    bag_figures,
    cost_figure,
    durations,
    error_figure,
    gripper_figure,
    modes_figure,
    pens,
    windows,
)

NAMES = ['cost', 'modes', 'error', 'axes', 'gripper']
ODD = ('lightvla@reference-lightvla', '{name: specprune, budget: [56, 52]}', '_$x_1$ \n', 'x' * 90)


@pytest.fixture(autouse=True)
def _matplotlib(request):
    if 'missing' not in request.node.name:
        pytest.importorskip('matplotlib', reason='the plot extra is not installed')


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


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
def test_every_figure_is_a_png_of_the_page_s_width(methods, count):
    one = bag(methods=methods)
    if count != 4:
        one = bag(methods=methods, series={m: long_series(m, count) for m in methods})
    figures = bag_figures(one, methods)
    assert list(figures) == NAMES
    for source in figures.values():
        head, _, body = source.partition(',')
        assert head == 'data:image/png;base64' and len(body) < 4e5
        image = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
        assert image.shape[1] == 1248 and image.std() > 5


def test_an_empty_bag_has_no_figure():
    assert bag_figures(empty_bag(), METHODS) == {}
    assert bag_figures(bag(rows=(), series={}), METHODS) == {}


def test_cost_shows_latency_tokens_and_refusals():
    figure = cost_figure(bag(), pens(METHODS))
    latency, tokens = figure.axes
    colour = pens(METHODS)['specprune'].colour
    assert lines(latency)[colour] == [(0.5, 80), (1, 81), (2, 82)]
    assert lines(tokens)[colour] == [(0.5, 128), (1, 128), (2, 128)]
    assert crosses(latency) == [1.5, 1.5] and not crosses(tokens)
    assert (latency.get_ylabel(), tokens.get_ylabel()) == ('latency, ms', 'visual tokens')
    assert tokens.get_xlabel().endswith(', s')
    assert latency.get_ylim()[0] == tokens.get_ylim()[0] == 0
    assert legend(figure) == ['dense', 'specprune', 'refused query']


def test_outliers_do_not_flatten_the_rest():
    count = 50
    slow = long_series('dense', count)
    slow.latency_ms[:] = [2000.0] + [40.0] * (count - 1)
    axis = cost_figure(bag(series={'dense': slow}), pens(METHODS)).axes[0]
    assert axis.get_ylim() == (0, 60)
    assert [text.get_text() for text in axis.texts] == ['2000']
    arrows = [line.get_xdata().tolist() for line in axis.lines if line.get_linestyle() == 'None']
    assert arrows == [[0.0]]


def test_error_shows_only_what_was_compared():
    both = error_figure(bag(), pens(METHODS))
    dense, recorded = both.axes
    colours = {m: pen.colour for m, pen in pens(METHODS).items()}
    assert lines(dense) == {colours['specprune']: [(0.5, 1), (1, 2), (2, 1.5)]}
    assert lines(recorded)[colours['dense']] == [(0.5, 6), (1, 7), (2, 8)]
    none = {m: series(m, recorded_mm=[None] * 4) for m in METHODS}
    alone = error_figure(bag(series=none), pens(METHODS))
    assert [axis.get_ylabel() for axis in alone.axes] == ['against dense,\nmm per step']
    assert legend(alone) == ['specprune']
    nothing = {'dense': series('dense', recorded_mm=[None] * 4)}
    assert error_figure(bag(series=nothing), pens(METHODS)) is None


def test_modes_stand_below_the_speed():
    from matplotlib.colors import to_hex

    figure = modes_figure(bag(), pens(METHODS))
    speed, dense, pruned = figure.axes
    assert list(lines(speed).values()) == [[(0.5, 0), (1, 0.25), (2, 0.125)]]
    assert speed.get_ylabel() == 'speed, m/s'
    assert [axis.get_ylabel() for axis in (dense, pruned)] == list(METHODS)
    bars = {}
    for bar in pruned.collections:
        extents = [path.get_extents() for path in bar.get_paths()]
        bars[to_hex(bar.get_facecolor()[0])] = [(e.x0, e.x1, e.y1) for e in extents]
    assert bars == {  # each as long as until the next query, the higher the more it sees
        MODE_COLOURS['dense']: [(0.5, 1, 1)],
        MODE_COLOURS['coarse']: [(1, 1.5, pytest.approx(1 / 3, abs=0.01))],
        MODE_COLOURS['fine']: [(2, 2.5, pytest.approx(2 / 3, abs=0.01))],
    }
    assert crosses(pruned) == [1.5]
    assert legend(figure) == ['dense', 'fine', 'coarse', 'refused query']


def test_axes_show_error_bias_and_sign():
    figure = axes_figure(bag(), pens(METHODS))
    assert len(figure.axes) == 6  # dense and recorded, by mm, deg and sign
    translation, rotation, sign = figure.axes[:3]
    assert [patch.get_height() for patch in translation.patches] == [1.375, 2.375, 3.375]
    assert [patch.get_height() for patch in rotation.patches] == [4.375, 5.375, 6.375]
    diamonds = [
        line.get_ydata().tolist() for line in translation.lines if line.get_marker() == 'D'
    ]
    assert diamonds == [[-2.5, -1.5, -0.5]]
    assert [patch.get_height() for patch in sign.patches][:5] == [75] * 5
    assert [text.get_text() for text in sign.texts] == ['no motion']
    assert [tick.get_text() for tick in sign.get_xticklabels()] == [a[6:] for a in AXES]
    assert translation.get_ylabel() == 'against dense, mm'
    assert len(figure.axes[3].patches) == 6  # both methods against the recorded actions


def test_axes_that_nothing_was_compared_on_are_left_out():
    rows = [row('dense', versus_recorded=None)]
    assert axes_figure(bag(rows=rows), pens(METHODS)) is None


def test_gripper_stands_over_what_was_recorded():
    figure = gripper_figure(bag(), pens(METHODS))
    recorded, own = figure.axes[1].lines
    assert recorded.get_xydata()[[0, 2]].tolist() == [[0.5, 1], [1.5, 0]]
    assert own.get_color() == pens(METHODS)['specprune'].colour
    assert own.get_xydata()[[0, 1, 3]].tolist() == [[0.5, 1], [1, 1], [2, 0]]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ['closed', 'open']
    assert legend(figure) == [*METHODS, 'recorded']
    assert legend(gripper_figure(bag(recorded_series=None), pens(METHODS))) == list(METHODS)


def test_a_method_has_one_colour_and_dense_is_grey():
    names = ['specprune', 'dense', *'abcd']
    drawn = pens(names)
    assert len({(pen.colour, pen.marker) for pen in drawn.values()}) == len(names)
    assert drawn['dense'].colour == pens(['dense'])['dense'].colour
    assert not {pen.colour for pen in drawn.values()} & set(MODE_COLOURS.values())
    assert list(drawn) == names


def test_names_are_shown_as_they_are():
    from matplotlib.cbook import is_math_text

    for name in ('$x$', r'a\$b$c$', '_hidden', ODD[1]):
        assert not is_math_text(replay_series.plot_text(name))
    assert replay_series.plot_text(ODD[1]) == ODD[1]
    assert not replay_series.plot_text('_hidden').startswith('_')
    assert len(replay_series.plot_text('x' * 90)) < 40
    assert replay_series.plot_text('a\nb') == 'a?b' and replay_series.plot_text('')


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


def test_the_axis_is_cut_for_few_outliers_only():
    assert axis_limit([np.full(50, 10.0)]) is None
    assert axis_limit([np.r_[np.full(50, 10.0), 30.0]]) is None
    assert axis_limit([np.r_[np.full(50, 10.0), 300.0], np.array([np.nan])]) == 15
    assert axis_limit([np.r_[np.full(5, 10.0), 300.0]]) is None and axis_limit([]) is None
    assert axis_limit([np.zeros(50)]) is None


def test_a_missing_matplotlib_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(VlaPruneError, match='matplotlib'):
        bag_figures(bag(), METHODS)


def test_no_line_is_drawn_through_a_pause():
    """0.2 s from query to query, and 3 s between two episodes."""
    times, middle, *_ = windows([0.0, 0.2, 0.4, 3.4, 3.6], np.array([1.0, 2, 3, 4, 5]), 10)
    np.testing.assert_allclose(times, [0.0, 0.2, 0.4, 1.9, 3.4, 3.6])
    np.testing.assert_array_equal(middle, [1, 2, 3, np.nan, 4, 5])
    assert windows([1.0], np.ones(1), 10).shape == (4, 1)
