"""Percentiles from their definition."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.engine.timing import Window


def by_definition(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.integers(1, 10))
def test_window_matches_the_definition(values: list[float], size: int) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    held = values[-size:]
    assert window.count == len(held)
    assert window.mean == pytest.approx(sum(held) / len(held), abs=1e-9)
    assert window.p50 == pytest.approx(by_definition(held, 50), abs=1e-9)
    assert window.p95 == pytest.approx(by_definition(held, 95), abs=1e-9)


def test_an_empty_window_is_nan() -> None:
    window = Window(4)
    window.add(1.0)
    window.clear()
    assert window.count == 0
    assert all(math.isnan(v) for v in (window.mean, window.p50, window.p95))
