"""What can be trained on a loaded policy, by the name in the settings."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...engine.policy import Policy
from ...errors import CheckpointError
from ..collate import TrainingBatch
from ..config import FineTuning, LightVLASettings
from .acl_scorer import ScorerTask
from .lightvla import LightVLATask, Metrics


class Task(Protocol):
    """A module whose forward pass is the loss of a batch."""

    def forward(
        self, batch: TrainingBatch, progress: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Metrics]:
        """Loss and metrics after this share (0 .. 1) of the training; None: as at inference."""

    def note(self) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """Method, settings and tensors for the checkpoint's note."""


def make_task(policy: Policy, settings: FineTuning) -> nn.Module:
    """The module that is trained; it says by ``requires_grad`` what changes.

    :raises CheckpointError: its head is none that regresses a chunk.
    """
    head = policy.model.size.head
    if head != 'l1':
        raise CheckpointError(
            f'{settings.checkpoint} has a {head} head', 'start from a checkpoint with an L1 head'
        )
    lightvla = isinstance(settings.train, LightVLASettings)
    return (LightVLATask if lightvla else ScorerTask)(policy, settings)
