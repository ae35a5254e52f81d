"""Checks of the knobs of a method: every refusal names the knob and what is possible."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import ProfileError

MANY = 10**6


def is_whole(value: Any) -> bool:
    """True for whole numbers, numpy's too; not for booleans."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """True for real numbers, numpy's too; not for booleans."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole(method: str, knob: str, value: Any, low: int) -> int:
    """A whole number from ``low`` to a million.

    :raises ProfileError: it is not one.
    """
    if not is_whole(value) or not low <= value <= MANY:
        raise ProfileError(
            f'{method}: {knob} is {value!r}', f'use a whole number of {low} or more'
        )
    return int(value)


def share(method: str, knob: str, value: Any, zero: bool = False) -> float:
    """A number above 0 and up to 1.

    :param zero: 0 is allowed too.
    :raises ProfileError: it is not one.
    """
    if not is_number(value) or not (0 < value <= 1 or (zero and value == 0)):
        low = 'from 0' if zero else 'above 0 and up'
        raise ProfileError(f'{method}: {knob} is {value!r}', f'use a number {low} to 1')
    return float(value)


def weights(method: str, knob: str, value: Any, most: int) -> tuple[float, ...]:
    """One to ``most`` finite numbers above 0.

    :raises ProfileError: they are not.
    """
    given = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    good = all(is_number(w) and math.isfinite(w) and w > 0 for w in given)
    if not good or not 1 <= len(given) <= most:
        raise ProfileError(
            f'{method}: {knob} is {value!r}', f'use 1 to {most} numbers above 0, one per camera'
        )
    return tuple(float(w) for w in given)


def one_of(method: str, knob: str, value: Any, words: Sequence[str]) -> str:
    """One of ``words``.

    :raises ProfileError: it is none of them.
    """
    if not isinstance(value, str) or value not in words:
        raise ProfileError(f'{method}: {knob} is {value!r}', f'use one of {list(words)}')
    return value


def switch(method: str, knob: str, value: Any) -> bool:
    """True or False.

    :raises ProfileError: it is neither.
    """
    if not isinstance(value, bool):
        raise ProfileError(f'{method}: {knob} is {value!r}', 'use true or false')
    return value
