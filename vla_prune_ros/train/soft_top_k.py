"""A top-K that gradients can cross: LapSum with the CDF of the Laplace distribution.

Source: Struski et al., "LapSum - one method to differentiate them all" (arXiv 2503.06242), as
VLA-ACL uses it: p_i = F((s_i - b) / alpha), with the one b for which the p sum up to K.
"""

import torch
from torch import Tensor

HALVINGS = 50


def laplace_cdf(x: Tensor) -> Tensor:
    """F(x) = exp(x) / 2 below 0 and 1 - exp(-x) / 2 above."""
    half = 0.5 * torch.exp(-x.abs())
    return torch.where(x < 0, half, 1.0 - half)


def soft_top_k(scores: Tensor, k: int, alpha: float) -> Tensor:
    """Shares in 0 .. 1 that sum up to K, and nearly the hard choice for a small ``alpha``.

    :param scores: float32 (..., N). :param k: 1 .. N - 1.
    :param alpha: temperature.
    :returns: float32 (..., N), differentiable in the scores.
    """
    with torch.no_grad():
        low = scores.amin(-1, keepdim=True) - alpha * 40.0  # F of 40 is 1 in float32
        high = scores.amax(-1, keepdim=True) + alpha * 40.0
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            many = laplace_cdf((scores - middle) / alpha).sum(-1, keepdim=True) > k
            low, high = torch.where(many, middle, low), torch.where(many, high, middle)
        b = 0.5 * (low + high)
        density = torch.exp(-((scores - b) / alpha).abs())
        share = density / density.sum(-1, keepdim=True)
    # db / ds of the condition that the shares sum up to K, without a value of its own.
    b = b + (share * (scores - scores.detach())).sum(-1, keepdim=True)
    return laplace_cdf((scores - b) / alpha)
