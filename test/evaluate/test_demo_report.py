"""The demo's printed report and JSON file, from recorded runs."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.demo_report import report_demo
from vla_prune_ros.records import MethodRun

RECORD = {'policy_total_ms': '30', 'overhead_ms': '2', 'visual_tokens': '512', 'mode': 'dense'}
VIDEO = SimpleNamespace(path=Path('/somewhere/demo.mp4'), frames=7)


def report(out, about, chunks=(3,)):
    runs = [MethodRun(f'm{i}', [RECORD] * 3, count, 1) for i, count in enumerate(chunks)]
    text = io.StringIO()
    console = Console(file=text, width=120, color_system=None)
    return report_demo(runs, about, VIDEO, out, console), text.getvalue()


def test_result_is_returned_written_and_pointed_at(tmp_path):
    result, text = report(tmp_path, {'untrained': 'False', 'device': 'cpu'})
    assert json.loads((tmp_path / 'demo.json').read_text()) == result
    assert result['ok'] is True and result['policy']['device'] == 'cpu'
    assert [row['method'] for row in result['rows']] == ['m0']
    for part in ('/somewhere/demo.mp4 (7 frames)', 'demo.json', 'logs', 'policy total', 'cores'):
        assert part in text


@pytest.mark.parametrize(('value', 'untrained'), [('True', True), ('False', False)])
def test_random_weights_are_labelled(tmp_path, value, untrained):
    result, text = report(tmp_path, {'untrained': value})
    assert result['untrained'] is untrained
    assert ('UNTRAINED' in text) is untrained


def test_a_method_without_chunks_is_a_bad_result(tmp_path):
    assert report(tmp_path, {}, chunks=(3, 0))[0]['ok'] is False
