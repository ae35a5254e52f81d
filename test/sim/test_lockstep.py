"""Which commands let a step begin; expected answers are counted by hand."""

import pytest

from vla_prune_ros.sim.session import PARTS, Lockstep


@pytest.fixture
def at_ten():
    lockstep = Lockstep()
    lockstep.expect(10)
    return lockstep


def test_a_step_waits_for_all_parts_in_any_order(at_ten):
    assert at_ten.missing == ('twist', 'gripper')
    at_ten.got('gripper', 10)
    assert at_ten.missing == ('twist',)
    at_ten.got('twist', 10)
    assert at_ten.missing == ()


@pytest.mark.parametrize('stamp_ns', [0, 9, 11])
def test_a_command_of_another_instant_counts_for_nothing(at_ten, stamp_ns):
    for part in PARTS:
        assert not at_ten.wants(part, stamp_ns)
        at_ten.got(part, stamp_ns)
    assert at_ten.missing == PARTS


def test_the_first_of_its_kind_is_taken_and_no_other(at_ten):
    assert at_ten.wants('twist', 10)
    at_ten.got('twist', 10)
    assert not at_ten.wants('twist', 10) and at_ten.wants('gripper', 10)


def test_the_next_instant_wants_everything_anew(at_ten):
    for part in PARTS:
        at_ten.got(part, 10)
    at_ten.expect(20)
    assert at_ten.missing == PARTS
    assert at_ten.wants('twist', 20) and not at_ten.wants('twist', 10)
