"""What a pruner is built for, and where everything is in the sequence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import CheckpointError

PUBLISHED_LAYERS, PUBLISHED_PATCHES = 32, 256  # of the model that methods were published for

# 'In: What action should the robot take to' behind BOS; '? \\n Out : _' behind the task words
# (reference tokenisation of the published prompt).
PREFIX_TOKENS, SUFFIX_TOKENS = 10, 5

# The files in which a checkpoint, or a folder of its own, says how to prune it: {"method":
# "lightvla", ...}, by our trainer or the owner of the checkpoint, and tensors of the method.
NOTE, TENSORS = 'pruning.json', 'pruning.safetensors'


@dataclass(frozen=True)
class Trained:
    method: str = ''  # that the weights were trained for; '' for none
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def read_trained(folder: Path) -> Trained:
    """:raises CheckpointError: the note names no method, or a file cannot be read."""
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


@dataclass(frozen=True)
class Target:
    """What a pruner is built for; the defaults are OpenVLA-OFT with LIBERO's conventions."""

    cameras: tuple[str, ...] = ('primary', 'wrist')
    patches: int = 256  # visual tokens per camera
    layers: int = 32
    chunk: int = 8  # control steps per query
    control_period_s: float = 0.05
    step_m: float = 0.05  # metres of one unit in a step's action
    step_rad: float = 0.5
    trained: Trained | None = None  # None: not known
    width: int = 4096  # D of the decoder

    def scaled_layer(self, published: int) -> int:
        """The layer at the same ratio of the depth as one of 32: 31 becomes the last."""
        return max(1, round((published + 1) * self.layers / PUBLISHED_LAYERS)) - 1

    def scaled_count(self, published: int) -> int:
        """As many tokens of a camera as ``published`` of 256, rounded up."""
        return ceil(published * self.patches / PUBLISHED_PATCHES)


@dataclass(frozen=True)
class Layout:
    """Where everything is: ``[BOS | visual | proprio | time | prompt | slots | stop]``."""

    cameras: tuple[str, ...]
    patches: int  # visual tokens per camera
    proprio: int  # 1 with such a token, else 0; `time` too
    prompt: int  # prompt ids, BOS included
    slots: int  # action slots, K * D
    time: int = 0

    @property
    def visual(self) -> int:
        return self.patches * len(self.cameras)

    @property
    def length(self) -> int:
        return self.visual + self.proprio + self.time + self.prompt + self.slots + 1

    @property
    def prompt_positions(self) -> range:
        """Without BOS."""
        start = 1 + self.visual + self.proprio + self.time
        return range(start, start + self.prompt - 1)

    @property
    def task_positions(self) -> range:
        """Without the fixed words of the prompt."""
        start = self.visual + self.proprio + self.time + PREFIX_TOKENS
        return range(start, start + max(0, self.prompt - PREFIX_TOKENS - SUFFIX_TOKENS))

    @property
    def slot_positions(self) -> range:
        start = self.prompt_positions.stop
        return range(start, start + self.slots)

    @property
    def readout_positions(self) -> range:
        """Rows that the action head reads: one before each slot."""
        return range(self.slot_positions.start - 1, self.slot_positions.stop - 1)

    def camera_masks(self, ids: Tensor) -> dict[str, np.ndarray]:
        """Camera -> bool (patches,) that marks the given original ids."""
        mask = np.zeros(self.visual, dtype=bool)
        mask[ids.cpu().numpy()] = True
        return dict(zip(self.cameras, mask.reshape(-1, self.patches), strict=True))
