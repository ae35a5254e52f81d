"""Percentiles; success rates and their paired comparison, with intervals of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


def percentiles(
    values: Sequence[float] | np.ndarray, which: Sequence[int] = (50, 95)
) -> dict[str, float] | None:
    """``{'p50': ..., 'p95': ...}`` by numpy's linear interpolation; None without values."""
    if not len(values):
        return None
    found = np.percentile(np.asarray(values, np.float64), which)
    return {f'p{q}': float(v) for q, v in zip(which, found, strict=True)}


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A method against a first one over the episodes that both have run."""

    pairs: int
    only_first: int  # episodes that the first method alone solved
    only_this: int
    points: float  # success rate less that of the first, in percent
    points_ci95: tuple[float, ...]
    p_value: float  # exact and two-sided, of "both are equally good"


def wilson(successes: int, episodes: int) -> Interval:
    """Wilson's score interval of a success rate (Wilson 1927, without continuity correction)."""
    from scipy.stats import binomtest

    found = binomtest(successes, episodes).proportion_ci(CONFIDENCE, method='wilson')
    return Interval(float(found.low), float(found.high))


def mcnemar(only_first: int, only_this: int) -> float:
    """Exact and two-sided: discordant episodes fall on either side with probability 1/2."""
    from scipy.stats import binomtest

    discordant = only_first + only_this
    return float(binomtest(only_this, discordant).pvalue) if discordant else 1.0


def paired(first: Sequence[bool], this: Sequence[bool]) -> Paired:
    """Success per episode of two methods, the same episodes in the same order."""
    pairs = list(zip(first, this, strict=True))
    both, lost = pairs.count((True, True)), pairs.count((True, False))
    won, neither = pairs.count((False, True)), pairs.count((False, False))
    return Paired(
        pairs=len(pairs),
        only_first=lost,
        only_this=won,
        points=100.0 * ((won - lost) / len(pairs)),
        points_ci95=tuple(100.0 * end for end in newcombe_paired(both, won, lost, neither)),
        p_value=mcnemar(lost, won),
    )


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """Interval of the difference of two paired proportions, first less second.

    Newcombe, Statistics in Medicine 17 (1998), method 10: the Wilson intervals of both rates, put
    together with the correlation of the pairs, which is corrected for continuity where it is
    positive.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    margins = first * (n - first) * second * (n - second)
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:
        covariance = max(covariance - n / 2.0, 0.0)
    phi = covariance / math.sqrt(margins) if margins else 0.0

    def combine(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2.0 * phi * a * b + b * b, 0.0))  # below 0 by rounding only

    one, two = wilson(first, n), wilson(second, n)
    p1, p2 = first / n, second / n
    below = combine(p1 - one.low, two.high - p2)
    above = combine(one.high - p1, p2 - two.low)
    return Interval(p1 - p2 - below, p1 - p2 + above)
