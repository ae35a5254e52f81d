"""Lines for those who have no terminal, on a clock that the test moves."""

import io

import pytest
from rich.console import Console

from vla_prune_ros.runtime import progress as line_log
from vla_prune_ros.runtime.progress import LineLog


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(line_log.time, 'monotonic', lambda: now[0])
    return now


def test_a_line_now_and_the_next_after_the_period(clock):
    console = Console(file=io.StringIO())
    log = LineLog(console, 5.0)
    for clock[0] in (100.0, 101.0, 104.9, 105.0, 109.9):
        log.show(f'[{clock[0]:g}]')
    log.restart()
    log.show('restarted')
    assert console.file.getvalue().split() == ['[100]', '[105]', 'restarted']


def test_a_terminal_gets_no_line(clock):
    console = Console(file=io.StringIO(), force_terminal=True)
    LineLog(console).show('a line')
    assert console.file.getvalue() == ''
