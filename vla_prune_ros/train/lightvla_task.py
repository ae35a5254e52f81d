"""What LightVLA's training minimises: the L1 of the chunk after a noisy selection."""

from typing import Any

import torch
from torch import Tensor, nn

from ..engine.policy import Policy
from ..pruning.learned_queries import METHOD as STAR
from ..pruning.learned_queries import TENSOR, LearnedQueries
from ..pruning.lightvla import METHOD
from .batches import Labelled
from .forward import visual_tokens
from .lightvla_forward import selected_pass
from .lora import choose_trainable
from .settings import FineTuning, LightVLASettings

Metrics = dict[str, Tensor]


class LightVLATask(nn.Module):
    """A policy that learns to be pruned.

    :param settings: of the whole run; ``settings.train`` is LightVLA's.
    """

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
        self, batch: Labelled, progress: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Metrics]:
        """The loss of a batch after this share (0 .. 1) of the training.

        :param generator: of the noise; None for none, and for tokens that count once, which is
            inference.
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
        found = selected_pass(policy, x, layout, noise, once, self.queries)
        actions = policy.action_head(found.hidden)
        kept = torch.zeros(len(x), layout.visual, device=x.device)
        kept.scatter_(1, found.chosen, 1.0)
        loss, metrics = chunk_loss(actions, batch)
        return loss, {**metrics, 'tokens': kept.sum(1).mean()}

    def note(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Method, settings and tensors for the checkpoint's note."""
        settings = self.train_settings.model_dump(exclude={'method'})
        if self.queries is None:
            return METHOD, settings, {}
        return STAR, settings, {TENSOR: self.queries.queries.detach().float().cpu()}


def chunk_loss(actions: Tensor, batch: Labelled) -> tuple[Tensor, Metrics]:
    """Mean absolute error of the normalised chunk (B, K, D) over its labelled steps, and that of
    the first step alone (OpenVLA-OFT's ``L1RegressionActionHead`` loss and its metrics)."""
    error = (actions.float() - batch.actions).abs().mean(-1)
    loss = (error * batch.weights).sum() / batch.weights.sum().clamp(min=1.0)
    first = (error[:, 0] * batch.weights[:, 0]).sum() / batch.weights[:, 0].sum().clamp(min=1.0)
    return loss, {'l1': loss.detach(), 'l1_first': first.detach()}
