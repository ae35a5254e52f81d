"""OpenVLA-OFT: pixels, prompt ids and state in, a normalised action chunk out.

    pixels -> two towers -> projector -+
    [BOS | visual | proprio | time | prompt | slots | stop] -> decoder -> read-out rows -> head

Sequence layout and read-out: openvla-oft's ``modeling_prismatic.py`` (``predict_action``). The
three heads share everything before them: ``l1`` regresses, ``diffusion`` denoises in several
passes of the decoder, ``discrete`` takes the most likely action tokens.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from ..pruning.base import Layout, Pruner, Stage
from ..pruning.forward_state import PruningState
from .heads import (
    DiffusionHead,
    L1Head,
    NoisyActionProjector,
    ProprioProjector,
    bins_to_actions,
    denoise,
    time_embedding,
)
from .images import normalized_pixels
from .language import LanguageModel
from .vision import PATCHES, Projector, TowerSize, VisionBackbone, language_mean

STOP_ID = 2
HEADS = ('l1', 'diffusion', 'discrete')


@dataclass(frozen=True)
class ModelSize:
    """Everything that fixes the shapes of the modules.

    :param proprio_dim: 0 without proprioception.
    :param head: ``'l1'``, ``'diffusion'`` or ``'discrete'``.
    :param film: the towers are modulated by the instruction (OFT+).
    :param action_vocabulary: token ids below it, counted down, are the discrete action bins.
    """

    dino: TowerSize
    siglip: TowerSize
    text: LlamaConfig
    action_dim: int
    proprio_dim: int
    head: str = 'l1'
    film: bool = False
    action_vocabulary: int = 32000


@dataclass(frozen=True)
class ActInputs:
    """What :meth:`OpenVLAOFT.act` goes by; the towers have done their part.

    :param visual: (1, V, D), as :meth:`OpenVLAOFT.look` gives them.
    :param prompt_ids: int64 (1, P), BOS first.
    :param proprio: (1, proprio_dim), normalised, or None.
    :param mode: what the pruner's ``begin`` returned.
    :param noise: float32 (1, K, D_action) to start a diffusion from.
    :param steps: denoising steps; each is one pass of the decoder.
    """

    visual: Tensor
    prompt_ids: Tensor
    proprio: Tensor | None
    layout: Layout
    pruner: Pruner
    mode: str = 'dense'
    noise: Tensor | None = None
    steps: int = 10

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What :meth:`OpenVLAOFT.embed` takes first."""
        return self.visual, self.prompt_ids, self.proprio


class Act(NamedTuple):
    """What one query of the network gives.

    :param actions: (1, K, D), normalised.
    :param walk: the last pass through the decoder: who survived.
    :param embeddings: (1, S, D) what that pass started from.
    """

    actions: Tensor
    walk: PruningState
    embeddings: Tensor


