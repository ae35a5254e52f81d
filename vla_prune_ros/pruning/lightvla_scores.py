"""LightVLA's selection without parameters: scores, survivors, straight-through form.

Source: arXiv 2509.12594, section III, and the authors' ``TokenPruner``
(LiAutoAD/LightVLA a4680fd, ``prismatic/extern/hf/modeling_prismatic.py``).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def unit_rms(x: Tensor) -> Tensor:
    """float32 (..., D) with a mean square of one: an RMS norm without a weight."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def selection_scores(visual: Tensor, others: Tensor) -> Tensor:
    """How well each visual token answers the query of each other one: float32 (..., V, V).

    Every visual token asks the text, state and slots by an attention without parameters; what it
    hears is its query, and the score its product with every visual token (eq. 1 to 3).

    :param visual: (..., V, D), un-normalised embeddings.
    :param others: (..., R, D), everything else but BOS.
    """
    scale = visual.shape[-1] ** -0.5
    x, y = unit_rms(visual), unit_rms(others)
    queries = (x @ y.transpose(-1, -2) * scale).softmax(-1) @ y
    return unit_rms(queries) @ x.transpose(-1, -2) * scale


def selected(scores: Tensor) -> Tensor:
    """The columns that are the best of some row, ascending: int64 (k,). Ties: the lower column."""
    return scores.argmax(-1).unique()


def straight_through(scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The selection that training uses: one column per row, duplicates kept.

    :param scores: (..., V, V). :param noise: the same shape, already scaled; None for none.
    :returns: matrix (..., V, V), forward one-hot and backward a softmax, and int64 (..., V), the
        columns chosen.
    """
    noisy = scores if noise is None else scores + noise
    soft = noisy.softmax(-1)
    chosen = noisy.argmax(-1)
    hard = F.one_hot(chosen, scores.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach(), chosen
