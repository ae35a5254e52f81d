"""The earlier frame that the present one is compared with, chosen by speed."""

from math import isqrt

import numpy as np
import torch
from torch import Tensor

from ..errors import ProfileError
from ..records import MotionHint
from .controller import linear_units, look_back_clamped, look_back_legacy, look_back_paper
from .frame_change import Change, ChangeSettings, compare, to_device
from .layout import Layout, Target
from .plan import Query

LONGEST_STEPS = {'paper': 11, 'released': 6, 'clamped': 6}
LIBERO = Target()


class Reference:
    """Chooses T, fetches the frame T - 1 steps back, and compares.

    ``'paper'`` and ``'released'`` count control steps and action units of the robot, as published.
    ``'clamped'`` counts steps of 0.05 s and units of 0.05 m whatever the robot: a reference is at
    most 0.25 s old, and the same motion in m/s gives the same age.

    :param rule: one of these; the formulas of T are in ``controller``.
    """

    def __init__(self, change: ChangeSettings, rule: str, target: Target) -> None:
        self._change, self._rule = change, rule
        self._units = LIBERO if rule == 'clamped' else target
        self._chunk_s = target.chunk * target.control_period_s

    @property
    def longest_s(self) -> float:
        """Seconds that frames must reach back."""
        return LONGEST_STEPS[self._rule] * self._units.control_period_s

    def available(self, query: Query) -> bool:
        """True where every camera has an earlier frame."""
        history = query.history
        return history is not None and all(
            history.has_earlier(c, query.stamp_ns) for c in query.layout.cameras
        )

    def changes(
        self, query: Query, motion: MotionHint | None, since_s: float, device: torch.device
    ) -> tuple[list[Change], int]:
        """Per camera what changed, and T.

        :param motion: None where unknown: the longest look back, which finds the most motion.
        :param since_s: time since the last query; a whole chunk where it is not above 0.
        :raises ProfileError: the pictures do not divide into the layout's patches.
        """
        steps = self._steps(motion, since_s)
        changes = []
        for index, camera in enumerate(query.layout.cameras):
            now = self._present(query, camera, device)
            then = self._frame(query, camera, steps)
            if then is None and self._rule != 'released':
                changes.append(_everything(query.layout.patches, device))
                continue
            before = now if then is None else to_device(then, device)
            side = self._patch_side(now, query.layout)
            changes.append(compare(now, before, self._change, index, side))
        return changes, steps

    def _steps(self, motion: MotionHint | None, since_s: float) -> int:
        if motion is None:
            return LONGEST_STEPS[self._rule]
        units = linear_units(motion.linear_m_s, self._units)  # per control step
        if self._rule == 'paper':
            return look_back_paper(units)
        since_s = since_s if since_s > 0 else self._chunk_s
        moved = units * since_s / self._units.control_period_s
        return look_back_legacy(moved) if self._rule == 'released' else look_back_clamped(moved)

    def _present(self, query: Query, camera: str, device: torch.device) -> Tensor:
        if query.frames is not None:
            return to_device(query.frames[camera], device)
        image = query.model_images[camera]
        if self._change.halved:
            high, wide = image.shape[0] // 2, image.shape[1] // 2
            cells = image[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, 3)
            image = np.rint(cells.mean(axis=(1, 3))).astype(np.uint8)
        return to_device(image, device)

    def _patch_side(self, frame: Tensor, layout: Layout) -> int:
        """Pixels of a patch's side in a frame of whole resolution."""
        grid = isqrt(layout.patches)
        if grid * grid != layout.patches or any(side % grid for side in frame.shape[:2]):
            raise ProfileError(
                f'pictures of {frame.shape[0]} x {frame.shape[1]} and {layout.patches} patches',
                'use specprune with square grids of patches',
            )
        return frame.shape[0] // grid * (2 if self._change.halved else 1)

    def _frame(self, query: Query, camera: str, steps: int) -> np.ndarray | None:
        """The reference; None where there is none or the released code takes the present one."""
        history = query.history
        if history is None:
            return None
        if self._rule == 'released':
            if steps <= 0:  # a negative index of the released code's list: frames 0, 1, ...
                return history.first(camera, -steps)
            if steps == 1 or history.count(camera) < steps:
                return None
        back_s = (steps - 1) * self._units.control_period_s
        return history.before(camera, query.stamp_ns, round(1e9 * back_s))


def _everything(patches: int, device: torch.device) -> Change:
    """What is not known to stand still may have moved."""
    ones = torch.ones(patches, device=device)
    return Change(ones, ones.bool())
