"""One pass of LightVLA's training: selection that gradients can cross, length unchanged.

Source: the authors' ``TokenPruner`` in training mode (LiAutoAD/LightVLA a4680fd) and their
``finetune.py``; read-out at the official rows, one before each slot, as both do in training.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..model.openvla import OpenVLAOFT
from ..pruning.baselines import Dense
from ..pruning.layout import Layout
from ..pruning.lightvla_scores import selection_scores, straight_through
from ..pruning.plan import PruningPass


class Selected(NamedTuple):
    """What a training pass gives.

    :param hidden: (B, K * D_action, D), for the action head.
    :param chosen: int64 (B, V), the visual token that each row of the sequence holds.
    :param scores: float32 (B, V, V), without noise.
    """

    hidden: Tensor
    chosen: Tensor
    scores: Tensor


def selected_pass(
    policy: OpenVLAOFT,
    embeddings: Tensor,
    layout: Layout,
    noise: Tensor | None,
    once: bool = False,
) -> Selected:
    """Run the decoder on sequences in which each visual row holds the token it voted for.

    Several rows may hold the same token, each at that token's position; BOS, state, text and
    slots stay what they are.

    :param embeddings: (B, S, D), of :meth:`OpenVLAOFT.embed`.
    :param noise: float32 (B, V, V) added to the scores; None for none.
    :param once: a token that m rows hold weighs 1/m in each of them, so that without noise the
        pass equals inference, where it is there once. Published is False: attention leans towards
        tokens with many votes in training, and no longer at inference.
    """
    bos, visual, others = embeddings.split(
        [1, layout.visual, layout.length - 1 - layout.visual], 1
    )
    scores = selection_scores(visual, others)
    matrix, chosen = straight_through(scores, noise)
    x = torch.cat([bos, matrix.to(visual.dtype) @ visual, others], dim=1)
    positions = torch.arange(layout.length, device=x.device).repeat(len(x), 1)
    positions[:, 1 : 1 + layout.visual] = 1 + chosen
    walk = PruningPass(layout, Dense(), positions)
    bias = shared_weight(chosen, layout).to(x.dtype) if once else None
    return Selected(policy.language_model.read_out(x, walk, bias), chosen, scores)


def shared_weight(chosen: Tensor, layout: Layout) -> Tensor:
    """Bias of the keys, float32 (B, 1, 1, S): -log m for a visual token that m rows hold, else 0.

    :param chosen: int64 (B, V).
    """
    votes = torch.zeros(len(chosen), layout.visual, device=chosen.device)
    votes.scatter_add_(1, chosen, torch.ones_like(votes))
    bias = torch.zeros(len(chosen), layout.length, device=chosen.device)
    bias[:, 1 : 1 + layout.visual] = -votes.gather(1, chosen).log()
    return bias[:, None, None]
