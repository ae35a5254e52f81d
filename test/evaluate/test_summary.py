"""Numbers of the demo's table: quantiles and means computed here by hand."""

import io
import math

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.summary import (
    STAGE_ORDER,
    demo_table,
    mean_of,
    method_row,
    stage_label,
    stage_quantiles,
)
from vla_prune_ros.records import MethodRun


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


def render(table):
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(table)
    return out.getvalue()


def test_quantiles_by_stage():
    """0, 1 ... 100: the median is 50, the 95th percentile 95."""
    stages = stage_quantiles(run().records)
    assert (stages['policy_total'].p50, stages['policy_total'].p95) == (50.0, 95.0)
    assert stages['node_guard'].p95 == pytest.approx(9.5)
    assert stages['overhead'].p50 == stages['overhead'].p95 == 1.5
    assert 'visual_tokens' not in stages and 'mode' not in stages


def test_stages_come_in_the_order_they_happen():
    names = list(stage_quantiles([{**record(1), 'later_ms': '1', 'node_pairing_ms': '1'}]))
    assert names == [
        *('node_pairing', 'policy_vision', 'node_guard', 'policy_total', 'overhead', 'later')
    ]


def test_a_stage_that_only_some_queries_have_counts_those():
    stages = stage_quantiles([{'a_ms': '1'}, {'a_ms': '3', 'b_ms': '7'}])
    assert stages['a'].p50 == 2.0 and stages['b'].p50 == 7.0


def test_row_of_a_method():
    row = method_row(run())
    assert row['method'] == 'dense'
    assert (row['queries'], row['chunks'], row['episodes'], row['successes']) == (101, 100, 2, 1)
    assert row['moved_m'] == 1.2346
    assert row['visual_tokens'] == 150.0
    assert row['latency_ms'] == {'p50': 50.0, 'p95': 95.0}
    assert row['stages_ms']['policy_vision'] == {'p50': 25.0, 'p95': 47.5}


def test_modes_are_counted_coarse_fine_dense():
    modes = ('dense', 'fine', 'coarse', 'fine')
    motions = ('unknown', 'pose', 'pose', 'pose')
    pairs = zip(modes, motions, strict=True)
    records = [{**record(1), 'mode': mode, 'motion': motion} for mode, motion in pairs]
    row = method_row(MethodRun('specprune', records))
    assert list(row['modes'].items()) == [('coarse', 1), ('fine', 2), ('dense', 1)]
    assert row['motion_unknown'] == 1
    text = render(demo_table([MethodRun('specprune', records)], 't'))
    (line,) = [line for line in text.splitlines() if 'queries coarse / fine / dense' in line]
    assert '1 / 2 / 1' in line


def test_a_refresh_is_a_row_of_its_own_where_one_ran():
    records = [record(1), {**record(2), 'refresh_ms': '7'}, {**record(3), 'refresh_ms': '9'}]
    assert 'refresh' not in render(demo_table([run()], 't'))
    text = render(demo_table([run(), MethodRun('specprune', records)], 't'))
    (line,) = [line for line in text.splitlines() if 'refresh behind the chunk' in line]
    assert '8.00 / 8.90' in line  # 7 and 9: the median 8, the 95th percentile 7 + 0.95 * 2


def test_a_run_without_records_is_no_error():
    assert stage_quantiles([]) == {}
    assert math.isnan(mean_of([], 'visual_tokens'))
    assert method_row(MethodRun('dense'))['latency_ms'] == {}


def test_table_has_a_column_per_method_and_p50_and_p95_by_stage():
    text = render(demo_table([run(), run('uniform:128', 11)], 'title here'))
    lines = {line.split('│')[1].strip(): line for line in text.splitlines() if '│' in line}
    assert 'title here' in text and 'uniform:128' in text
    assert '50.00 / 95.00' in lines['policy total (ms) p50 / p95']
    assert '5.00 / 9.50' in lines['policy total (ms) p50 / p95']
    assert '150' in lines['visual tokens kept'] and '105' in lines['visual tokens kept']
    assert '1/2' in lines['successes'] and '1.23' in lines['arm moved (m)']


def test_a_stage_that_one_method_lacks_is_a_dash():
    other = MethodRun(
        'other', [{'policy_total_ms': '1', 'overhead_ms': '1', 'visual_tokens': '2'}]
    )
    text = render(demo_table([run(), other], 't'))
    (guard,) = [line for line in text.splitlines() if line.strip('│ ').startswith('guard')]
    assert guard.rstrip('│ ').endswith('-')


def test_labels_are_plain_words():
    assert stage_label('policy_vision') == 'vision' and stage_label('node_guard') == 'guard'
    assert stage_label('stamp_to_chunk') == 'image stamp to chunk'
    labels = [stage_label(n) for n in STAGE_ORDER]
    assert len(set(labels)) == len(labels)
