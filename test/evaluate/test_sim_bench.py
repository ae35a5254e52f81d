"""The simulator's benchmark: what its figures are made of, and what it prints.

Times are never compared with a limit: only with each other, where one contains the other.
"""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from vla_prune_ros.cli import build_parser
from vla_prune_ros.evaluate.bench import simulator as sim_bench
from vla_prune_ros.evaluate.bench.simulator import PARTS, SimBenchOptions, run_sim_bench


def text(renderable):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.fixture(scope='module')
def result(renderer):
    said = []
    result = run_sim_bench(SimBenchOptions(size=32, steps=4), said.append)
    assert any('fast visuals off: 4 steps' in line for line in said)
    return result


def test_a_row_with_fast_visuals_and_one_without(result):
    assert [row['fast_visuals'] for row in result['rows']] == [True, False]
    assert json.loads(json.dumps(result)) == result
    assert result['machine']['cores'] >= 1 and 'MuJoCo' in result['scene']
    for row in result['rows']:
        assert set(row['parts_ms']) == set(PARTS) and row['steps'] == 4
        p50 = [row['parts_ms'][part]['p50'] for part in PARTS]
        assert min(p50) > 0.0
        assert max(p50) <= row['step_ms']['p95']
        assert row['step_ms']['p50'] <= row['step_ms']['p95']


def test_the_table_names_the_machine_and_every_part(result):
    shown = text(sim_bench.sim_table(result))
    assert result['machine']['cpu'] in shown.replace('\n', ' ')
    assert all(part in shown for part in PARTS)
    assert '32 x 32' in shown
    assert 'views of 224' in sim_bench.sim_verdict(result)


def made_up(rate, size=224):
    return {
        'size': size,
        'bar_steps_per_s': 15.0,
        'rows': [
            {'fast_visuals': False, 'steps_per_s': 1.0},
            {'fast_visuals': True, 'steps_per_s': rate},
        ],
    }


@pytest.mark.parametrize(('rate', 'word'), [(15.0, 'met'), (14.9, 'missed')])
def test_the_verdict_is_that_of_the_fast_row(rate, word):
    assert word in sim_bench.sim_verdict(made_up(rate))


class HandClock:
    """Every look at the clock is 1 ms after the one before."""

    now = 0.0

    def perf_counter(self):
        self.now += 1e-3
        return self.now


class Still:
    """A scene that only counts."""

    cameras = ('primary', 'wrist')

    def __init__(self):
        self.actions = []

    def reset(self, seed):
        self.actions = []

    def step(self, action):
        self.actions.append(action)

    def render_image(self, camera, side):
        return np.zeros((8, 8, 3), np.uint8)


def test_figures_are_of_the_counted_steps_alone(monkeypatch):
    """On a clock of 1 ms per look each part takes 1 ms, so a step 4 ms: 250 steps/s."""
    monkeypatch.setattr(sim_bench, 'time', HandClock())
    scene = Still()
    row = sim_bench._measure(scene, SimBenchOptions(steps=5))
    assert row['steps_per_s'] == pytest.approx(250.0)
    assert row['step_ms']['p50'] == pytest.approx(4.0)
    assert all(q['p95'] == pytest.approx(1.0) for q in row['parts_ms'].values())
    assert len(scene.actions) == sim_bench.WARM_UP + 5
    assert not np.array_equal(scene.actions[0], scene.actions[1])
    assert all(np.abs(a).max() <= 1.0 for a in scene.actions)


def test_options_of_the_command():
    options = build_parser().parse_args(['bench', '--sim', '--size', '256', '--steps', '7'])
    assert (options.sim, options.size, options.steps, options.gl) == (True, 256, 7, 'auto')
    assert build_parser().parse_args(['bench', '--sim']).size == 224
