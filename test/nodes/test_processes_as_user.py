"""The commands as a user runs them: three real processes, results, and every way to end them."""

import json
import os
import signal
import time
from pathlib import Path

import cv2
import pytest
from command_process import alive

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')
pytest.importorskip('robosuite', reason='the sim extra is not installed')


def log(folder, name):
    path = folder / 'out' / 'logs' / f'{name}.log'
    return path.read_text() if path.exists() else ''


def logs(folder):
    return ''.join(p.read_text() for p in (folder / 'out' / 'logs').glob('*.log'))


def demo(command, micro, *arguments):
    return command('demo', '--checkpoint', micro, '--out', 'out', *arguments)


def test_demo_runs_shows_and_writes_what_it_measured(command, micro, tmp_path):
    methods = ('dense', 'uniform:64')
    arguments = ('--episodes', 1, '--steps', 40, '--json', 'new/result.json')
    one = demo(command, micro, *arguments, '--methods', *methods)
    assert one.wait() == 0, one.out + one.err
    result = json.loads((tmp_path / 'out' / 'demo.json').read_text())
    assert json.loads((tmp_path / 'new' / 'result.json').read_text()) == result
    assert [row['method'] for row in result['rows']] == list(methods)
    assert [row['visual_tokens'] for row in result['rows']] == [512.0, 128.0]
    for row in result['rows']:
        assert row['chunks'] > 0 and row['queries'] > 0 and row['episodes'] == 1
        assert row['moved_m'] > 0.001
        assert 0 < row['latency_ms']['p50'] <= row['latency_ms']['p95']
        assert row['stages_ms']['overhead']['p50'] > 0
    assert result['untrained'] is True and 'UNTRAINED' in one.out
    assert 'policy total' in one.out and str(Path('out/demo.mp4')) in one.out + one.err
    reader = cv2.VideoCapture(str(tmp_path / 'out' / 'demo.mp4'))
    good, frame = reader.read()
    reader.release()
    assert good and frame.shape == (224, 448, 3) and frame.any()
    assert 'Traceback' not in logs(tmp_path)


STAGES = {
    'start': lambda one, folder: bool(one.family()),
    'loading': lambda one, folder: 'LOADING' in log(folder, 'vla_policy'),
    'running': lambda one, folder: 'MOVING' in log(folder, 'chunk_executor'),
}


@pytest.mark.parametrize('stage', STAGES)
def test_ctrl_c_ends_everything_at_any_time(command, micro, tmp_path, stage):
    one = demo(command, micro, '--steps', 2000)
    one.until(lambda: STAGES[stage](one, tmp_path), stage)
    family = one.family()
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.wait() == 130, one.out + one.err
    assert not any(map(alive, family))
    assert one.err == 'interrupted\n'
    if stage == 'running':  # a node that still imports has no handler yet
        assert 'Traceback' not in logs(tmp_path)


def test_children_end_with_a_parent_that_is_killed(command, micro, tmp_path):
    one = demo(command, micro, '--steps', 2000)
    one.until(lambda: STAGES['loading'](one, tmp_path), 'loading')
    family = one.family()
    assert len(family) >= 3
    one.process.kill()
    one.process.wait()
    deadline = time.monotonic() + 5.0
    while any(map(alive, family)):
        assert time.monotonic() < deadline, [Path(f'/proc/{p}/cmdline') for p in family]
        time.sleep(0.05)


def test_a_simulator_that_cannot_start_is_one_line(command, micro, tmp_path):
    one = demo(command, micro, '--real-time-factor', 99)
    assert one.wait() == 1
    (line,) = one.err.splitlines()
    assert 'process simulator ended with code 1' in line and 'real_time_factor' in line


@pytest.mark.slow
def test_node_benchmark_writes_its_verdict(command, micro, tmp_path):
    arguments = ('--checkpoint', micro, '--seconds', 4, '--json', 'bench.json')
    one = command('bench', '--node', *arguments)
    # The figures depend on how busy this machine is.
    assert one.wait() in (0, 1), one.out + one.err
    result = json.loads((tmp_path / 'bench.json').read_text())
    assert result['ok'] is (one.process.returncode == 0)
    assert result['queries'] > 0 and result['overhead_ms']['p50'] > 0
    assert set(result['sent_hz']) == set(result['received_hz']) == {'primary', 'wrist'}
    assert all(rate > 0 for rate in result['received_hz'].values())
    assert 'node overhead' in one.out and 'target: overhead p50' in one.out


def test_node_benchmark_says_at_once_why_the_node_does_not_load(command, micro, tmp_path):
    (tmp_path / 'empty').mkdir()
    one = command('bench', '--node', '--checkpoint', 'empty')
    assert one.wait() == 1
    (line,) = one.err.splitlines()
    assert line.startswith('error: vla_policy does not run, it says: config.json is missing')
    assert line.endswith('point checkpoint at a folder in the published OpenVLA-OFT layout')
