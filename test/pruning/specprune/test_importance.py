"""Running scores against plain Python loops over floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.specprune.importance import (
    RunningMean,
    entropy_confidence,
    num_kept_of_sequence,
    rank_weights,
)

UNIT = st.floats(0, 1, width=32)


def test_float32_cannot_tell_ranks_from_89_on_float64_can():
    """exp overflows float32 above ln(3.4e38) = 88.7 (pruning-methods, correction 7)."""
    assert [i for i, w in enumerate(rank_weights(120, 1.0, torch.zeros(0))) if w == 0][0] == 89
    exact = rank_weights(512, 1.0, torch.zeros(0, dtype=torch.float64))
    assert len(set(exact.tolist())) == 512


@given(
    st.lists(
        st.lists(st.floats(0.015625, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=4
    )
)
def test_confidence_is_one_over_the_mean_normalised_entropy(rows):
    entropies = []
    for row in rows:
        p = [(a + 1e-8) / sum(b + 1e-8 for b in row) for a in row]
        entropies.append(-sum(x * math.log(x) for x in p))
    want = 1 / (sum(entropies) / len(entropies) / math.log(5) + 1e-8)
    assert float(entropy_confidence(torch.tensor(rows))) == pytest.approx(want, rel=1e-3)


@given(
    st.lists(st.tuples(st.booleans(), UNIT, UNIT), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0.1, 50),
)
def test_update_touches_kept_tokens_only(tokens, beta, confidence):
    """Ranks by descending attention, ties to the lower id."""
    ids = [i for i, (kept, _, _) in enumerate(tokens) if kept]
    if not ids:
        return
    before = [old for _, old, _ in tokens]
    order = sorted(ids, key=lambda i: (-tokens[i][2], i))
    raw = [1 / (1 + math.exp(rank)) for rank in range(len(ids))]
    want = list(before)
    for rank, i in enumerate(order):
        want[i] = (1 - beta) * before[i] + beta * raw[rank] / sum(raw) * confidence
    got = RunningMean(beta=beta).update(
        torch.tensor(before, dtype=torch.float64),
        torch.tensor(ids),
        torch.tensor([tokens[i][2] for i in ids]),
        torch.tensor(confidence, dtype=torch.float64),
    )
    assert got.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ('length', 'visual', 'floor', 'want'),
    [
        (266, 174, 151, 147),  # int(0.9 * 266) = 239, less 92 that are not visual
        (151, 59, 151, 59),  # at the floor: nothing goes
        (160, 68, 151, 59),  # int(0.9 * 160) = 144 is below the floor
        (100, 20, 151, 20),  # shorter than the floor: all stay
    ],
)
def test_a_ratio_of_the_sequence_is_kept_down_to_a_floor(length, visual, floor, want):
    assert num_kept_of_sequence(length, visual, 0.9, floor) == want
