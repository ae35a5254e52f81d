"""What training takes from a recording: one labelled frame at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One labelled frame.

    :param images: camera of the profile -> uint8 (H, W, 3) RGB, as
        :class:`~vla_prune_ros.records.Observation` has them; 224 x 224 where ``prepared``.
    :param state: float64 (P,), un-normalised, in the checkpoint's units; None without one.
    :param instruction: the task in plain words.
    :param chunk: float64 (K, D), the demonstrator's actions from this frame on, un-normalised, in
        the units and conventions that the policy predicts (gripper 0 closed .. 1 open).
    :param valid: bool (K,), False where a step of the chunk is no label.
    :param prepared: the images are what the towers see already: not cropped or resized again.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray | None
    instruction: str
    chunk: np.ndarray
    valid: np.ndarray
    prepared: bool = False


class Source(Protocol):
    """Samples by number. Read by one process at a time; every process opens its own."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample with this number."""

    def instruction(self, index: int) -> str:
        """Its instruction, without decoding its pictures."""

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Every step's action float64 (N, D) and state float64 (N, P), for statistics."""
