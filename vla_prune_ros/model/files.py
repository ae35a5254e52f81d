"""The files of a checkpoint folder in the published layout: read, without executing anything that
is in them, and written."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from .openvla import ModelSize
from .vision import DINO_ID, SIGLIP_ID

PAD_ID = 32000
_BLOCK_PART = re.compile(r'(\.blocks\.\d+\.)(?!scale\.|shift\.)')

Progress = Callable[[str], None]


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f'{path.name} is missing in {path.parent}',
            'point checkpoint at a folder in the published OpenVLA-OFT layout',
        )
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path} cannot be read ({error})', 'fetch the file again') from None
    if not isinstance(data, dict):
        raise CheckpointError(f'{path} is not a JSON object', 'fetch the file again')
    return data


def weight_files(folder: Path) -> list[Path]:
    index = folder / 'model.safetensors.index.json'
    if index.is_file():
        files = [folder / n for n in sorted(set(read_json(index).get('weight_map', {}).values()))]
    else:
        files = sorted(folder.glob('model*.safetensors'))
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise CheckpointError(
            f'{folder}: shard {missing[0]} is missing', 'finish the download of the checkpoint'
        )
    if not files:
        raise CheckpointError(
            f'{folder} holds no .safetensors weights',
            'point checkpoint at a folder in the published OpenVLA-OFT layout',
        )
    return files


def stream_weights(
    folder: Path, progress: Progress, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """One at a time: host memory holds no second copy of the model. Read, not mapped: a mapped
    bfloat16 tensor would stay a view of its file."""
    files = weight_files(folder)
    for number, file in enumerate(files, start=1):
        progress(f'reading weights {number}/{len(files)}: {file.name}')
        try:
            with safe_open(file, 'pt', backend='pread') as shard:
                for name in filter(wanted, shard.offset_keys()):
                    yield name, shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f'{file} is broken ({error})', 'fetch the file again') from None


def component_files(folder: Path, name: str) -> list[Path]:
    return [f for f in sorted(folder.glob(f'*{name}*.pt')) if 'checkpoint' in f.name]


def read_component(folder: Path, name: str) -> dict[str, Tensor]:
    """Names without ``module.``.
    :raises CheckpointError: none or several files, or one that is not a plain state dict."""
    files = component_files(folder, name)
    if len(files) != 1:
        found = ', '.join(f.name for f in files) or 'none'
        raise CheckpointError(
            f'{folder} needs exactly one {name}--N_checkpoint.pt, found {found}',
            'keep the one that belongs to the weights',
        )
    try:
        state = torch.load(files[0], map_location='cpu', weights_only=True)
        return {k.removeprefix('module.'): v for k, v in state.items()}
    except Exception as error:  # torch and pickle raise many kinds
        raise CheckpointError(
            f'{files[0]} is not a plain state dict ({str(error).splitlines()[0]})',
            'fetch the file again',
        ) from None


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], film: bool = False, step: int = 0
) -> None:
    """bfloat16 shards with their index, and a ``.pt`` file for each component; with ``film`` the
    towers get one too, under the names of wrapped blocks. ``step`` is part of their names."""
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()}
    for component in ('action_head', 'proprio_projector', *(['vision_backbone'] if film else ())):
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
        shutil.copymode(file, folder / name)  # safetensors writes for its user alone
    index = {
        'metadata': {'total_size': sum(v.numel() * 2 for v in state.values())},
        'weight_map': {
            k: n for n, shard in zip(names, shards, strict=True) for k in sorted(shard)
        },
    }
    write_json(folder / 'model.safetensors.index.json', index)


def write_configs(folder: Path, size: ModelSize) -> None:
    text = size.text
    config = {
        'model_type': 'openvla',
        'architectures': ['OpenVLAForActionPrediction'],
        'arch_specifier': 'no-align+fused-gelu-mlp',
        'image_resize_strategy': 'resize-naive',
        'image_sizes': [224, 224],
        'llm_backbone_id': 'llama2-7b-pure',
        'n_action_bins': 256,
        'norm_stats': {},
        'oracle_vision_overrides': {
            name: {'embed_dim': t.width, 'depth': t.depth, 'num_heads': t.heads}
            for name, t in ((DINO_ID, size.dino), (SIGLIP_ID, size.siglip))
        },
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
    write_json(folder / 'config.json', config)
    ids = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': PAD_ID}
    write_json(folder / 'generation_config.json', ids)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')
