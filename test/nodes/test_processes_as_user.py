"""The commands as a user runs them: three real processes, results, and every way to end them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')
pytest.importorskip('robosuite', reason='the sim extra is not installed')

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 400.0


class Command:
    """``vla-prune`` with arguments, in a process group of its own like a job of a shell."""

    def __init__(self, folder, *arguments):
        self.out, self.err = folder / 'stdout', folder / 'stderr'
        with self.out.open('wb') as out, self.err.open('wb') as err:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'vla_prune_ros.cli', *map(str, arguments)],
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, 'PYTHONPATH': str(ROOT)},
                start_new_session=True,
            )

    def until(self, done, what):
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert self.process.poll() is None, f'it ended before {what}: {self.text}'
            assert time.monotonic() < deadline, f'no {what}: {self.text}'
            time.sleep(0.05)

    def wait(self):
        return self.process.wait(WAIT_S)

    def end(self):
        """Whatever is left when a test fails."""
        for pid in (*descendants(self.process.pid), self.process.pid):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def text(self):
        return self.out.read_text() + self.err.read_text()


@pytest.fixture
def command(tmp_path):
    """Starts a command; nothing of it outlives the test."""
    started = []

    def start(*arguments):
        started.append(Command(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.end()


def stat(pid):
    """State and parent of a process; None where it is gone."""
    try:
        state, parent = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[:2]
    except OSError:
        return None
    return state, int(parent)


def alive(pid):
    return stat(pid) is not None and stat(pid)[0] != 'Z'


def descendants(pid):
    """Children, their children, and so on."""
    parents = {int(p.name): stat(p.name) for p in Path('/proc').glob('[0-9]*')}
    children = [p for p, found in parents.items() if found is not None and found[1] == pid]
    return children + [d for child in children for d in descendants(child)]


def log(folder, name):
    path = folder / 'out' / 'logs' / f'{name}.log'
    return path.read_text() if path.exists() else ''


def logs(folder):
    return ''.join(p.read_text() for p in (folder / 'out' / 'logs').glob('*.log'))


def demo(command, micro, *arguments):
    return command('demo', '--checkpoint', micro, '--out', 'out', *arguments)


def test_demo_runs_shows_and_writes_what_it_measured(command, micro, tmp_path):
    methods = ('dense', 'uniform:64')
    one = demo(
        *(command, micro, '--episodes', 1, '--steps', 40, '--json', 'new/result.json'),
        *('--methods', *methods),
    )
    assert one.wait() == 0, one.text
    result = json.loads((tmp_path / 'out' / 'demo.json').read_text())
    assert json.loads((tmp_path / 'new' / 'result.json').read_text()) == result
    assert [row['method'] for row in result['rows']] == list(methods)
    assert [row['visual_tokens'] for row in result['rows']] == [512.0, 128.0]
    for row in result['rows']:
        assert row['chunks'] > 0 and row['queries'] > 0 and row['episodes'] == 1
        assert row['moved_m'] > 0.001
        assert 0 < row['latency_ms']['p50'] <= row['latency_ms']['p95']
        assert row['stages_ms']['overhead']['p50'] > 0
    assert result['untrained'] is True and 'UNTRAINED' in one.out.read_text()
    assert 'policy total' in one.out.read_text() and str(Path('out/demo.mp4')) in one.text
    reader = cv2.VideoCapture(str(tmp_path / 'out' / 'demo.mp4'))
    good, frame = reader.read()
    reader.release()
    assert good and frame.shape == (224, 448, 3) and frame.any()
    assert 'Traceback' not in one.text + logs(tmp_path)


STAGES = {
    'start': lambda one, folder: bool(descendants(one.process.pid)),
    'loading': lambda one, folder: 'LOADING' in log(folder, 'vla_policy'),
    'running': lambda one, folder: 'MOVING' in log(folder, 'chunk_executor'),
}


@pytest.mark.parametrize('stage', STAGES)
def test_ctrl_c_ends_everything_at_any_time(command, micro, tmp_path, stage):
    one = demo(command, micro, '--steps', 2000)
    one.until(lambda: STAGES[stage](one, tmp_path), stage)
    family = descendants(one.process.pid)
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.wait() == 130, one.text
    assert not any(map(alive, family))
    assert one.err.read_text() == 'interrupted\n'
    assert 'Traceback' not in one.text
    if stage == 'running':  # a node that still imports has no handler yet
        assert 'Traceback' not in logs(tmp_path)


def test_children_end_with_a_parent_that_is_killed(command, micro, tmp_path):
    one = demo(command, micro, '--steps', 2000)
    one.until(lambda: STAGES['running'](one, tmp_path), 'running')
    family = descendants(one.process.pid)
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
    (line,) = one.err.read_text().splitlines()
    assert 'process simulator ended with code 1' in line and 'real_time_factor' in line


def test_node_benchmark_writes_its_verdict(command, micro, tmp_path):
    arguments = ('--checkpoint', micro, '--seconds', 4, '--json', 'bench.json')
    one = command('bench', '--node', *arguments)
    assert one.wait() in (0, 1), one.text  # the figures depend on how busy this machine is
    result = json.loads((tmp_path / 'bench.json').read_text())
    assert result['ok'] is (one.process.returncode == 0)
    assert result['queries'] > 0 and result['overhead_ms']['p50'] > 0
    assert set(result['sent_hz']) == set(result['received_hz']) == {'primary', 'wrist'}
    assert all(rate > 0 for rate in result['received_hz'].values())
    assert 'node overhead' in one.out.read_text() and 'target: overhead p50' in one.out.read_text()
    assert 'Traceback' not in one.text


def test_node_benchmark_says_at_once_why_the_node_does_not_load(command, micro, tmp_path):
    (tmp_path / 'empty').mkdir()
    one = command('bench', '--node', '--checkpoint', 'empty')
    assert one.wait() == 1
    (line,) = one.err.read_text().splitlines()
    assert line.startswith('error: vla_policy does not run, it says: config.json is missing')
    assert line.endswith('point checkpoint at a folder in the published OpenVLA-OFT layout')
