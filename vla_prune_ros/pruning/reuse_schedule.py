"""How many static tokens VLA-Cache reuses at which depth: by how focused the attention is there.

The paper (arXiv 2502.02175) lets the share grow with the entropy that the attention has lost so
far, alpha_l = min(k * sum_j R_j, 1), and prints no k. Its released code has another form with all
numbers given, and that is what stands here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-10


def attention_entropy(attention: Tensor) -> Tensor:
    """Mean over rows of -sum p ln(p + 1e-10), p a row divided by its sum + 1e-10.

    :param attention: float32 (..., R, n), mean over heads.
    :returns: float32 (...,): 0 where every row looks at one token, ln(n) where at all alike.
    """
    p = attention / (attention.sum(dim=-1, keepdim=True) + EPSILON)
    return -(p * torch.log(p + EPSILON)).sum(dim=-1).mean(dim=-1)


def reuse_shares(entropies: Sequence[float], growth: float) -> list[float]:
    """Share of the reusable tokens that each layer may reuse, 0 to 1.

    1 - (E - min) / (max - min + 1e-10) over all layers; from layer to layer a rise counts only
    ``growth`` times, a fall in full.

    :param entropies: one per layer, in order of depth.
    :param growth: 0 to 1.
    """
    low, high = min(entropies), max(entropies)
    shares = [1.0 - (e - low) / (high - low + EPSILON) for e in entropies]
    for i in range(1, len(shares)):
        rise = shares[i] - shares[i - 1]
        if rise > 0:
            shares[i] = shares[i - 1] + growth * rise
    return shares


def reuse_counts(shares: Sequence[float], before: Sequence[int], reusable: int) -> dict[int, int]:
    """Tokens reused from each of the layers ``before`` on.

    int(share * reusable), at least 1; never fewer than at an earlier layer, since a token that was
    left out has nothing to come back with.

    :param before: layers, ascending.
    :param reusable: 1 or more.
    :returns: layer -> count, 1 to ``reusable``.
    """
    counts, most = {}, 1
    for layer in before:
        most = max(most, int(shares[layer] * reusable))
        counts[layer] = most
    return counts
