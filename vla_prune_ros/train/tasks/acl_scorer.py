"""VLA-ACL's training: the policy's own chunk under a soft choice of its tokens.

Source: arXiv 2610.08133: gated embedding X s + b sqrt(1 - s^2) with b of a black image, loss
0.5 |a_soft - a_dense| + 0.5 |a_soft - a_demonstration|, temperature from 2 to 0.1 by a cosine.

The soft choice is LapSum's (Struski et al., arXiv 2503.06242) with the CDF F of the Laplace
distribution: p_i = F((s_i - b) / alpha), with the one b for which the p sum up to K.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.load import pruner_target
from ...engine.policy import Policy
from ...model.images import normalized_pixels
from ...model.vision import IMAGE_SIZE
from ...pruning.methods.vla_acl import METHOD, make_scorer
from ...pruning.selection import best_first, budgets
from ..collate import TrainingBatch
from ..config import FineTuning, ScorerSettings
from .forward import embed, kept_read_out, read_out, visual_tokens
from .lightvla import Metrics, chunk_loss

HALVINGS = 50


def laplace_cdf(x: Tensor) -> Tensor:
    """F(x) = exp(x) / 2 below 0 and 1 - exp(-x) / 2 above."""
    half = 0.5 * torch.exp(-x.abs())
    return torch.where(x < 0, half, 1.0 - half)


def soft_top_k(scores: Tensor, k: int, alpha: float) -> Tensor:
    """Ratios (..., N) in 0 .. 1 that sum up to K; nearly the hard choice for a small ``alpha``."""
    with torch.no_grad():
        low = scores.amin(-1, keepdim=True) - alpha * 40.0  # F of 40 is 1 in float32
        high = scores.amax(-1, keepdim=True) + alpha * 40.0
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            many = laplace_cdf((scores - middle) / alpha).sum(-1, keepdim=True) > k
            low, high = torch.where(many, middle, low), torch.where(many, high, middle)
        b = 0.5 * (low + high)
        density = torch.exp(-((scores - b) / alpha).abs())
        slope = density / density.sum(-1, keepdim=True)
    # db / ds of the condition that the ratios sum up to K, without a value of its own.
    b = b + (slope * (scores - scores.detach())).sum(-1, keepdim=True)
    return laplace_cdf((scores - b) / alpha)


class ScorerTask(nn.Module):
    """A scorer that learns beside a frozen policy."""

    def __init__(self, policy: Policy, settings: FineTuning) -> None:
        super().__init__()
        assert isinstance(settings.train, ScorerSettings)
        self.train_settings = train = settings.train
        self.policy = policy.model.requires_grad_(False)
        self._profile = policy.profile
        target = pruner_target(policy.profile, policy.model.size)
        self._budget = budgets(METHOD, train.budget, target)
        self.scorer = make_scorer(target, train.model_dump()).to(policy.device)
        black = torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
        pixels = normalized_pixels(black, torch.float32)
        self.register_buffer('black', pixels, persistent=False)

    def forward(
        self, batch: TrainingBatch, progress: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics of a batch; without a generator those of the hard choice."""
        with torch.no_grad():
            visual = visual_tokens(self.policy, batch.pixels, batch.prompts)
            dense = self._act(visual, batch)
        with torch.autocast(visual.device.type, enabled=False):  # as at inference
            scores = self.scorer(visual.float())
        decided = {}
        if generator is None:
            actions = self._pruned(visual, scores, batch)
        else:
            alpha = self._alpha(progress)
            soft = [soft_top_k(scores[:, c], k, alpha) for c, k in enumerate(self._budget)]
            gates = torch.stack(soft)
            actions = self._act(gated(visual, self._blank(batch), gates.transpose(0, 1)), batch)
            decided = {'decided': (gates.detach() - 0.5).abs().mul(2).mean()}
        given, metrics = chunk_loss(actions, batch)
        own = (actions - dense).abs().mean()
        ratio = self.train_settings.dense
        return ratio * own + (1 - ratio) * given, {**metrics, 'to_dense': own.detach(), **decided}

    def note(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        names = {'layers', 'width', 'heads', 'budget'}
        settings = self.train_settings.model_dump(mode='json', include=names)
        state = {k: v.detach().float().cpu() for k, v in self.scorer.state_dict().items()}
        return METHOD, settings, state

    def _alpha(self, progress: float) -> float:
        first, last = self.train_settings.alpha
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * progress))

    @torch.no_grad()
    def _blank(self, batch: TrainingBatch) -> Tensor:
        black = self.black.to(batch.pixels.dtype).expand(len(batch.pixels), 1, -1, -1, -1)
        return visual_tokens(self.policy, black, batch.prompts)

    def _act(self, visual: Tensor, batch: TrainingBatch) -> Tensor:
        x, layout = embed(self.policy, self._profile, visual, batch.prompts, batch.state)
        return self.policy.action_head(read_out(self.policy, x, layout)).float()

    def _pruned(self, visual: Tensor, scores: Tensor, batch: TrainingBatch) -> Tensor:
        x, layout = embed(self.policy, self._profile, visual, batch.prompts, batch.state)
        order = best_first(scores)
        best = [
            order[:, c, :k].sort(-1).values + c * layout.patches
            for c, k in enumerate(self._budget)
        ]
        kept_ids = torch.cat(best, dim=1)
        rows = x[:, 1:].gather(1, kept_ids[..., None].expand(-1, -1, x.shape[-1]))
        hidden = kept_read_out(self.policy, x, layout, kept_ids, rows)
        return self.policy.action_head(hidden).float()


def gated(visual: Tensor, blank: Tensor, gates: Tensor) -> Tensor:
    """X s + b sqrt(1 - s^2): (B, C, V, D), (B, 1, V, D), (B, C, V) -> (B, C, V, D)."""
    s = gates.unsqueeze(-1).clamp(0.0, 1.0)
    rest = (1.0 - s.square()).clamp(min=1e-6).sqrt()  # its slope has no end at s = 1
    return (visual * s + blank * rest).to(visual.dtype)
