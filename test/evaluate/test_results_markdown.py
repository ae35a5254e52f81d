"""Markdown of a result: cells counted by hand, numbers from the JSON that goes in."""

from vla_prune_ros.evaluate.closed_loop.tables import result_markdown


def row(method, successes, versus):
    return {
        'task': 'pick_red',
        'method': method,
        'episodes': 4,
        'successes': successes,
        'success_rate': successes / 4,
        'success_ci95': [0.25, 1.0],
        'wrong_object': {},
        'versus_first': versus,
        'queries': 8,
        'visual_tokens': 512.0,
        'visual_share': 1.0,
        'mode_shares': {'dense': 1.0},
        'queries_per_success': 2.0,
        'latency_ms': {'p50': 1.5, 'p95': 2.5},
        'refresh_ms': None,
    }


def test_each_row_of_both_tables_has_as_many_cells_as_its_head():
    versus = {
        'points': -25.0,
        'points_ci95': [-60.0, 10.0],
        'only_first': 1,
        'only_this': 0,
        'p_value': 1.0,
    }
    rows = [row('dense', 4, None), row('{a: 1|2}', 3, versus)]
    text = result_markdown({'rows': rows, 'command': 'vla-prune evaluate x'})
    success, cost, command = text.strip().split('\n\n')
    assert command == '`vla-prune evaluate x`'
    for table in (success, cost):
        head, rule, *body = table.splitlines()
        assert set(rule) <= set('|- ') and len(body) == 2
        assert {line.count('|') for line in (head, rule, *body)} == {head.count('|')}
    assert '| 3/4 | 75.0 | 25.0-100.0 | -25.0 |' in success
    assert '| 512 | 100 | 100/0/0 | 2.0 | 1.5 | 2.5 | - |' in cost
