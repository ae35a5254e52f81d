"""Lines for those who have no terminal, on a clock that the test moves."""

import io
import time

import pytest
from rich.console import Console

from vla_prune_ros.runtime import progress as module
from vla_prune_ros.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


def log(**options):
    return Console(file=io.StringIO(), width=100, **options)


def test_a_line_when_a_stage_begins_and_after_every_period(clock):
    progress = Progress(log(), every_s=30.0)
    progress.stage('recording', 4)
    for done, clock[0] in enumerate((100.0, 101.0, 129.9, 130.0)):
        progress.at(done, f'[{clock[0]:g}]')
    for done, clock[0] in ((4, 131.0), (4, 132.0)):
        progress.at(done, f'[{clock[0]:g}]')
    progress.stage('training', 5)
    progress.at(1)
    progress.stage('measuring')
    assert progress.console.file.getvalue().splitlines() == [
        'recording 0/4  [100]',
        'recording 3/4  [130]',
        'recording 4/4  [132]',
        'training 1/5',
    ]


def test_the_last_count_is_printed_however_quick_it_came(clock):
    with Progress(log()) as progress:
        both = [progress.add(name, 3) for name in 'ab']
        for done in range(4):
            for stage in both:
                stage.update(done)
    lines = progress.console.file.getvalue().splitlines()
    assert lines == ['a 0/3; b 0/3', 'a 3/3; b 3/3']


def test_stages_that_are_complete_or_not_logged_are_left_out(clock):
    progress = Progress(log())
    stages = [progress.add(name, 2, logged=name != 'c') for name in 'abc']
    stages[0].update(2)
    stages[2].update(1)
    clock[0] += 60.0
    stages[1].update(1, '[bold]')
    assert progress.console.file.getvalue().splitlines() == ['b 0/2', 'b 1/2  [bold]']


def test_lines_go_on_where_nothing_is_reported():
    with Progress(log(), every_s=0.01) as progress:
        progress.stage('one long episode', 1)
        while progress.console.file.getvalue().count('one long episode 0/1') < 3:
            time.sleep(0.01)


def test_a_terminal_gets_bars_and_no_lines():
    with Progress(log(force_terminal=True)) as progress:
        progress.stage('[recording]', 3)
        progress.at(3, 'done')
        progress.say('[an event]')
    written = progress.console.file.getvalue()
    assert '[recording]' in written and '3/3' in written and '[an event]' in written
    assert '[recording] 3/3' not in written  # as a line would have it


def test_nothing_is_printed_where_nothing_began():
    with pytest.raises(ValueError), Progress(log()) as progress:
        raise ValueError
    assert progress.console.file.getvalue() == ''
