"""The node benchmark's verdict at and beside its two limits: 5 ms of overhead, 97 % of images."""

import json
from dataclasses import asdict

import pytest

from vla_prune_ros.evaluate.bench.node import node_result


def records(overhead_ms):
    values = {
        'overhead_ms': overhead_ms,
        'node_guard_ms': 0.2,
        'policy_total_ms': 30.0,
        'age_primary_ms': 12.0,
        'age_wrist_ms': 13.0,
    }
    return [{**{k: str(v) for k, v in values.items()}, 'mode': 'dense'}] * 5


def result(overhead_ms=3.0, received=(30.0, 30.0)):
    sent = {'primary': 30.0, 'wrist': 30.0}
    got = dict(zip(sent, received, strict=True))
    return node_result(
        records(overhead_ms), asked_hz=30.0, sent_hz=sent, received_hz=got, transport_profile=True
    )


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
def test_verdict(overhead_ms, received, good):
    assert result(overhead_ms, received).ok is good


def test_result_is_plain_json_with_everything_that_is_needed_to_judge_it():
    back = json.loads(json.dumps(asdict(result())))
    assert back['overhead_ms'] == {'p50': 3.0, 'p95': 3.0}
    assert back['queries'] == 5 and back['asked_hz'] == 30.0 and back['target_ms'] == 5.0
    assert back['received_hz'] == {'primary': 30.0, 'wrist': 30.0}
    assert back['stages_ms']['policy_total']['p50'] == 30.0
    assert back['transport_profile'] is True
    assert back['machine']['cores'] >= 1 and back['machine']['packages']['numpy']
