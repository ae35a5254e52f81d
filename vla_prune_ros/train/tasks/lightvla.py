"""LightVLA's training: the L1 of the chunk after a noisy selection that gradients can cross.

Source: the authors' ``TokenPruner`` in training mode (LiAutoAD/LightVLA a4680fd) and their
``finetune.py``; read-out at the official rows, one before each slot, as both do in training. The
length of the sequence does not change.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...engine.policy import Policy
from ...model.openvla import OpenVLAOFT
from ...pruning.forward_state import PruningState
from ...pruning.layout import Layout
from ...pruning.methods.baselines import Dense
from ...pruning.methods.lightvla import (
    METHOD,
    TENSOR,
    LearnedQueries,
    selection_scores,
    straight_through,
)
from ...pruning.methods.lightvla import STAR_METHOD as STAR
from ..collate import TrainingBatch
from ..config import FineTuning, LightVLASettings
from ..lora import choose_trainable
from .forward import kept_read_out, visual_tokens


class Selected(NamedTuple):
    """What a training pass gives; R rows vote, one per visual token or one per learned query."""

    hidden: Tensor  # (B, K * D_action, D), for the action head
    kept_ids: Tensor  # int64 (B, R), the visual token that each row of the sequence holds
    scores: Tensor  # float32 (B, R, V), without noise


def selected_pass(
    policy: OpenVLAOFT,
    embeddings: Tensor,
    layout: Layout,
    *,
    noise: Tensor | None = None,
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
        dense = PruningState(layout=layout, pruner=Dense(), positions=everything)
        x = language.run_layers(x, dense, range(first))
    visual, others = x[:, 1 : 1 + layout.visual], x[:, 1 + layout.visual :]
    with torch.autocast(x.device.type, enabled=False):  # inference compares in float32 as well
        score = selection_scores if queries is None else queries.scores
        scores = score(visual, others)
        matrix, kept_ids = straight_through(scores, noise)
        rows = (matrix @ visual.float()).to(visual.dtype)
    bias = shared_weight(kept_ids, layout).to(x.dtype) if once else None
    hidden = kept_read_out(policy, x, layout, kept_ids, rows, bias=bias, first=first)
    return Selected(hidden, kept_ids, scores)


def shared_weight(kept_ids: Tensor, layout: Layout) -> Tensor:
    """Bias of the keys (B, 1, 1, 1 + R + the rows behind the visual ones): -log m for a visual
    token that m of the rows ``kept_ids`` (B, R) hold, else 0."""
    votes = torch.zeros(len(kept_ids), layout.visual, device=kept_ids.device)
    votes.scatter_add_(1, kept_ids, torch.ones(kept_ids.shape, device=kept_ids.device))
    others = layout.length - 1 - layout.visual
    weight = -votes.gather(1, kept_ids).log()
    return torch.nn.functional.pad(weight, (1, others))[:, None, None]


Metrics = dict[str, Tensor]


class LightVLATask(nn.Module):
    def __init__(self, policy: Policy, settings: FineTuning) -> None:
        super().__init__()
        self.policy, self._profile = policy.model, policy.profile
        train = settings.train
        assert isinstance(train, LightVLASettings)
        self.train_settings = train
        width = self.policy.size.text.hidden_size
        self.queries: LearnedQueries | None = None
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            choose_trainable(self.policy, settings.lora)
            if train.queries:
                self.queries = LearnedQueries(width, train.queries, train.after).to(policy.device)

    def forward(
        self, batch: TrainingBatch, progress: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics of a batch after a ratio ``progress`` of the training.

        :param generator: of the noise; None: as at inference, without noise and with tokens that
            count once.
        """
        policy, words = self.policy, batch.prompts.shape[1]
        layout = policy.layout(self._profile.cameras, words, self._profile.chunk)
        visual = visual_tokens(policy, batch.pixels, batch.prompts).flatten(1, 2)
        state = batch.state if batch.state.shape[1] else None
        x = policy.embed(visual, batch.prompts, state, layout)
        train = self.train_settings
        noise = None
        if generator is not None:
            votes = train.queries or layout.visual
            noise = train.noise.at(progress) * torch.rand(
                (len(x), votes, layout.visual), generator=generator, device=x.device
            )
        once = train.shared_weight or generator is None
        found = selected_pass(policy, x, layout, noise=noise, once=once, queries=self.queries)
        actions = policy.action_head(found.hidden)
        kept = torch.zeros(len(x), layout.visual, device=x.device)
        kept.scatter_(1, found.kept_ids, 1.0)
        loss, metrics = chunk_loss(actions, batch)
        return loss, {**metrics, 'tokens': kept.sum(1).mean()}

    def note(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        settings = self.train_settings.model_dump(exclude={'method'})
        if self.queries is None:
            return METHOD, settings, {}
        return STAR, settings, {TENSOR: self.queries.queries.detach().float().cpu()}


def chunk_loss(actions: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
    """Mean absolute error of the normalised chunk (B, K, D) over its labelled steps, and that of
    the first step alone (OpenVLA-OFT's ``L1RegressionActionHead`` loss and its metrics)."""
    error = (actions.float() - batch.actions).abs().mean(-1)
    loss = (error * batch.weights).sum() / batch.weights.sum().clamp(min=1.0)
    first = (error[:, 0] * batch.weights[:, 0]).sum() / batch.weights[:, 0].sum().clamp(min=1.0)
    return loss, {'l1': loss.detach(), 'l1_first': first.detach()}
