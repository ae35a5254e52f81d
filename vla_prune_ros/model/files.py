"""The files of a checkpoint folder, read without executing anything that is in them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

Progress = Callable[[str], None]


def read_json(path: Path) -> dict[str, Any]:
    """:raises CheckpointError: missing, unreadable or not an object."""
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
    """:raises CheckpointError: no weights, or the index names a shard that is not there."""
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


def stream_weights(
    folder: Path, progress: Progress, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all shards, one at a time: host memory holds no second copy of the model.

    Read, not mapped: a mapped bfloat16 tensor would stay a view of its file, whose pages count as
    the process's and which must not change as long as the policy lives."""
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
    """Files of one ``.pt`` component, named ``<name>--N_checkpoint.pt``."""
    return [f for f in sorted(folder.glob(f'*{name}*.pt')) if 'checkpoint' in f.name]


def read_component(folder: Path, name: str) -> dict[str, Tensor]:
    """A ``.pt`` component as a state dict without its ``module.`` prefix.

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
