"""What a pruner is built for, and where everything is in the sequence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from torch import Tensor

PUBLISHED_LAYERS, PUBLISHED_PATCHES = 32, 256  # of the model that methods were published for

# 'In: What action should the robot take to' behind BOS; '? \\n Out : _' behind the task words
# (reference tokenisation of the published prompt).
PREFIX_TOKENS = 10
SUFFIX_TOKENS = 5


@dataclass(frozen=True)
class Trained:
    """What ``pruning.json`` and ``pruning.safetensors`` of a checkpoint say.

    :param method: pruning method that the weights were trained for; ``''`` for none."""

    method: str = ''
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What a pruner is built for; the defaults are OpenVLA-OFT with LIBERO's conventions.

    :param patches: visual tokens per camera. :param chunk: control steps per query.
    :param step_m, step_rad: metres and radians of one unit in a step's action.
    :param trained: how the weights were trained to be pruned; None where that is not known.
    :param width: D of the decoder."""

    cameras: tuple[str, ...] = ('primary', 'wrist')
    patches: int = 256
    layers: int = 32
    chunk: int = 8
    control_period_s: float = 0.05
    step_m: float = 0.05
    step_rad: float = 0.5
    trained: Trained | None = None
    width: int = 4096

    def scaled_layer(self, published: int) -> int:
        """The layer at the same ratio of the depth as one of 32: 31 is the last of any decoder."""
        return max(1, round((published + 1) * self.layers / PUBLISHED_LAYERS)) - 1

    def scaled_count(self, published: int) -> int:
        """As many tokens of a camera as ``published`` of 256, rounded up."""
        return ceil(published * self.patches / PUBLISHED_PATCHES)


@dataclass(frozen=True)
class Layout:
    """Where everything is: ``[BOS | visual | proprio | time | prompt | slots | stop]``.

    :param patches: visual tokens per camera. :param prompt: number of prompt ids, BOS included.
    :param proprio, time: 1 with such a token, else 0. :param slots: action slots, K * D."""

    cameras: tuple[str, ...]
    patches: int
    proprio: int
    prompt: int
    slots: int
    time: int = 0

    @property
    def visual(self) -> int:
        return self.patches * len(self.cameras)

    @property
    def length(self) -> int:
        return self.visual + self.proprio + self.time + self.prompt + self.slots + 1

    @property
    def prompt_positions(self) -> range:
        """Positions of the prompt ids behind BOS."""
        start = 1 + self.visual + self.proprio + self.time
        return range(start, start + self.prompt - 1)

    @property
    def task_positions(self) -> range:
        """Positions of the words of the task, without the fixed words of the prompt."""
        start = self.visual + self.proprio + self.time + PREFIX_TOKENS
        return range(start, start + max(0, self.prompt - PREFIX_TOKENS - SUFFIX_TOKENS))

    @property
    def slot_positions(self) -> range:
        start = self.prompt_positions.stop
        return range(start, start + self.slots)

    @property
    def readout_positions(self) -> range:
        """Positions whose hidden states the action head reads: one before each slot."""
        return range(self.slot_positions.start - 1, self.slot_positions.stop - 1)

    def camera_masks(self, ids: Tensor) -> dict[str, np.ndarray]:
        """Camera -> bool (patches,) that marks the given original ids."""
        mask = np.zeros(self.visual, dtype=bool)
        mask[ids.cpu().numpy()] = True
        return {
            c: mask[i * self.patches : (i + 1) * self.patches] for i, c in enumerate(self.cameras)
        }
