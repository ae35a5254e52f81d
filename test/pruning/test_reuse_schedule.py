"""Schedule of VLA-Cache against plain loops, and against values worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.methods.vla_cache import attention_entropy, reuse_counts, reuse_shares


def test_entropy_of_one_token_and_of_all_alike():
    """0 and ln(8); rows need not sum to 1."""
    one = torch.zeros(3, 8)
    one[:, 2] = 0.25
    assert float(attention_entropy(one)) == pytest.approx(0.0, abs=1e-6)
    assert float(attention_entropy(torch.full((3, 8), 0.01))) == pytest.approx(math.log(8), 1e-5)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
def test_entropy_against_loops(layers, rows, tokens, seed):
    attention = torch.rand(layers, rows, tokens, generator=torch.Generator().manual_seed(seed))
    want = []
    for layer in attention.tolist():
        total = 0.0
        for row in layer:
            mass = sum(row) + 1e-10
            for a in row:
                total -= a / mass * math.log(a / mass + 1e-10)
        want.append(total / rows)
    assert attention_entropy(attention).tolist() == pytest.approx(want, abs=1e-5)


def test_shares_worked_out_by_hand():
    """Entropies 4, 3, 5, 1 give 1 - (E - 1) / 4 = 0.25, 0.5, 0, 1.

    The rise to 0.5 counts 0.55 times: 0.3875; the fall to 0 in full; the rise to 1 0.55 times.
    """
    want = [0.25, 0.3875, 0.0, 0.55]
    assert reuse_shares([4.0, 3.0, 5.0, 1.0], 0.55) == pytest.approx(want, abs=1e-9)


@given(st.lists(st.floats(0, 7), min_size=1, max_size=40), st.floats(0, 1))
def test_shares_stay_from_0_to_1_and_below_the_undamped_ones(entropies, growth):
    shares, undamped = reuse_shares(entropies, growth), reuse_shares(entropies, 1.0)
    assert len(shares) == len(entropies)
    assert all(-1e-9 <= s <= u + 1e-9 for s, u in zip(shares, undamped, strict=True))
    assert max(undamped) <= 1.0


@given(
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.sets(st.integers(1, 11)).map(sorted),
    st.integers(1, 300),
)
def test_counts_against_the_released_walk(shares, before, reusable):
    """The released decoder cuts the list at each place, and skips a cut that is shorter."""
    ids, last, want = list(range(reusable)), None, {}
    for layer in before:
        cut = ids[: max(1, int(shares[layer] * len(ids)))]
        if last is None or len(last) <= len(cut):
            last = cut
        want[layer] = len(last)
    assert reuse_counts(shares, before, reusable) == want
