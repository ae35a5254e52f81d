"""Rows of the result from episodes written out by hand; expected values are counted by hand."""

from dataclasses import fields

import pytest

from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeKey, EpisodeQuery, EpisodeResult
from vla_prune_ros.evaluate.closed_loop.tables import (
    EvaluateResult,
    missing_episodes,
    result_rows,
)


def episode(task, seed, success, queries, wrong='', refresh=(), error=''):
    """``queries``: (mode, tokens, ms) each, 8 steps apart."""
    records = tuple(
        EpisodeQuery(
            step=8 * i,
            mode=mode,
            visual_tokens=tokens,
            total_ms=ms,
            stages_ms={'language': ms / 2},
            motion_m_s=0.1 if i else None,
        )
        for i, (mode, tokens, ms) in enumerate(queries)
    )
    return EpisodeResult(
        'two_cubes', task, seed, task, success, 8 * len(records), wrong, 0.5, 512,
        'joint_velocities' if records else '', records, refresh, error=error,
    )  # fmt: skip


D, C, F = ('dense', 512, 10.0), ('coarse', 128, 4.0), ('fine', 256, 6.0)


@pytest.fixture
def episodes():
    table = {
        'dense': {
            ('pick_red', 0): (True, [D, D]),
            ('pick_red', 1): (True, [D, D, D, D]),
            ('pick_green', 0): (False, [D]),
        },
        'fast': {
            ('pick_red', 0): (True, [D, C, C, F]),
            ('pick_red', 1): (False, [D, C], 'lifted', (3.0, 5.0)),
            ('pick_green', 0): (True, [C]),
            ('pick_green', 1): (True, [C], 'pushed'),
        },
    }
    return {
        EpisodeKey(method, task, seed): episode(task, seed, *values)
        for method, runs in table.items()
        for (task, seed), values in runs.items()
    }


@pytest.fixture
def rows(episodes):
    found = result_rows(episodes, ['dense', 'fast'], ['pick_red', 'pick_green'])
    return {(row.task, row.method): row for row in found}


def test_a_row_per_task_and_method_then_over_all(rows):
    tasks = ('pick_red', 'pick_green', 'all')
    assert list(rows) == [(task, method) for task in tasks for method in ('dense', 'fast')]
    counts = {key: (row.successes, row.episodes) for key, row in rows.items()}
    assert counts == {
        ('pick_red', 'dense'): (2, 2), ('pick_red', 'fast'): (1, 2),
        ('pick_green', 'dense'): (0, 1), ('pick_green', 'fast'): (2, 2),
        ('all', 'dense'): (2, 3), ('all', 'fast'): (3, 4),
    }  # fmt: skip


def test_comparison_is_over_the_episodes_that_both_have(rows):
    assert rows['all', 'dense'].versus_first is None
    versus = rows['all', 'fast'].versus_first
    assert (versus.pairs, versus.only_first, versus.only_this) == (3, 1, 1)
    assert versus.points == 0 and versus.p_value == 1
    red = rows['pick_red', 'fast'].versus_first
    assert (red.points, red.only_first, red.p_value) == (-50, 1, 1)
    low, high = red.points_ci95
    assert -100 <= low < -50 < high


def test_a_method_without_common_episodes_is_not_compared(episodes):
    only = {k: e for k, e in episodes.items() if (k.method, k.task) != ('dense', 'pick_green')}
    found = result_rows(only, ['dense', 'fast'], ['pick_green'])
    # And one task has no row over all.
    assert [(r.method, r.task, r.versus_first) for r in found] == [('fast', 'pick_green', None)]


def test_queries_tokens_modes_and_times(rows):
    row = rows['pick_red', 'fast']  # D C C F and D C
    assert row.queries == 6 and row.modes == {'dense': 2, 'coarse': 3, 'fine': 1}
    assert row.mode_shares == {'dense': 2 / 6, 'coarse': 3 / 6, 'fine': 1 / 6}
    tokens = (2 * 512 + 3 * 128 + 256) / 6
    assert row.visual_tokens == pytest.approx(tokens)
    assert row.visual_share == pytest.approx(tokens / 512)
    assert row.latency_ms == {'p50': 5.0, 'p95': 10.0}  # of 4 4 4 6 10 10
    assert row.stages_ms['language']['p50'] == 2.5
    assert row.refresh_ms == {'p50': 4.0, 'p95': 4.9}
    assert row.queries_per_success == 4 and row.steps_per_success == 32
    assert row.motion_unknown == 2
    assert rows['all', 'fast'].wrong_object == {'lifted': 1, 'pushed': 1}
    assert rows['all', 'dense'].wrong_object == {}


def test_an_episode_that_raised_is_a_failure_without_queries():
    key = EpisodeKey('dense', 'pick_red', 0)
    found = result_rows(
        {key: episode('pick_red', 0, False, [], error='X: y')}, ['dense'], ['pick_red']
    )
    assert found[0].errors == 1 and found[0].successes == 0
    assert found[0].latency_ms is None and found[0].visual_tokens is None
    assert found[0].queries_per_success is None


def test_episodes_that_are_missing_are_counted(rows):
    """Of two methods, two tasks and two episodes of each, one was not run."""
    settings = {'methods': ['dense', 'fast'], 'tasks': ['pick_red', 'pick_green'], 'episodes': 2}
    unused = dict.fromkeys(field.name for field in fields(EvaluateResult))
    result = EvaluateResult(**unused | {'rows': list(rows.values()), 'settings': settings})
    assert missing_episodes(result) == (1, 8)
