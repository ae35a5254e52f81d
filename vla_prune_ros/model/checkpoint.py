"""Reading a checkpoint folder in the published layout.

``config.json``, sharded or single safetensors, ``action_head--N_checkpoint.pt`` and
``proprio_projector--N_checkpoint.pt`` (state dicts with a ``module.`` prefix) and
``dataset_statistics.json``. Nothing is executed from the folder: pickles load with
``weights_only``.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import LlamaConfig

from ..errors import CheckpointError
from ..profiles import Profile
from .openvla import ModelSize, OpenVLAOFT
from .vision import DINO_ID, SIGLIP_ID, TowerSize, dino_size, siglip_size

Progress = Callable[[str], None]

# Tensors of the published files that never influence the L1 output, and buffers of old exports.
_UNUSED = re.compile(
    r'language_model\.lm_head\.|.*\.rotary_emb\.inv_freq$|'
    r'vision_backbone\.(featurizer|fused_featurizer)\.norm\.|vision_backbone\.fused_featurizer\.attn_pool\.'
)
_BLOCK = re.compile(r'vision_backbone\.(featurizer|fused_featurizer)\.blocks\.(\d+)\.')


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    :raises CheckpointError: missing, unreadable or not an object.
    """
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


@dataclass(frozen=True)
class Bounds:
    """Normalisation limits of one quantity, float64 (n,) each, and what is scaled."""

    low: np.ndarray
    high: np.ndarray
    mask: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """The limits of actions and state for one ``unnorm_key``."""

    key: str
    action: Bounds
    proprio: Bounds | None


def read_statistics(folder: Path, profile: Profile, unnorm_key: str | None) -> Statistics:
    """The statistics of one key of ``dataset_statistics.json``, checked against the profile.

    :raises CheckpointError: key unknown or ambiguous (the keys are listed), wrong lengths, limits
        that are not finite or not ordered.
    """
    path = folder / 'dataset_statistics.json'
    data = read_json(path)
    key = _choose_key(path, sorted(data), unnorm_key)
    action = _bounds(path, key, data[key], 'action', profile, profile.action_dim)
    proprio = (
        _bounds(path, key, data[key], 'proprio', profile, profile.proprio_dim)
        if profile.proprio_dim
        else None
    )
    return Statistics(key, action, proprio)


def _choose_key(path: Path, keys: list[str], wanted: str | None) -> str:
    if not keys:
        raise CheckpointError(f'{path} holds no statistics', 'fetch the file again')
    if not wanted:
        if len(keys) == 1:
            return keys[0]
        raise CheckpointError(
            f'{path} holds several keys and unnorm_key is not set',
            f'set unnorm_key to one of {keys}',
        )
    for candidate in (wanted, f'{wanted}_no_noops'):
        if candidate in keys:
            return candidate
    raise CheckpointError(f'unnorm_key {wanted!r} is not in {path}', f'use one of {keys}')


def _bounds(path: Path, key: str, entry: Any, what: str, profile: Profile, length: int) -> Bounds:
    names = ('q01', 'q99') if profile.normalization == 'bounds_q99' else ('min', 'max')
    where = f'{path.name}: {key}.{what}'
    try:
        low, high = (np.asarray(entry[what][n], np.float64) for n in names)
        mask = np.asarray(entry[what].get('mask', [True] * len(low)), bool)
        mean = np.asarray(entry[what].get('mean') or (low + high) / 2, np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{where} has no usable {names[0]}/{names[1]} ({error!r})',
            f'check profile {profile.name!r} and its normalization',
        ) from None
    if not len(low) == len(high) == len(mask) == len(mean) == length:
        raise CheckpointError(
            f'{where} has {len(low)} dimensions, profile {profile.name!r} has {length}',
            'choose the profile the checkpoint was trained with',
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high)[mask].all()):
        raise CheckpointError(
            f'{where}: limits are not finite or not {names[0]} < {names[1]}',
            'fetch dataset_statistics.json again',
        )
    return Bounds(low, high, mask, mean)


