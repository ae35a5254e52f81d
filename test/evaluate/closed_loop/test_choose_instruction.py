"""What the policy is told in place of the task's words."""

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.closed_loop.rollout import choose_instruction, swapped
from vla_prune_ros.sim.two_cubes import TASKS


def test_the_sister_of_every_task_is_a_task():
    said = {task.instruction for task in TASKS.values()}
    for task in TASKS.values():
        other = swapped(task.instruction)
        assert other in said and other != task.instruction
        assert swapped(other) == task.instruction


def test_only_whole_words_are_colours():
    assert swapped('a green cube, covered by a red one') == 'a red cube, covered by a green one'
    with pytest.raises(VlaPruneError, match='names no colour'):
        swapped('open the covered drawer')


def test_own_words_other_words_and_given_words():
    own = 'pick up the red cube'
    assert choose_instruction('', own) is None
    assert choose_instruction('other', own) == 'pick up the green cube'
    assert choose_instruction(' Wave. ', own) == 'wave'
    with pytest.raises(VlaPruneError, match='instruction is empty'):
        choose_instruction('...', own)
