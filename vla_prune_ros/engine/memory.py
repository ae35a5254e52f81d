"""What a policy remembers from query to query, as bytes: a long replay goes on where it ended."""

import copyreg
import pickle
from types import MappingProxyType
from typing import Any

import torch

from ..errors import DataError
from ..pruning.plan import Pruner
from .episode_frames import EpisodeFrames


def _read_only(view: MappingProxyType) -> tuple[Any, ...]:
    return MappingProxyType, (dict(view),)


copyreg.pickle(MappingProxyType, _read_only)  # settings of pruners hold some


def pack(pruner: Pruner, frames: EpisodeFrames, generator: torch.Generator) -> bytes:
    """The pruner as it is, the frames it may compare with, and the noise that comes next.

    :raises DataError: the pruner cannot be pickled.
    """
    try:
        return pickle.dumps((pruner, frames.history, generator.get_state()))
    except Exception as error:  # whatever a pruner's own state raises
        raise DataError(
            f'what {pruner.name!r} remembers cannot be stored ({error})',
            'keep nothing in a pruner that pickle refuses, such as a function inside a function',
        ) from None


def unpack(memory: bytes, frames: EpisodeFrames, generator: torch.Generator) -> Pruner:
    """The pruner of :func:`pack`; frames and generator take on what they were.

    :param memory: of this machine and version: pickle runs what it is told to.
    """
    pruner, history, state = pickle.loads(memory)
    frames.take_over(history)
    generator.set_state(state)
    return pruner
