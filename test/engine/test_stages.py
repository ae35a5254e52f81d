"""Stage times come from a scripted clock."""

from collections.abc import Callable

import pytest

from vla_prune_ros.engine.stages import StageTimer


def scripted(*milliseconds: float) -> Callable[[], int]:
    times = iter(milliseconds)
    return lambda: round(next(times) * 1e6)


def test_stages_accumulate_and_total_includes_gaps() -> None:
    timer = StageTimer(clock=scripted(10, 12, 20, 25, 30, 31))
    for name in ('a', 'b', 'a'):
        with timer.stage(name):
            pass
    assert timer.milliseconds() == {'a': 3.0, 'b': 5.0, 'total': 21.0}


def test_nested_stages_count_their_own_wall_time() -> None:
    timer = StageTimer(clock=scripted(0, 1, 4, 10))
    with timer.stage('outer'), timer.stage('inner'):
        pass
    assert timer.milliseconds() == {'inner': 3.0, 'outer': 10.0, 'total': 10.0}


def test_no_stage_is_zero() -> None:
    assert StageTimer().milliseconds() == {'total': 0.0}


def test_a_failing_stage_is_timed() -> None:
    timer = StageTimer(clock=scripted(0, 7))
    with pytest.raises(KeyError), timer.stage('a'):
        raise KeyError
    assert timer.total == 7.0


def test_sync_precedes_every_reading() -> None:
    order: list[str] = []

    def clock() -> int:
        order.append('clock')
        return 0

    with StageTimer(lambda: order.append('sync'), clock).stage('a'):
        order.append('work')
    assert order == ['sync', 'clock', 'work', 'sync', 'clock']
