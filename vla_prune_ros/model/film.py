"""The vision backbone of a FiLM checkpoint: its own file, with LoRA still beside the weights.

FiLM runs save the towers apart, wrapped (``blocks.i.block``) and with unmerged LoRA; the main
weights of such a run do not contain the vision part of the LoRA.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

LORA_ALPHA = 16


def fold_lora(base: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """base + (min(r, 16) / r) B A, in float32.

    :param base: (out, in) of a linear layer, or (out, 3, 14, 14) of the patch embedding.
    :param down: A, (r, in) or (r, 3, 14, 14).
    :param up: B, (out, r) or (out, r, 1, 1).
    """
    rank = down.shape[0]
    update = up.float().reshape(len(up), rank) @ down.float().reshape(rank, -1)
    return base.float() + (min(rank, LORA_ALPHA) / rank) * update.reshape(base.shape)


def film_tensors(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Plain names and folded weights out of the file's state dict."""
    for name, tensor in state.items():
        plain = name.replace('.block.', '.')
        if '.base_layer.' in plain:
            stem, _, leaf = name.rpartition('.base_layer.')
            if leaf == 'weight':
                lora = (state[f'{stem}.lora_{x}.default.weight'] for x in 'AB')
                tensor = fold_lora(tensor, *lora)
            yield plain.replace('.base_layer.', '.'), tensor
        elif '.lora_' not in plain:
            yield plain, tensor


def language_mean(embeddings: Tensor, stop: Tensor) -> Tensor:
    """What conditions FiLM: the mean over all prompt embeddings and the stop token's, (1, 1, D).

    :param embeddings: (1, P, D) of BOS to 29871.
    :param stop: (1, 1, D) of the stop token. The action slots do not count.
    """
    return torch.cat([embeddings, stop], dim=1).mean(dim=1, keepdim=True)
