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
from ...pruning.layout import Layout
from ...pruning.methods.lightvla import (
    METHOD,
    STAR_METHOD,
    TENSOR,
    LearnedQueries,
    selection_scores,
    straight_through,
)
from ..collate import TrainingBatch
from ..config import FineTuning, LightVLASettings, Lora
from ..sources.base import library
from .forward import dense_state, embed, kept_read_out, visual_tokens

# Trained without LoRA, as in the authors' ``finetune.py``.
WITHOUT_LORA = ('action_head', 'proprio_projector')


def choose_trainable(policy: OpenVLAOFT, lora: Lora | None) -> None:
    """Everything but the embedding table, or peft's low-rank updates of every linear layer
    together with head and state projector."""
    policy.requires_grad_(False)
    if lora is None:
        for name, p in policy.named_parameters():
            p.requires_grad_('embed_tokens' not in name)
        return
    peft = library('peft', "pip install 'vla_prune_ros[train]', or set 'lora: null'")
    linear = [
        name
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear)
        and name.split('.')[0] not in WITHOUT_LORA
        and 'lm_head' not in name
    ]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        init_lora_weights='gaussian',
        target_modules=linear,
    )
    peft.inject_adapter_in_model(config, policy)
    for name, module in policy.named_children():
        if name in WITHOUT_LORA:
            module.requires_grad_(True).float()


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
    """Run the decoder on sequences in which each visual row holds the token it voted for, at that
    token's position; BOS, state, text and slots stay what they are.

    :param embeddings: (B, S, D), of :meth:`OpenVLAOFT.embed`.
    :param noise: float32 (B, R, V) added to the scores; None for none.
    :param once: a token that m rows hold weighs 1/m in each of them, so that without noise the
        pass equals inference, where it is there once. Published is False: attention leans towards
        tokens with many votes in training, and no longer at inference.
    :param queries: LightVLA*: they vote, behind their layer; None for one vote per visual token.
    """
    x, first = embeddings, 0 if queries is None else queries.after + 1
    if first:
        x = policy.language_model.run_layers(x, dense_state(layout, x.device), range(first))
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
        assert isinstance(settings.train, LightVLASettings)
        self.policy, self._profile = policy.model, policy.profile
        self.train_settings = train = settings.train
        self.queries: LearnedQueries | None = None
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            choose_trainable(self.policy, settings.lora)
            if train.queries:
                width = self.policy.size.text.hidden_size
                self.queries = LearnedQueries(width, train.queries, train.after).to(policy.device)

    def forward(
        self, batch: TrainingBatch, progress: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics of a batch after a ratio ``progress`` of the training.

        :param generator: of the noise; None: as at inference, without noise and with tokens that
            count once.
        """
        policy, train, noise = self.policy, self.train_settings, None
        visual = visual_tokens(policy, batch.pixels, batch.prompts)
        x, layout = embed(policy, self._profile, visual, batch.prompts, batch.state)
        if generator is not None:
            votes = train.queries or layout.visual
            noise = train.noise.at(progress) * torch.rand(
                (len(x), votes, layout.visual), generator=generator, device=x.device
            )
        once = train.shared_weight or generator is None
        found = selected_pass(policy, x, layout, noise=noise, once=once, queries=self.queries)
        kept = torch.zeros(len(x), layout.visual, device=x.device)
        kept.scatter_(1, found.kept_ids, 1.0)
        loss, metrics = chunk_loss(policy.action_head(found.hidden), batch)
        return loss, {**metrics, 'tokens': kept.sum(1).mean()}

    def note(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        settings = self.train_settings.model_dump(exclude={'method'})
        if self.queries is None:
            return METHOD, settings, {}
        return STAR_METHOD, settings, {TENSOR: self.queries.queries.detach().float().cpu()}


def chunk_loss(actions: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
    """Mean absolute error of the normalised chunk (B, K, D) over its labelled steps, and that of
    the first step alone (OpenVLA-OFT's ``L1RegressionActionHead`` loss and its metrics)."""
    error = (actions.float() - batch.actions).abs().mean(-1)
    loss = (error * batch.weights).sum() / batch.weights.sum().clamp(min=1.0)
    first = (error[:, 0] * batch.weights[:, 0]).sum() / batch.weights[:, 0].sum().clamp(min=1.0)
    return loss, {'l1': loss.detach(), 'l1_first': first.detach()}
