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
from ..pruning.learned_queries import LearnedQueries
from ..pruning.lightvla_scores import selection_scores, straight_through
from ..pruning.walk import PruningPass
from .forward import chosen_read_out


class Selected(NamedTuple):
    """What a training pass gives; R rows vote, one per visual token or one per learned query.

    :param hidden: (B, K * D_action, D), for the action head.
    :param chosen: int64 (B, R), the visual token that each row of the sequence holds.
    :param scores: float32 (B, R, V), without noise.
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
    queries: LearnedQueries | None = None,
) -> Selected:
    """Run the decoder on sequences in which each visual row holds the token it voted for.

    Several rows may hold the same token, each at that token's position; BOS, state, text and
    slots stay what they are.

    :param embeddings: (B, S, D), of :meth:`OpenVLAOFT.embed`.
    :param noise: float32 (B, R, V) added to the scores; None for none.
    :param once: a token that m rows hold weighs 1/m in each of them, so that without noise the
        pass equals inference, where it is there once. Published is False: attention leans towards
        tokens with many votes in training, and no longer at inference.
    :param queries: LightVLA*: they vote, behind their layer; None for one vote per visual token.
    """
    x, language = embeddings, policy.language_model
    first = 0 if queries is None else queries.after + 1
    if first:
        everything = torch.arange(layout.length, device=x.device)
        x = language.first_layers(x, PruningPass(layout, Dense(), everything), first)
    visual, others = x[:, 1 : 1 + layout.visual], x[:, 1 + layout.visual :]
    with torch.autocast(x.device.type, enabled=False):  # inference compares in float32 as well
        score = selection_scores if queries is None else queries.scores
        scores = score(visual, others)
        matrix, chosen = straight_through(scores, noise)
        rows = (matrix @ visual.float()).to(visual.dtype)
    bias = shared_weight(chosen, layout).to(x.dtype) if once else None
    hidden = chosen_read_out(policy, x, layout, chosen, rows, bias, first)
    return Selected(hidden, chosen, scores)


def shared_weight(chosen: Tensor, layout: Layout) -> Tensor:
    """Bias of the keys: -log m for a visual token that m rows hold, else 0.

    :param chosen: int64 (B, R). :param layout: of the whole sequence.
    :returns: float32 (B, 1, 1, 1 + R + the rows behind the visual ones).
    """
    votes = torch.zeros(len(chosen), layout.visual, device=chosen.device)
    votes.scatter_add_(1, chosen, torch.ones(chosen.shape, device=chosen.device))
    others = layout.length - 1 - layout.visual
    weight = -votes.gather(1, chosen).log()
    return torch.nn.functional.pad(weight, (1, others))[:, None, None]
