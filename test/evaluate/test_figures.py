"""Figures of a result: they are drawn, of everything that is there, or a line says why not."""

import sys
from dataclasses import asdict

import cv2
import pytest

pytest.importorskip('matplotlib', reason='the plot extra is not installed')

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate import figures as module
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeKey, EpisodeQuery, EpisodeResult
from vla_prune_ros.evaluate.closed_loop.tables import result_rows
from vla_prune_ros.evaluate.figures import plot_modes, plot_success

METHODS, TASKS = ['dense', 'specprune:paper'], ['pick_red', 'stack_red_on_green']


def episode(task, seed, tokens):
    queries = tuple(
        EpisodeQuery(
            step=8 * i, mode=mode, visual_tokens=n, total_ms=3.0, motion_m_s=0.1 * i or None
        )
        for i, (mode, n) in enumerate(zip(('dense', 'coarse', 'fine'), tokens, strict=True))
    )
    return EpisodeResult(
        'two_cubes', task, seed, task, True, 20, '', 0.5, 512, 'pose', queries, ()
    )  # fmt: skip


@pytest.fixture
def episodes():
    return {
        EpisodeKey(m, t, s): episode(t, s, (512, 128 + 64 * i, 256))
        for i, m in enumerate(METHODS) for t in TASKS for s in range(3)
    }  # fmt: skip


def result_of(episodes):
    settings = {'methods': METHODS, 'simulator': 'two_cubes'}
    rows = [asdict(row) for row in result_rows(episodes, METHODS, TASKS)]
    return {'rows': rows, 'settings': settings, 'untrained': True, 'generated_assets': False}


@pytest.fixture
def figures(monkeypatch):
    """Those that are drawn, in place of files."""
    found = []
    monkeypatch.setattr(module, 'save_figure', lambda figure, *rest, **named: found.append(figure))
    return found


def test_both_pictures_are_files_that_can_be_read(episodes, tmp_path):
    plot_success(result_of(episodes), tmp_path / 'new' / 'success.png')
    plot_modes(episodes, tmp_path / 'new' / 'modes.png')
    for name in ('success.png', 'modes.png'):
        picture = cv2.imread(str(tmp_path / 'new' / name))
        assert picture.shape[1] == 990 and picture.std() > 5


def test_success_has_a_marker_per_method_and_task(episodes, figures, tmp_path):
    plot_success(result_of(episodes), tmp_path / 'x.png')
    shown = [axis for axis in figures[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ['all', *TASKS]
    for axis in shown:
        marks = {c.get_label(): c.lines[0].get_xydata()[0] for c in axis.containers}
        assert {m: tuple(marks[m]) for m in METHODS} == {
            'dense': (pytest.approx((512 + 128 + 256) / 3), 100),
            'specprune:paper': (pytest.approx((512 + 192 + 256) / 3), 100),
        }
    assert 'UNTRAINED' in figures[0].get_suptitle()


def test_modes_show_the_first_episodes_that_all_methods_have(episodes, figures, tmp_path):
    del episodes[EpisodeKey('dense', 'pick_red', 0)]
    plot_modes(episodes, tmp_path / 'x.png')
    titles = [axis.get_title() for axis in figures[0].axes if axis.get_title()]
    pick, stack = TASKS
    assert titles == [f'{stack}, seed 0', f'{pick}, seed 1', f'{stack}, seed 1']
    bars = [(b.get_x(), b.get_width(), b.get_height()) for b in figures[0].axes[0].patches]
    assert bars == [(0, 8, 512), (8, 8, 128), (16, 4, 256)]


def test_nothing_in_common_is_no_picture(episodes, tmp_path):
    one = {k: e for k, e in episodes.items() if (k.method == 'dense') == (k.seed == 0)}
    plot_modes(one, tmp_path / 'modes.png')
    assert not (tmp_path / 'modes.png').exists()


def test_a_missing_matplotlib_is_said(episodes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(VlaPruneError, match='matplotlib'):
        plot_modes(episodes, tmp_path / 'modes.png')
