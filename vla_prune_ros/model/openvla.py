"""OpenVLA-OFT: pixels, prompt ids and state in, a normalised action chunk out.

    pixels -> two towers -> projector -+
    [BOS | visual | proprio | time | prompt | slots | stop] -> decoder -> read-out rows -> head

Sequence layout and read-out: openvla-oft's ``modeling_prismatic.py`` (``predict_action``). Of the
heads ``l1`` regresses, ``diffusion`` denoises in several passes of the decoder, ``discrete`` takes
the most likely action tokens."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """:param proprio_dim: 0 without proprioception. :param head: one of :data:`HEADS`.
    :param action_vocabulary: token ids below it, counted down, are the discrete action bins."""

    dino: TowerSize
    siglip: TowerSize
    text: LlamaConfig
    action_dim: int
    proprio_dim: int
    head: str = 'l1'
    film: bool = False
    action_vocabulary: int = 32000


@dataclass(frozen=True, kw_only=True)
class ActInputs:
    """:param visual: (1, V, D). :param prompt_ids: int64 (1, P), BOS first.
    :param proprio: (1, proprio_dim), normalised, or None.
    :param noise: float32 (1, K, D_action) to start a diffusion of ``steps`` passes from.
    :param stage: times ``'language'``, ``'selection'`` inside it, and ``'head'``.
    :param checked, bucket_size: see :class:`PruningState`."""

    visual: Tensor
    prompt_ids: Tensor
    proprio: Tensor | None
    layout: Layout
    pruner: Pruner
    mode: str = 'dense'
    noise: Tensor | None = None
    steps: int = 10
    stage: Stage = nullcontext
    checked: bool = True
    bucket_size: int | None = None


class Act(NamedTuple):
    """:param actions: (1, K, D), normalised.
    :param pruning: the last pass through the decoder; ``embeddings`` (1, S, D) are its input."""

    actions: Tensor
    pruning: PruningState
    embeddings: Tensor


class OpenVLAOFT(nn.Module):
    """Sub-module names are the published state dict's."""

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
        return Layout(
            cameras=cameras,
            patches=PATCHES,
            proprio=int(self.proprio_projector is not None),
            prompt=prompt_ids,
            slots=chunk * self.size.action_dim,
            time=int(self.size.head == 'diffusion'),
        )

    def visual_tokens(self, pixels: Tensor, prompt_ids: Tensor) -> Tensor:
        """(cameras, 6, 224, 224) and, for FiLM, int64 (1, P) -> (1, cameras * 256, D)."""
        return self.projector(self.vision_backbone(pixels, self.condition(prompt_ids)))

    def encode_images(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        """:meth:`visual_tokens` of prepared images: uint8 (cameras, 224, 224, 3)."""
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
        *,
        noisy: Tensor | None = None,
        step: int = 0,
    ) -> Tensor:
        """The multimodal sequence (1, S, D). The slots are zero vectors, or of the ``noisy``
        actions (1, K, D_action) at diffusion ``step``. The stop token is a real one."""
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

    def act(self, inputs: ActInputs) -> Act:
        if self.size.head != 'diffusion':
            return self.decode_actions(inputs)
        last: Act | None = None

        def predict(noisy: Tensor, step: int) -> Tensor:
            nonlocal last
            last = self.decode_actions(inputs, noisy, step)
            return last.actions.float()

        actions = denoise(inputs.noise, predict, inputs.steps)
        return last._replace(actions=actions)

    def decode_actions(self, inputs: ActInputs, noisy: Tensor | None = None, step: int = 0) -> Act:
        """One pass of the decoder: the chunk, or what a diffusion head predicts of the noise."""
        with inputs.stage('language'):
            visual, ids, layout = inputs.visual, inputs.prompt_ids, inputs.layout
            x = self.embed(visual, ids, inputs.proprio, layout, noisy=noisy, step=step)
            state = _first_state(
                x,
                layout,
                inputs.pruner,
                checked=inputs.checked,
                bucket_size=inputs.bucket_size,
                stage=inputs.stage,
            )
            hidden = self.language_model(x, state)
        with inputs.stage('head'):
            return Act(self._head(hidden), state, x)

    def decode(
        self,
        embeddings: Tensor,
        layout: Layout,
        pruner: Pruner,
        trace: list[Tensor] | None = None,
    ) -> tuple[Tensor, PruningState]:
        """(1, S, D) -> read-out hidden states (1, K * D, D), and what was kept."""
        state = _first_state(embeddings, layout, pruner, trace=trace)
        return self.language_model(embeddings, state), state

    def harvest(
        self, embeddings: Tensor, layout: Layout, pruner: Pruner, proceed: Callable[[], bool]
    ) -> bool:
        """Take (1, S, D) through the layers up to the last site of ``pruner``, for what it learns
        there; False where ``proceed``, asked before each layer, ended it earlier."""
        state = _first_state(embeddings, layout, pruner, proceed=proceed)
        layers = range(1 + max(site.layer for site in pruner.sites))
        self.language_model.run_layers(embeddings, state, layers)
        return not state.interrupted

    def _head(self, hidden: Tensor) -> Tensor:
        if self.size.head != 'discrete':
            return self.action_head(hidden)
        ids = self.language_model.lm_head(hidden).argmax(dim=-1)  # only the rows that are read
        actions = bins_to_actions(ids, self.size.action_vocabulary)
        return actions.view(1, -1, self.size.action_dim)

    def _stop(self, like: Tensor) -> Tensor:
        return like.new_full((len(like), 1), STOP_ID)


def _first_state(x: Tensor, layout: Layout, pruner: Pruner, **options: Any) -> PruningState:
    positions = torch.arange(x.shape[1], device=x.device)
    return PruningState(layout=layout, pruner=pruner, positions=positions, **options)
