"""Knobs that are not possible are refused by name, with what is possible."""

import pytest

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.knobs import one_of, share, switch, weights, whole


@pytest.mark.parametrize(
    ('check', 'good', 'bad'),
    [
        (lambda v: whole('m', 'k', v, 2), [2, 9], [1, 2.0, True, '3', None]),
        (lambda v: share('m', 'k', v), [0.1, 1, 1.0], [0, 1.1, -1, True, '0.5', float('nan')]),
        (lambda v: share('m', 'k', v, zero=True), [0, 0.5, 1], [-0.1, 2, False]),
        (
            lambda v: weights('m', 'k', v, 3),
            [(1,), (0.4, 0.6)],
            [(), '0.5', (0, 1), (1, float('inf')), ('a',), (True,), (1, 2, 3, 4)],
        ),
        (lambda v: one_of('m', 'k', v, ('a', 'b')), ['a', 'b'], ['c', None, 1]),
        (lambda v: switch('m', 'k', v), [True, False], [1, 'true', None]),
    ],
)
def test_possible_values_come_back_and_others_are_refused(check, good, bad):
    for value in good:
        assert check(value) == value
    for value in bad:
        with pytest.raises(ProfileError, match='m: k is .*; use'):
            check(value)
