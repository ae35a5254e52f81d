"""The reference implementation, row ``published``: the dense model as the published code runs it.

openvla-oft (``modeling_prismatic.py``, ``film_vit_wrapper.py``, its fork of transformers) runs the
towers camera by camera and through their last block, whose output it does not use; its language
model is the stock decoder with a cache of keys and values that nobody reads, every layer's output
kept, and ``lm_head`` in float32 over all rows. Actions are those of our own dense pass: only the
work differs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from ...model.images import normalized_pixels
from ...model.openvla import Act, ActInputs, OpenVLAOFT
from ...model.vision import Tower
from ...pruning.forward_state import PruningState


class ReferenceForward:
    """Runs the network like the published code, in place of the engine's forward.

    :raises ValueError: a diffusion head, which has more than one pass of the decoder.
    """

    name = 'published'

    def __init__(self, model: OpenVLAOFT) -> None:
        if model.size.head == 'diffusion':
            raise ValueError('the reference implementation has one pass of the decoder')
        self._model = model
        model.size.text._attn_implementation = 'sdpa'
        table = model.language_model.model.embed_tokens.weight
        self._lm_head = torch.empty_like(table).normal_(0, 0.02)  # its output is thrown away

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        pixels = normalized_pixels(images, self._lm_head.dtype)
        backbone, condition = self._model.vision_backbone, self._model.condition(prompt_ids)
        cameras = []
        for camera in pixels.split(1):
            dino = _whole_tower(backbone.featurizer, camera[:, :3], condition)
            siglip = _whole_tower(backbone.fused_featurizer, camera[:, 3:], condition)
            cameras.append(torch.cat([dino, siglip], dim=2))
        return self._model.projector(torch.cat(cameras, dim=1))

    def act(self, inputs: ActInputs) -> Act:
        """The stock decoder layers, dense whatever the pruner is."""
        model, text, layout = self._model, self._model.language_model, inputs.layout
        with inputs.stage('language'):
            x = embeddings = model.embed(inputs.visual, inputs.prompt_ids, inputs.proprio, layout)
            positions = torch.arange(x.shape[1], device=x.device)
            tables = text._rope(positions, x.dtype)
            cache, states = DynamicCache(), []
            for layer in text.model.layers:
                x = layer(
                    x,
                    attention_mask=None,
                    position_ids=positions[None],
                    past_key_values=cache,
                    use_cache=True,
                    position_embeddings=tables,
                    is_causal=False,
                )
                states.append(x)
            states.append(text.model.norm(x))
            F.linear(states[-1], self._lm_head).float()
            state = PruningState(layout=layout, pruner=inputs.pruner, positions=positions)
            hidden = states[-1][:, state.rows(layout.readout_positions)]
        with inputs.stage('head'):
            return Act(model._head(hidden), state, embeddings)


def _whole_tower(tower: Tower, pixels: Tensor, condition: Tensor | None) -> Tensor:
    trace: list[Tensor] = []
    features = tower(pixels, condition, trace)
    tower.blocks[-1](trace[-1], condition)  # stands for the last block, which we never build
    return features
