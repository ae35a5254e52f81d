"""The two files in which a checkpoint, or a folder of its own, says how to prune it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import CheckpointError
from .layout import Trained

NOTE = 'pruning.json'
"""``{"method": "lightvla", ...}``: our trainer writes it, or the owner of the checkpoint."""

TENSORS = 'pruning.safetensors'


def read_trained(folder: Path) -> Trained:
    """What ``folder`` says; no method where it has no note.

    :raises CheckpointError: the note names no method, or a file cannot be read.
    """
    note, tensors = folder / NOTE, folder / TENSORS
    if not note.is_file():
        return Trained()
    try:
        settings = json.loads(note.read_text(encoding='utf-8'))
        method = settings.pop('method')
    except (ValueError, KeyError, TypeError, AttributeError):
        method = None
    if not isinstance(method, str):
        raise CheckpointError(f'{note} names no method', 'write it like {"method": "lightvla"}')
    try:
        return Trained(method, settings, load_file(tensors) if tensors.is_file() else {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'{tensors} cannot be read ({error})', 'copy it again') from None


def write_trained(
    folder: Path, method: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({'method': method, **settings}, indent=2)
    (folder / NOTE).write_text(text + '\n', encoding='utf-8')
    if tensors:
        (folder / TENSORS).write_bytes(save({k: v.contiguous() for k, v in tensors.items()}))
