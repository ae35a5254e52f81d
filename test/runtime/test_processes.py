"""Child processes: started, watched, and ended by whatever way their parent goes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_process import alive

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.runtime import processes
from vla_prune_ros.runtime.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = 'import time\nprint("ready", flush=True)\nwhile True: time.sleep(0.05)\n'
STUBBORN = (
    'import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n' + SLEEPER
)
POLITE = (
    'import signal, sys\ndef end(*_):\n    print("bye", flush=True)\n    sys.exit()\n'
    'signal.signal(signal.SIGINT, end)\n' + SLEEPER
)
FAILS = 'import sys\nprint("first")\nprint("error: no such robot; plug it in")\nsys.exit(3)\n'


@pytest.fixture
def env(tmp_path):
    """Environment in which ``python -m NAME`` runs a small script."""
    for name, code in (
        ('sleeper', SLEEPER),
        ('stubborn', STUBBORN),
        ('polite', POLITE),
        ('fails', FAILS),
    ):
        (tmp_path / f'{name}.py').write_text(code)
    return {**os.environ, 'PYTHONPATH': os.pathsep.join((str(tmp_path), str(ROOT)))}


def until(done):
    deadline = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(group):
    return [child.pid for child in group._children.values()]


def says(group, name, text='ready'):
    return text in group.log_path(name).read_text()


def test_output_goes_to_a_log_of_its_own_and_leaving_ends_all(tmp_path, env):
    with Processes(tmp_path / 'logs' / 'deep', env) as group:
        group.start('a', 'polite')
        group.start('b', 'sleeper')
        until(lambda: says(group, 'a') and says(group, 'b'))
        group.check()
        children = pids(group)
        assert all(map(alive, children))
    assert not any(map(alive, children))
    assert says(group, 'a', 'bye')
    assert group.log_path('a') == tmp_path / 'logs' / 'deep' / 'a.log'


def test_an_error_in_the_block_ends_all(tmp_path, env):
    """Children lead sessions of their own, so Ctrl-C in the terminal reaches the parent alone."""
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path, env) as group:
        group.start('a', 'sleeper')
        children = pids(group)
        assert os.getsid(children[0]) == children[0] != os.getsid(0)
        raise KeyboardInterrupt
    assert not any(map(alive, children))


def test_who_does_not_listen_is_killed(tmp_path, env, monkeypatch):
    monkeypatch.setattr(processes, '_GRACE_S', 0.2)
    with Processes(tmp_path, env) as group:
        group.start('a', 'stubborn')
        until(lambda: says(group, 'a'))
        children = pids(group)
    assert not any(map(alive, children))


@pytest.fixture
def heeded():
    """A shell lets its background jobs ignore Ctrl-C, and so the tests of such a job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_does_not_wait_for_the_grace(tmp_path, env, monkeypatch, heeded):
    monkeypatch.setattr(processes, '_GRACE_S', 600.0)
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path, env) as group:
        group.start('a', 'stubborn')
        until(lambda: says(group, 'a'))
        children = pids(group)
        again = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
        again.start()
    again.join()
    assert not any(map(alive, children))


@pytest.mark.parametrize(
    ('name', 'last'),
    [('fails', 'code 3: error: no such robot; plug it in; '), ('silent', 'code 0: ')],
)
def test_a_child_that_ended_is_named_with_its_last_line(tmp_path, env, name, last):
    (tmp_path / 'silent.py').write_text('')
    with Processes(tmp_path, env) as group:
        group.start('good', 'sleeper')
        group.start(name, name)
        until(lambda: group._children[name].poll() is not None)
        with pytest.raises(VlaPruneError, match=f'process {name} ended with {last}') as error:
            group.check()
    assert str(tmp_path / f'{name}.log') in error.value.remedy


PARENT = """
import os, sys, time
from pathlib import Path
from vla_prune_ros.runtime.processes import Processes
with Processes(Path(sys.argv[1]), os.environ) as group:
    group.start('child', 'sleeper')
    print(group._children['child'].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_do_not_outlive_their_parent(tmp_path, env, number):
    parent = subprocess.Popen(
        [sys.executable, '-c', PARENT, str(tmp_path / 'logs')],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        child = int(parent.stdout.readline())
        until((tmp_path / 'logs' / 'child.log').exists)
        parent.send_signal(number)
        until(lambda: not alive(child))
        parent.wait(20.0)
