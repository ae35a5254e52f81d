"""OpenVLA-OFT with the L1 head: pixels, prompt ids and state in, a normalised action chunk out.

    pixels -> two towers -> projector -+
    [BOS | visual | proprio | prompt | zero slots | stop] -> decoder -> read-out rows -> L1 head

Sequence layout and read-out: openvla-oft's ``modeling_prismatic.py`` (``predict_action``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from ..pruning.plan import Layout, Pruner, PruningPass
from .heads import L1Head, ProprioProjector
from .language import LanguageModel
from .vision import PATCHES, Projector, TowerSize, VisionBackbone

STOP_ID = 2


@dataclass(frozen=True)
class ModelSize:
    """Everything that fixes the shapes of the modules."""

    dino: TowerSize
    siglip: TowerSize
    text: LlamaConfig
    action_dim: int
    proprio_dim: int


class OpenVLAOFT(nn.Module):
    """The whole network; sub-module names are the published state dict's."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        width = size.text.hidden_size
        self.vision_backbone = VisionBackbone(size.dino, size.siglip)
        self.projector = Projector(self.vision_backbone.width, width)
        self.language_model = LanguageModel(size.text)
        self.action_head = L1Head(width, size.action_dim)
        self.proprio_projector = (
            ProprioProjector(size.proprio_dim, width) if size.proprio_dim else None
        )

    def layout(self, cameras: tuple[str, ...], prompt_ids: int, chunk: int) -> Layout:
        """Where everything stands for this many prompt ids (BOS included) and steps."""
        return Layout(
            cameras,
            PATCHES,
            int(self.proprio_projector is not None),
            prompt_ids,
            chunk * self.action_head.action_dim,
        )

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """(cameras, 6, 224, 224) -> (1, cameras * 256, D) embeddings for the language model."""
        return self.projector(self.vision_backbone(pixels))

    def embed(
        self, visual: Tensor, prompt_ids: Tensor, proprio: Tensor | None, layout: Layout
    ) -> Tensor:
        """The multimodal sequence (1, S, D). Slots are zero vectors; the stop token is a real one.

        :param visual: (1, V, D).
        :param prompt_ids: int64 (1, P), BOS first.
        :param proprio: (1, proprio_dim), normalised, or None.
        """
        table = self.language_model.model.embed_tokens
        text = table(prompt_ids)
        stop = table(prompt_ids.new_full((1, 1), STOP_ID))
        state = [] if proprio is None else [self.proprio_projector(proprio)]
        slots = text.new_zeros(1, layout.slots, text.shape[-1])
        return torch.cat([text[:, :1], visual, *state, text[:, 1:], slots, stop], dim=1)

    def decode(
        self, embeddings: Tensor, layout: Layout, pruner: Pruner, trace: list[Tensor] | None = None
    ) -> tuple[Tensor, PruningPass]:
        """(1, S, D) -> read-out hidden states (1, K * D, D), and the walk: who survived."""
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        walk = PruningPass(layout, pruner, positions)
        return self.language_model(embeddings, walk, trace), walk
