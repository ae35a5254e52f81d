"""Intervals and tests of success rates.

Expected numbers: Newcombe's interval as published for three tables (Altman et al., Statistics with
Confidence, 2000, table 6.2; Fagerland, Lydersen and Laake, Statistical Analysis of Contingency
Tables, 2017, chapter 8); Wilson's as the roots of the score equation; McNemar's p-value as a sum
of binomial coefficients.
"""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.evaluate.statistics import mcnemar, newcombe_paired, paired, percentiles, wilson

Z = 1.959963984540054
COUNTS = st.integers(0, 60)


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(1, 300), st.data())
def test_wilson_limits_solve_the_score_equation(n, data):
    k = data.draw(st.integers(0, n))
    found = wilson(k, n)
    for limit in (found.low, found.high):
        assert abs(k / n - limit) == pytest.approx(
            Z * math.sqrt(max(limit * (1 - limit), 0) / n), abs=1e-7
        )
    assert -1e-12 <= found.low <= k / n <= found.high <= 1 + 1e-12


def exact_p(lost, won):
    """Two-sided: all outcomes of a fair coin that are at most as likely as the one seen."""
    n = lost + won
    seen = math.comb(n, won)
    return Fraction(sum(math.comb(n, k) for k in range(n + 1) if math.comb(n, k) <= seen), 2**n)


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(0, 25), st.integers(0, 25))
def test_mcnemar_is_the_sum_of_binomial_terms(lost, won):
    assert mcnemar(lost, won) == pytest.approx(float(exact_p(lost, won)), rel=1e-9)


@pytest.mark.parametrize(
    ('table', 'low', 'high', 'digits'),
    [((14, 5, 0, 22), 0.011, 0.226, 3), ((59, 6, 16, 80), -0.1186, -0.0046, 4),
     ((1, 1, 7, 12), -0.507, -0.026, 3)],
)  # fmt: skip
def test_published_intervals(table, low, high, digits):
    found = newcombe_paired(*table)
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)


@settings(deadline=None)  # the first call imports scipy
@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_interval_holds_the_difference_and_mirrors(a, b, c, d):
    n = a + b + c + d
    if n == 0:
        return
    one, other = newcombe_paired(a, b, c, d), newcombe_paired(a, c, b, d)
    assert -1 - 1e-9 <= one.low <= (b - c) / n + 1e-12 and (b - c) / n - 1e-12 <= one.high
    assert one.high <= 1 + 1e-9
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)


def test_methods_are_compared_episode_by_episode():
    baseline = [True, True, True, False, False, True, True, True]
    method = [True, False, False, True, False, False, True, True]
    found = paired(baseline, method)
    assert (found.pairs, found.only_first, found.only_this) == (8, 3, 1)
    assert found.points == pytest.approx(-25)  # 4 of 8 against 6 of 8
    assert found.p_value == pytest.approx(0.625)  # 2 * (1 + 4) / 16
    assert found.points_ci95 == pytest.approx([100 * end for end in newcombe_paired(3, 1, 3, 1)])
    with pytest.raises(ValueError):
        paired([True], [True, False])


@pytest.mark.parametrize(
    ('values', 'which', 'want'),
    [
        ([], (50, 95), None),
        ([1, 2, 3, 4], (50, 95), {'p50': 2.5, 'p95': 3.85}),  # rank 0.95 * 3 = 2.85
        (range(101), (5, 97), {'p5': 5.0, 'p97': 97.0}),
    ],
)
def test_percentiles_interpolate_between_ranks(values, which, want):
    assert percentiles(values, which) == pytest.approx(want)
