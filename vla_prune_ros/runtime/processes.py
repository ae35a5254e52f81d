"""Child processes that never outlive their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import VlaPruneError

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0


def _die_with_parent() -> None:
    """In the child, before exec: the kernel ends it when the parent's thread ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """A group of named child processes with a log each, ``log_dir/<name>.log``.

    Leaving the ``with`` block, by whatever way, ends them all: SIGINT, then SIGKILL after a grace.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str]) -> None:
        self.log_dir = log_dir
        self._env = dict(env)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> 'Processes':
        self.log_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, module: str, arguments: Sequence[str] = ()) -> None:
        """Start ``python -m module arguments`` under ``name``."""
        with self.log_path(name).open('wb') as log:
            # Its own session: Ctrl-C in the terminal reaches the parent alone, which ends the
            # children in order.
            self._children[name] = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def log_path(self, name: str) -> Path:
        return self.log_dir / f'{name}.log'

    def check(self) -> None:
        """:raises VlaPruneError: a child has ended; its last line is in the message."""
        for name, child in self._children.items():
            if child.poll() is not None:
                log = self.log_path(name).read_text(errors='replace')
                last = log.strip().rpartition('\n')[2]
                what = f'process {name} ended with code {child.returncode}: {last}'
                raise VlaPruneError(what, f'see {self.log_path(name)}')

    def stop(self) -> None:
        """End all children and wait for them; a second Ctrl-C meanwhile kills them at once."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_S
        try:
            for child in self._children.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for child in self._children.values():
                if child.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            self._children.clear()