def read_size(folder: Path, profile: Profile) -> ModelSize:
    """Shapes of all modules from ``config.json``.

    The published file names the towers only; shrunken checkpoints add ``oracle_vision_overrides``.
    The language model's missing fields take ``LlamaConfig``'s defaults (RMSNorm eps 1e-6), as
    published.
    """
    config = read_json(folder / 'config.json')
    text = dict(config.get('text_config') or {})
    if config.get('model_type') != 'openvla' or text.pop('model_type', 'llama') != 'llama':
        raise CheckpointError(
            f'{folder}/config.json is not an OpenVLA model (model_type '
            f'{config.get("model_type")!r})',
            'point checkpoint at an OpenVLA-OFT folder',
        )
    text.pop('torch_dtype', None)
    try:
        towers = config.get('oracle_vision_overrides') or {}
        dino, siglip = (
            _tower(make, towers.get(name))
            for make, name in ((dino_size, DINO_ID), (siglip_size, SIGLIP_ID))
        )
        return ModelSize(
            dino, siglip, LlamaConfig(**text), profile.action_dim, profile.proprio_dim
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{folder}/config.json: {str(error).splitlines()[0]}', 'fetch config.json again'
        ) from None


def _tower(make: Callable[..., TowerSize], override: dict[str, int] | None) -> TowerSize:
    return (
        make(override['embed_dim'], override['depth'], override['num_heads'])
        if override
        else make()
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors shards, from the index or the single file.

    :raises CheckpointError: none, or the index names a shard that is not there.
    """
    index = folder / 'model.safetensors.index.json'
    if index.is_file():
        files = [folder / n for n in sorted(set(read_json(index).get('weight_map', {}).values()))]
    else:
        files = sorted(folder.glob('*.safetensors'))
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


def stream_weights(folder: Path, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all shards, one at a time: host memory holds no second copy of the model."""
    files = weight_files(folder)
    for number, file in enumerate(files, start=1):
        progress(f'reading weights {number}/{len(files)}: {file.name}')
        try:
            with safe_open(file, 'pt') as shard:
                for name in shard.keys():  # noqa: SIM118 (not a mapping)
                    yield name, shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f'{file} is broken ({error})', 'fetch the file again') from None


def read_component(folder: Path, name: str) -> dict[str, Tensor]:
    """A ``.pt`` component as a state dict without its ``module.`` prefix.

    :raises CheckpointError: none or several files, or one that is not a plain state dict.
    """
    files = [f for f in sorted(folder.glob(f'*{name}*.pt')) if 'checkpoint' in f.name]
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


def _used(name: str, size: ModelSize) -> bool:
    block = _BLOCK.match(name)
    if block:
        depth = (size.dino if block[1] == 'featurizer' else size.siglip).depth
        return int(block[2]) < depth - 1  # the last block never influences the feature
    return not _UNUSED.match(name)


def load_model(
    folder: Path,
    profile: Profile,
    device: str,
    dtype: torch.dtype,
    progress: Progress = lambda text: None,
) -> OpenVLAOFT:
    """The network with its weights on ``device`` in ``dtype``, in evaluation mode.

    :raises CheckpointError: missing, surplus or wrongly shaped tensors, named.
    """
    size = read_size(folder, profile)
    with torch.device('meta'):
        model = OpenVLAOFT(size)
    wanted = dict(model.named_parameters())
    weights = ((n, t) for n, t in stream_weights(folder, progress) if _used(n, size))
    for name, tensor in weights:
        _assign(model, wanted, name, tensor.to(device, dtype), str(folder))
    for component in ('action_head', *(['proprio_projector'] if profile.proprio_dim else [])):
        for name, tensor in read_component(folder, component).items():
            _assign(
                model, wanted, f'{component}.{name}', tensor.to(device, dtype), f'{component} file'
            )
    if wanted:
        raise CheckpointError(
            f'{folder} lacks {len(wanted)} tensors, first {next(iter(wanted))}',
            'finish the download, or choose the profile the checkpoint was trained with',
        )
    return model.eval().requires_grad_(False)


def _assign(
    model: nn.Module, wanted: dict[str, nn.Parameter], name: str, tensor: Tensor, where: str
) -> None:
    slot = wanted.pop(name, None)
    if slot is None:
        raise CheckpointError(
            f'{where}: tensor {name} does not belong to an L1 OpenVLA-OFT model',
            'check that the folder holds an OpenVLA-OFT checkpoint with an L1 action head',
        )
    if slot.shape != tensor.shape:
        raise CheckpointError(
            f'{where}: {name} is {tuple(tensor.shape)}, expected {tuple(slot.shape)}',
            'choose the profile the checkpoint was trained with',
        )
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, nn.Parameter(tensor, requires_grad=False))
