"""Layer-wise dynamic pruning: a running score of every visual token, from the action rows.

Formulas: SpecPrune-VLA, arXiv 2509.05614 (rank weight, layer confidence, moving average); the
entropy form of the confidence is that of its third version and of the released code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import best_first

EPSILON = 1e-8


def rank_weights(count: int, k: float, like: Tensor) -> Tensor:
    """sigmoid(-k * rank), ranks 0 .. count - 1, divided by its sum: (count,) in ``like``'s dtype.

    In float32 and with k = 1 ranks from 89 on are exactly 0: the exponential overflows. float64
    tells all ranks apart up to 709 / k.
    """
    ranks = torch.arange(count, dtype=like.dtype, device=like.device)
    weights = 1.0 / (1.0 + torch.exp(k * ranks))
    return weights / weights.sum()


def entropy_confidence(attention: Tensor) -> Tensor:
    """1 / (E + 1e-8), E the mean over rows of the entropy of attention over the visual tokens.

    Each row gets 1e-8 added, is divided by its sum, and its entropy by ln(n): 0 where it looks at
    one token, 1 where it looks at all alike.

    :param attention: float32 (R, n).
    :returns: float32 scalar.
    """
    p = attention + EPSILON
    p = p / p.sum(dim=-1, keepdim=True)
    entropy = -(p * p.log()).sum(dim=-1).mean() / max(math.log(attention.shape[-1]), EPSILON)
    return 1.0 / (entropy + EPSILON)


@dataclass(frozen=True)
class RunningMean:
    """How a layer's scores enter the running score: S = (1 - beta) S + beta w_rank w_conf.

    :param exact: float64, in which no two ranks tie; else float32 as released.
    """

    beta: float = 0.2
    k: float = 1.0
    exact: bool = True

    def start(self, visual: int, device: torch.device) -> Tensor:
        """S = 0 for every original id: (V,)."""
        dtype = torch.float64 if self.exact else torch.float32
        return torch.zeros(visual, dtype=dtype, device=device)

    def update(self, scores: Tensor, ids: Tensor, seen: Tensor, confidence: Tensor) -> Tensor:
        """S after one more layer.

        :param scores: (V,) by original id.
        :param ids: int64 (n,) ascending: the tokens that are left; only theirs change.
        :param seen: float32 (n,) attention that each receives; rank 0 is the highest.
        :param confidence: scalar w_conf of the layer.
        """
        weights = rank_weights(len(ids), self.k, scores)
        fresh = torch.empty_like(weights)
        fresh[best_first(seen)] = weights * confidence.to(weights.dtype)
        out = scores.clone()
        out[ids] = (1.0 - self.beta) * scores[ids] + self.beta * fresh
        return out


def surviving_count(length: int, visual_left: int, keep_ratio: float, floor: int) -> int:
    """Visual tokens that stay where a share of the whole sequence is removed.

    ``max(int(keep_ratio * length), floor)`` tokens of the sequence stay, at most all of them, and
    everything that is not visual is among them (released code).

    :param length: tokens in the sequence now.
    :param floor: least length of the sequence.
    """
    total = min(max(int(keep_ratio * length), floor), length)
    return max(0, total - (length - visual_left))
