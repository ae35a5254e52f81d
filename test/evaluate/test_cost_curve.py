"""The cost curve: which points are measured, on what, and how they are shown.

Expected: token counts are budgets times cameras; operations grow with each axis.
"""

import json

from rich.console import Console

from vla_prune_ros import cli
from vla_prune_ros.evaluate.bench import curve as cost_curve
from vla_prune_ros.evaluate.bench.curve import CurveOptions, curve_points, run_cost_curve
from vla_prune_ros.evaluate.bench.models import BenchModelOptions
from vla_prune_ros.evaluate.bench.tables import curve_figure, curve_table, plot_curve, plot_stages
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.registry import build_pruner

PNG = b'\x89PNG'


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
    said = []
    result = run_cost_curve(CurveOptions(BenchModelOptions('micro'), queries=2), said.append)
    rows = {(row['axis'], row['value']): row for row in result['rows']}
    assert list(rows) == [
        *(('visual_tokens', n) for n in (32, 512)),
        *(('cameras', n) for n in (1, 3)),
        *(('chunk', n) for n in (1, 25)),
    ]
    for axis in ('visual_tokens', 'cameras', 'chunk'):
        less, more = [row['tflops'] for row in result['rows'] if row['axis'] == axis]
        assert 0 < less < more
    assert all(0 < r['latency_ms']['p50'] <= r['latency_ms']['p95'] for r in result['rows'])
    assert result['ok'] and result['untrained'] and result['settings']['queries'] == 2
    assert json.loads(json.dumps(result)) == result
    assert said[-1] == 'round 4 of 4: chunk 25'
    console = Console(width=80)
    with console.capture() as capture:
        console.print(curve_table(result))
    assert 'cameras, dense' in capture.get() and 'steps of the chunk' in capture.get()
    plot_curve(result, tmp_path / 'new' / 'curve.png')
    assert (tmp_path / 'new' / 'curve.png').read_bytes().startswith(PNG)
    slowest = max(row['latency_ms']['p95'] for row in result['rows'])
    for axis in curve_figure(result).axes:  # every point lies inside its axes
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] >= slowest


def test_the_stages_are_drawn(tmp_path, capsys):
    out, picture = tmp_path / 'out.json', tmp_path / 'stages.png'
    arguments = '--pruning uniform:64 --preset micro --queries 1 --no-published --threads 1'
    status = cli.main(['bench', *arguments.split(), '--json', str(out), '--plot', str(picture)])
    assert status == 0 and picture.read_bytes().startswith(PNG)
    result = json.loads(out.read_text())
    assert [row['method'] for row in result['rows']] == ['dense', 'uniform:64']
    bare = {**result, 'rows': [{**row, 'stages_ms': {}} for row in result['rows']]}
    plot_stages(bare, tmp_path / 'bare.png')
    assert (tmp_path / 'bare.png').read_bytes() != picture.read_bytes()
