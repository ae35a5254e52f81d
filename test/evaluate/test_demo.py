"""The results of ``demo`` and ``bench --node`` from recorded queries: figures computed by hand."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.demo import demo_row, node_result, report_demo
from vla_prune_ros.records import MethodRun

VIDEO = SimpleNamespace(path=Path('/somewhere/demo.mp4'), frames=7)


def record(i):
    """Query i took i ms in the policy and 0.1 i in the guard."""
    return {
        'node_guard_ms': f'{0.1 * i}',
        'policy_total_ms': f'{i}',
        'policy_vision_ms': f'{i / 2}',
        'overhead_ms': '1.5',
        'visual_tokens': f'{100 + i}',
        'mode': 'dense',
    }


def run(method='dense', queries=101):
    records = [record(i) for i in range(queries)]
    return MethodRun(method, records, chunks=queries - 1, episodes=2, successes=1, moved_m=1.23456)


def test_row_of_a_method():
    """0, 1 ... 100: the median is 50, the 95th percentile 95."""
    row = demo_row(run())
    assert (row.queries, row.chunks, row.episodes, row.successes) == (101, 100, 2, 1)
    assert (row.moved_m, row.visual_tokens) == (1.2346, 150.0)
    assert row.latency_ms == {'p50': 50.0, 'p95': 95.0}
    assert row.stages_ms['policy_vision'] == {'p50': 25.0, 'p95': 47.5}
    assert row.stages_ms['node_guard']['p95'] == pytest.approx(9.5)
    assert 'visual_tokens' not in row.stages_ms and 'mode' not in row.stages_ms


def test_modes_are_counted_and_unknown_motion():
    modes = ('dense', 'fine', 'coarse', 'fine')
    motions = ('unknown', 'pose', 'pose', 'pose')
    pairs = zip(modes, motions, strict=True)
    records = [{**record(1), 'mode': mode, 'motion': motion} for mode, motion in pairs]
    row = demo_row(MethodRun('specprune', records))
    assert row.modes == {'coarse': 1, 'fine': 2, 'dense': 1} and row.motion_unknown == 1


def report(out, about, *runs):
    text = io.StringIO()
    console = Console(file=text, width=120, color_system=None)
    return report_demo(runs, about, VIDEO, out, console), text.getvalue()


@pytest.mark.parametrize('untrained', [True, False])
def test_result_is_returned_written_and_pointed_at(tmp_path, untrained):
    result, text = report(tmp_path, {'untrained': str(untrained), 'device': 'cpu'}, run())
    assert json.loads((tmp_path / 'demo.json').read_text()) == asdict(result)
    assert result.ok is True and result.policy['device'] == 'cpu'
    assert '/somewhere/demo.mp4' in text and str(tmp_path / 'demo.json') in text
    assert result.untrained is untrained and ('UNTRAINED' in text) is untrained


def test_a_method_without_chunks_is_bad_and_still_in_the_table(tmp_path):
    result, text = report(tmp_path, {}, run(), MethodRun('stuck'))
    assert result.ok is False and 'stuck' in text
    assert result.rows[1].latency_ms == {} and result.rows[1].visual_tokens is None


@pytest.mark.parametrize(
    ('overhead_ms', 'received', 'good'),
    [
        (3.0, (30.0, 30.0), True),
        (4.99, (29.2, 29.2), True),
        (5.0, (30.0, 30.0), False),
        (3.0, (30.0, 29.0), False),
        (3.0, (0.0, 30.0), False),
    ],
)
def test_the_node_is_held_to_5_ms_and_97_percent_of_the_images(overhead_ms, received, good):
    result = node_result(
        [{**record(30), 'overhead_ms': str(overhead_ms)}] * 5,
        asked_hz=30.0,
        sent_hz={'primary': 30.0, 'wrist': 30.0},
        received_hz=dict(zip(('primary', 'wrist'), received, strict=True)),
        transport_profile=True,
    )
    assert result.ok is good and result.queries == 5
    back = json.loads(json.dumps(asdict(result)))
    assert back['overhead_ms'] == {'p50': overhead_ms, 'p95': overhead_ms}
    assert back['stages_ms']['policy_total']['p50'] == 30.0
    assert back['machine']['cores'] >= 1 and back['machine']['packages']['numpy']
