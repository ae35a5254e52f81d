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
    policy: OpenVLAOFT, embeddings: Tensor, layout: Layout, noise: Tensor | None
) -> Selected:
    """Run the decoder on sequences in which each visual row holds the token it voted for.

    Several rows may hold the same token, each at that token's position; BOS, state, text and
    slots stay what they are.

    :param embeddings: (B, S, D), of :meth:`OpenVLAOFT.embed`.
    :param noise: float32 (B, V, V) added to the scores; None for none.
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
    return Selected(policy.language_model.read_out(x, walk), chosen, scores)
