"""A checkpoint folder in the layout that the authors publish."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .openvla import ModelSize
from .vision import DINO_ID, SIGLIP_ID, TowerSize

PAD_ID = 32000
_COMPONENTS = ('action_head', 'proprio_projector')
_BLOCK_PART = re.compile(r'(\.blocks\.\d+\.)(?!scale\.|shift\.)')


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], film: bool = False, step: int = 0
) -> None:
    """bfloat16 shards with their index, and a ``.pt`` file for each component.

    :param film: the towers get a file of their own, under the names of wrapped blocks.
    :param step: training step, part of the components' file names."""
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()}
    components = (*_COMPONENTS, *(('vision_backbone',) if film else ()))
    for component in components:
        part = {k: state.pop(k) for k in sorted(state) if k.startswith(f'{component}.')}
        if component == 'vision_backbone':
            part = {_BLOCK_PART.sub(r'\1block.', k): v for k, v in part.items()}
        else:
            part = {k.removeprefix(f'{component}.'): v for k, v in part.items()}
        file = folder / f'{component}--{step}_checkpoint.pt'
        torch.save({f'module.{k}': v for k, v in part.items()}, file)
    language = {k: v for k, v in state.items() if k.startswith('language_model')}
    shards = ({k: v for k, v in state.items() if k not in language}, language)
    names = [f'model-{i:05d}-of-{len(shards):05d}.safetensors' for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
        (folder / name).chmod(0o666 & ~_umask())  # safetensors writes for its user alone
    index = {
        'metadata': {'total_size': sum(v.numel() * 2 for v in state.values())},
        'weight_map': {
            k: n for n, shard in zip(names, shards, strict=True) for k in sorted(shard)
        },
    }
    write_json(folder / 'model.safetensors.index.json', index)


def write_configs(folder: Path, size: ModelSize) -> None:
    """``config.json`` and ``generation_config.json`` of a model that may be smaller than 7B."""
    write_json(folder / 'config.json', _config(size))
    ids = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': PAD_ID}
    write_json(folder / 'generation_config.json', ids)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """One JSON object, for people to read."""
    path.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')


def _config(size: ModelSize) -> dict[str, Any]:
    text = size.text
    return {
        'model_type': 'openvla',
        'architectures': ['OpenVLAForActionPrediction'],
        'arch_specifier': 'no-align+fused-gelu-mlp',
        'image_resize_strategy': 'resize-naive',
        'image_sizes': [224, 224],
        'llm_backbone_id': 'llama2-7b-pure',
        'n_action_bins': 256,
        'norm_stats': {},
        'oracle_vision_overrides': {DINO_ID: _tower(size.dino), SIGLIP_ID: _tower(size.siglip)},
        'pad_to_multiple_of': 64,
        'pad_token_id': PAD_ID,
        'timm_model_ids': [DINO_ID, SIGLIP_ID],
        'text_config': {
            'model_type': 'llama',
            'vocab_size': text.vocab_size,
            'hidden_size': text.hidden_size,
            'intermediate_size': text.intermediate_size,
            'num_hidden_layers': text.num_hidden_layers,
            'num_attention_heads': text.num_attention_heads,
            'num_key_value_heads': text.num_key_value_heads,
            'pad_token_id': PAD_ID,
            'torch_dtype': 'bfloat16',
        },
        'torch_dtype': 'bfloat16',
        'use_fused_vision_backbone': True,
        'vision_backbone_id': 'dinosiglip-vit-so-224px',
    }


def _tower(size: TowerSize) -> dict[str, int]:
    return {'embed_dim': size.width, 'depth': size.depth, 'num_heads': size.heads}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
