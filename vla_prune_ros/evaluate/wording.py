"""What the policy is told: the task's own words, other words, or the same with colours swapped."""

import re

from ..errors import VlaPruneError
from ..runtime.instruction import clean_instruction

OTHER = 'other'
"""Value of ``--instruction`` for the control: each task gets its sister's instruction."""

_COLOURS = ('red', 'green')
_WORD = re.compile(rf'\b({"|".join(_COLOURS)})\b')


def wording(asked: str, own: str) -> str | None:
    """What the policy is told in a task.

    :param asked: ``''``, :data:`OTHER`, or an instruction.
    :param own: the task's instruction.
    :returns: None for the task's own.
    :raises VlaPruneError: the sister of an instruction without colours is asked for, or the
        instruction is not usable.
    """
    if not asked:
        return None
    return swapped(own) if asked == OTHER else clean_instruction(asked)


def swapped(instruction: str) -> str:
    """The instruction with red and green in each other's place.

    :raises VlaPruneError: it names neither.
    """
    out, count = _WORD.subn(lambda m: _COLOURS[1 - _COLOURS.index(m[1])], instruction)
    if not count:
        raise VlaPruneError(
            f'{instruction!r} names no colour to swap', 'give --instruction in words'
        )
    return out
