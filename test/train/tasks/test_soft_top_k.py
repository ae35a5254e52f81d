"""The soft top-K: sums, limits and slopes.

Expected: its definition (shares sum up to K), the hard choice as the limit, finite differences.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.train.tasks.acl_scorer import laplace_cdf, soft_top_k


@given(st.integers(2, 40), st.floats(0.05, 3.0), st.integers(0, 10_000), st.data())
def test_the_shares_sum_up_to_k_and_keep_the_order(n, alpha, seed, data):
    k = data.draw(st.integers(1, n - 1))
    scores = 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = soft_top_k(scores, k, alpha)
    assert float(shares.sum()) == pytest.approx(k, abs=1e-6)
    assert shares.min() >= 0 and shares.max() <= 1
    assert (shares[scores.argsort()].diff() >= -1e-12).all()


def test_a_small_temperature_is_the_hard_choice():
    scores = torch.tensor([[0.3, 2.0, -1.0, 1.2], [5.0, 4.0, 3.0, 2.0]])
    shares = soft_top_k(scores, 2, 0.01)
    assert torch.allclose(shares, torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0]]), atol=1e-6)


def test_the_slope_is_that_of_differences():
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, 4, 0.7), (scores,), atol=1e-6)


def test_the_distribution_is_laplaces():
    x = torch.linspace(-6, 6, 41, dtype=torch.float64)
    known = torch.distributions.Laplace(torch.tensor(0.0), torch.tensor(1.0)).cdf(x)
    torch.testing.assert_close(laplace_cdf(x), known)
