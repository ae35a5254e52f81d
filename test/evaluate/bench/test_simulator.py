"""The simulator's benchmark; times are compared only with each other, never with a limit."""

import itertools
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from vla_prune_ros.evaluate.bench import simulator as sim_bench
from vla_prune_ros.evaluate.bench.simulator import PARTS, run_sim_bench
from vla_prune_ros.evaluate.options import SimBenchOptions


@pytest.fixture(scope='module')
def result(renderer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sim_bench, 'WARM_UP', 1)
        return run_sim_bench(SimBenchOptions(size=32, steps=4))


def test_a_row_with_fast_visuals_and_one_without(result):
    assert [row.fast_visuals for row in result.rows] == [True, False]
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain
    assert result.machine['cores'] >= 1 and 'MuJoCo' in result.scene
    for row in result.rows:
        assert set(row.parts_ms) == set(PARTS) and row.steps == 4
        p50 = [row.parts_ms[part]['p50'] for part in PARTS]
        assert min(p50) > 0.0
        assert max(p50) <= row.step_ms['p95']
        assert row.step_ms['p50'] <= row.step_ms['p95']


class Still:
    """A scene that only counts."""

    cameras = ('primary', 'wrist')

    def __init__(self):
        self.actions = []
        self.step = self.actions.append

    def reset(self, seed):
        pass

    def render_image(self, camera, side):
        return np.zeros((8, 8, 3), np.uint8)


def test_figures_are_of_the_counted_steps_alone(monkeypatch):
    """On a clock of 1 ms per look each part takes 1 ms, so a step 4 ms: 250 steps/s."""
    clock = SimpleNamespace(perf_counter=itertools.count(0, 1e-3).__next__)
    monkeypatch.setattr(sim_bench, 'time', clock)
    scene = Still()
    row = sim_bench._measure(scene, SimBenchOptions(steps=5), True)
    assert row.steps_per_s == pytest.approx(250.0)
    assert row.step_ms['p50'] == pytest.approx(4.0)
    assert all(q['p95'] == pytest.approx(1.0) for q in row.parts_ms.values())
    assert len(scene.actions) == sim_bench.WARM_UP + 5
    assert not np.array_equal(scene.actions[0], scene.actions[1])
    assert all(np.abs(a).max() <= 1.0 for a in scene.actions)
