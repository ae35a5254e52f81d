"""The interface of everything that can tell how fast the end effector moves.

A motion that is not known is None with a reason: the pruning controller then prunes
conservatively, nothing is guessed.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import InputRefused
from ..records import ActionChunk, MotionHint
from .state import Vector

MAX_AGE_S = 0.5
"""A sample further than this from the asked instant says nothing about it, in s."""


class MotionSource:
    """Takes in what arrives, and tells the motion at an instant.

    Every source may be given every input and ignores what it does not use. Inputs never raise; a
    bad one makes the motion unknown. Not thread-safe: the node's executor thread owns it.
    """

    name: str
    """Value of the parameter that chooses this source, and ``source`` of its hints."""

    def __init__(self) -> None:
        self._why = ''

    def on_joints(
        self,
        stamp_ns: int,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
    ) -> None:
        """A joint state: rad and rad/s, for prismatic joints m and m/s; any order."""

    def on_pose(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> None:
        """A pose of the end effector in the base frame: (3,) in m and (4,) of either sign."""

    def on_chunk(self, chunk: ActionChunk) -> None:
        """The chunk that was commanded last."""

    def reset(self) -> None:
        """Forget every input, for a new episode or after a jump of the clock."""
        self._why = ''

    def at(self, stamp_ns: int) -> MotionHint | None:
        """The motion at an instant, usually the stamp of an image; None where it is unknown."""
        try:
            hint, self._why = self._estimate(stamp_ns), ''
        except InputRefused as refusal:
            hint, self._why = None, str(refusal)
        return hint

    def why(self) -> str:
        """Why the last :meth:`at` gave None, in one line; empty where it gave a motion."""
        return self._why

    def _estimate(self, stamp_ns: int) -> MotionHint:
        """:raises InputRefused: the motion is unknown."""
        raise NotImplementedError


def twist_hint(twist: np.ndarray, source: str) -> MotionHint:
    """Hint from a twist: linear velocity in m/s and angular in rad/s, (6,), axes of the base."""
    linear, angular = float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))
    return MotionHint(linear, angular, float(twist[2]), source)


def nothing_yet(what: str) -> InputRefused:
    """Refusal of a source that has received no ``what``."""
    return InputRefused('missing', f'no {what} received yet', 'check who publishes it')


def require_fresh(what: str, sample_ns: int, stamp_ns: int) -> None:
    """Let a sample pass that is near the asked instant, before or after it.

    :raises InputRefused: ``stale``, more than :data:`MAX_AGE_S` away.
    """
    gap_ns = abs(stamp_ns - sample_ns)
    if gap_ns > round(MAX_AGE_S * 1e9):
        raise InputRefused(
            'stale',
            f'the newest {what} is {gap_ns * 1e-9:.2f} s from the image',
            'check its driver, and the clocks of both',
        )
