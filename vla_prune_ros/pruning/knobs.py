"""Checks of the knobs of a method: every refusal names the knob and what is possible."""

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ProfileError


def whole(method: str, knob: str, value: Any, low: int) -> int:
    """A whole number of ``low`` or more.

    :raises ProfileError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ProfileError(
            f'{method}: {knob} is {value!r}', f'use a whole number of {low} or more'
        )
    return value


def share(method: str, knob: str, value: Any, zero: bool = False) -> float:
    """A number above 0 and up to 1.

    :param zero: 0 is allowed too.
    :raises ProfileError: it is not one.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 < value <= 1 or (zero and value == 0)):
        low = 'from 0' if zero else 'above 0 and up'
        raise ProfileError(f'{method}: {knob} is {value!r}', f'use a number {low} to 1')
    return float(value)


def weights(method: str, knob: str, value: Any) -> tuple[float, ...]:
    """One or more finite numbers above 0.

    :raises ProfileError: they are not.
    """
    given = tuple(value) if isinstance(value, (list, tuple)) else ()
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in given)
    if not given or not numbers or not all(math.isfinite(w) and w > 0 for w in given):
        raise ProfileError(
            f'{method}: {knob} is {value!r}', 'use numbers above 0, like [0.4, 0.6]'
        )
    return tuple(float(w) for w in given)


def one_of(method: str, knob: str, value: Any, words: Sequence[str]) -> str:
    """One of ``words``.

    :raises ProfileError: it is none of them.
    """
    if value not in words:
        raise ProfileError(f'{method}: {knob} is {value!r}', f'use one of {list(words)}')
    return value


def switch(method: str, knob: str, value: Any) -> bool:
    """True or False.

    :raises ProfileError: it is neither.
    """
    if not isinstance(value, bool):
        raise ProfileError(f'{method}: {knob} is {value!r}', 'use true or false')
    return value