class OpenVLAOFT(nn.Module):
    """The whole network; sub-module names are the published state dict's."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        width = size.text.hidden_size
        self.size = size
        self.vision_backbone = VisionBackbone(size.dino, size.siglip, width if size.film else 0)
        self.projector = Projector(self.vision_backbone.width, width)
        self.language_model = LanguageModel(size.text, with_logits=size.head == 'discrete')
        self.proprio_projector = (
            ProprioProjector(size.proprio_dim, width) if size.proprio_dim else None
        )
        if size.head == 'l1':
            self.action_head = L1Head(width, size.action_dim)
        elif size.head == 'diffusion':
            self.action_head = DiffusionHead(width, size.action_dim)
            self.noisy_action_projector = NoisyActionProjector(width)

    def layout(self, cameras: tuple[str, ...], prompt_ids: int, chunk: int) -> Layout:
        """Where everything stands for this many prompt ids (BOS included) and steps."""
        return Layout(
            cameras,
            PATCHES,
            int(self.proprio_projector is not None),
            prompt_ids,
            chunk * self.size.action_dim,
            time=int(self.size.head == 'diffusion'),
        )

    def visual_tokens(self, pixels: Tensor, prompt_ids: Tensor) -> Tensor:
        """Embeddings of all patches for the language model.

        :param pixels: (cameras, 6, 224, 224).
        :param prompt_ids: int64 (1, P); conditions the towers where the checkpoint has FiLM.
        :returns: (1, cameras * 256, D).
        """
        return self.projector(self.vision_backbone(pixels, self.condition(prompt_ids)))

    def look(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """:meth:`visual_tokens` of pictures as they are prepared: uint8 (cameras, 224, 224, 3)."""
        dtype = self.language_model.model.norm.weight.dtype  # in the activations' dtype, always
        return self.visual_tokens(normalized_pixels(images, dtype), prompt_ids)

    def condition(self, prompt_ids: Tensor) -> Tensor | None:
        """What FiLM modulates the towers by: int64 (B, P) -> (B, 1, D); None without FiLM."""
        if not self.size.film:
            return None
        table = self.language_model.model.embed_tokens
        return language_mean(table(prompt_ids), table(self._stop(prompt_ids)))

    def embed(
        self,
        visual: Tensor,
        prompt_ids: Tensor,
        proprio: Tensor | None,
        layout: Layout,
        noisy: Tensor | None = None,
        step: int = 0,
    ) -> Tensor:
        """The multimodal sequence (1, S, D). The stop token is a real one.

        :param visual: (1, V, D).
        :param prompt_ids: int64 (1, P), BOS first.
        :param proprio: (1, proprio_dim), normalised, or None.
        :param noisy: (1, K, D_action) noisy actions at diffusion step ``step``; slots are zero
            vectors without it.
        """
        table = self.language_model.model.embed_tokens
        text, stop = table(prompt_ids), table(self._stop(prompt_ids))
        parts = [text[:, :1], visual]
        if proprio is not None:
            parts.append(self.proprio_projector(proprio))
        if noisy is None:
            slots = text.new_zeros(len(text), layout.slots, text.shape[-1])
        else:
            parts.append(time_embedding(step, text.shape[-1], text.device, text.dtype))
            slots = self.noisy_action_projector(noisy.to(text.dtype))
        return torch.cat([*parts, text[:, 1:], slots, stop], dim=1)

    def decode(
        self,
        embeddings: Tensor,
        layout: Layout,
        pruner: Pruner,
        trace: list[Tensor] | None = None,
        stage: Stage = nullcontext,
        checked: bool = True,
        bucket_size: int | None = None,
    ) -> tuple[Tensor, PruningState]:
        """(1, S, D) -> read-out hidden states (1, K * D, D), and the walk: who survived.

        :param checked, bucket_size: see :class:`PruningState`.
        """
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        walk = PruningState(layout, pruner, positions, checked, bucket_size)
        return self.language_model(embeddings, walk, trace, stage), walk

    def harvest(
        self, embeddings: Tensor, layout: Layout, pruner: Pruner, proceed: Callable[[int], bool]
    ) -> None:
        """Walk (1, S, D) through the layers for what ``pruner`` sees on the way.

        :param proceed: asked before each layer; False ends the walk there.
        """
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        walk = PruningState(layout, pruner, positions)
        self.language_model.walk(embeddings, walk, proceed=proceed)

    def act(self, inputs: ActInputs, stage: Stage = nullcontext) -> Act:
        """The normalised chunk, and the last pass through the decoder.

        :param stage: times ``'language'``, ``'selection'`` inside it, and ``'head'``.
        """
        once = partial(
            self.decode_actions, *inputs.tensors, inputs.layout, inputs.pruner, stage=stage
        )
        if self.size.head != 'diffusion':
            return once()
        last: list[Act] = []

        def predict(noisy: Tensor, step: int) -> Tensor:
            last[:] = [once(noisy, step)]
            return last[0].actions.float()

        actions = denoise(inputs.noise, predict, inputs.steps)
        return last[0]._replace(actions=actions)

    def decode_actions(
        self,
        visual: Tensor,
        prompt_ids: Tensor,
        proprio: Tensor | None,
        layout: Layout,
        pruner: Pruner,
        noisy: Tensor | None = None,
        step: int = 0,
        stage: Stage = nullcontext,
        checked: bool = True,
        bucket_size: int | None = None,
    ) -> Act:
        """One pass of the decoder: the chunk, or what a diffusion head predicts of the noise.

        :param noisy: see :meth:`embed`. :param checked, bucket_size: see :class:`PruningState`.
        """
        with stage('language'):
            x = self.embed(visual, prompt_ids, proprio, layout, noisy, step)
            hidden, walk = self.decode(
                x, layout, pruner, stage=stage, checked=checked, bucket_size=bucket_size
            )
        with stage('head'):
            return Act(self._head(hidden), walk, x)

    def _head(self, hidden: Tensor) -> Tensor:
        if self.size.head != 'discrete':
            return self.action_head(hidden)
        ids = self.language_model.lm_head(hidden).argmax(dim=-1)  # only the rows that are read
        actions = bins_to_actions(ids, self.size.action_vocabulary)
        return actions.view(1, -1, self.size.action_dim)

    def _stop(self, like: Tensor) -> Tensor:
        return like.new_full((len(like), 1), STOP_ID)
