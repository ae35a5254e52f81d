"""Stage times come from a scripted clock."""

import pytest

from vla_prune_ros.engine.timing import StageTimer


def scripted(*milliseconds):
    times = iter(milliseconds)
    return lambda: round(next(times) * 1e6)


def test_stages_accumulate_and_total_includes_gaps():
    timer = StageTimer(clock=scripted(10, 12, 20, 25, 30, 31))
    for name in ('a', 'b', 'a'):
        with timer.stage(name):
            pass
    assert timer.milliseconds() == {'a': 3.0, 'b': 5.0, 'total': 21.0}


def test_nested_stages_add_up():
    """Outer 0-10 with inner 1-4 and 6-7 inside, and 6.25-6.75 inside that."""
    timer = StageTimer(clock=scripted(0, 1, 4, 6, 6.25, 6.75, 7, 10))
    with timer.stage('outer'):
        with timer.stage('inner'):
            pass
        with timer.stage('inner'), timer.stage('innermost'):
            pass
    assert timer.milliseconds() == {'outer': 6.0, 'inner': 3.5, 'innermost': 0.5, 'total': 10.0}


def test_a_failing_stage_is_timed():
    timer = StageTimer(clock=scripted(0, 7))
    with pytest.raises(KeyError), timer.stage('a'):
        raise KeyError
    assert timer.milliseconds() == {'a': 7.0, 'total': 7.0}


def test_sync_precedes_every_reading():
    order = []

    def clock():
        order.append('clock')
        return 0

    with StageTimer(lambda: order.append('sync'), clock).stage('a'):
        order.append('work')
    assert order == ['sync', 'clock', 'work', 'sync', 'clock']
