"""The cost curve: which points are measured, and on what."""

import json
from dataclasses import asdict

from vla_prune_ros.evaluate.bench import curve as cost_curve
from vla_prune_ros.evaluate.bench.curve import (
    curve_figure,
    curve_points,
    plot_curve,
    run_cost_curve,
)
from vla_prune_ros.evaluate.options import BenchModelOptions
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.registry import build_pruner


def test_tokens_from_32_to_512_cameras_and_chunks():
    points = {}
    for point in curve_points(LIBERO):
        points.setdefault(point.axis, []).append(point)
    assert [p.value for p in points['visual_tokens']] == [32, 64, 96, 128, 192, 256, 384, 512]
    for point in points['visual_tokens']:
        budget = build_pruner(point.method, Target()).budget
        assert sum(budget) == point.value and point.profile == LIBERO
    assert [len(p.profile.cameras) for p in points['cameras']] == [1, 2, 3]
    assert points['cameras'][1].profile.cameras == LIBERO.cameras
    assert all(p.profile.chunk == p.value and p.method == 'dense' for p in points['chunk'])


def test_a_whole_curve(monkeypatch, tmp_path):
    monkeypatch.setattr(cost_curve, 'BUDGETS', (16, 256))
    monkeypatch.setattr(cost_curve, 'CAMERAS', (1, 3))
    monkeypatch.setattr(cost_curve, 'CHUNKS', (1, 25))
    result = run_cost_curve(BenchModelOptions('micro', dtype='float32', queries=2))
    assert [(row.axis, row.value) for row in result.rows] == [
        *(('visual_tokens', n) for n in (32, 512)),
        *(('cameras', n) for n in (1, 3)),
        *(('chunk', n) for n in (1, 25)),
    ]
    for axis in ('visual_tokens', 'cameras', 'chunk'):
        less, more = [row.tflops for row in result.rows if row.axis == axis]
        assert 0 < less < more
    assert all(0 < r.latency_ms['p50'] <= r.latency_ms['p95'] for r in result.rows)
    assert result.ok and result.untrained and result.settings['queries'] == 2
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain
    plot_curve(result, tmp_path / 'new' / 'curve.png')
    assert (tmp_path / 'new' / 'curve.png').read_bytes().startswith(b'\x89PNG')
    slowest = max(row.latency_ms['p95'] for row in result.rows)
    for axis in curve_figure(result).axes:  # every point lies inside its axes
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] >= slowest
