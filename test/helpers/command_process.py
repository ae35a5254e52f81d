"""``vla-prune`` as a user runs it: a process, and whatever it starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 400.0


class Command:
    """``vla-prune`` with arguments, in a process group of its own like a job of a shell."""

    def __init__(self, folder, *arguments):
        self._out, self._err = folder / 'stdout', folder / 'stderr'
        with self._out.open('wb') as out, self._err.open('wb') as err:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'vla_prune_ros.cli', *map(str, arguments)],
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, 'PYTHONPATH': str(ROOT)},
                start_new_session=True,
            )

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    def until(self, done, what):
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert self.process.poll() is None, f'it ended before {what}: {self.out}{self.err}'
            assert time.monotonic() < deadline, f'no {what}: {self.out}{self.err}'
            time.sleep(0.05)

    def wait(self):
        """The exit code; a traceback is no way to end."""
        code = self.process.wait(WAIT_S)
        assert 'Traceback' not in self.out + self.err
        return code

    def family(self):
        return descendants(self.process.pid)

    def end(self):
        """Whatever is there when a test fails."""
        for pid in (*self.family(), self.process.pid):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def stat(pid):
    """State and parent of a process; None where it is gone."""
    try:
        state, parent = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[:2]
    except OSError:
        return None
    return state, int(parent)


def alive(pid):
    found = stat(pid)
    return found is not None and found[0] != 'Z'


def descendants(pid):
    """Children, their children, and so on."""
    parents = {int(p.name): stat(p.name) for p in Path('/proc').glob('[0-9]*')}
    children = [p for p, found in parents.items() if found is not None and found[1] == pid]
    return children + [d for child in children for d in descendants(child)]
