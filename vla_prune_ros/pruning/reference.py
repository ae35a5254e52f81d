"""The earlier frame that the present one is compared with, chosen by speed."""

import numpy as np
import torch

from ..records import MotionHint
from .controller import look_back_clamped, look_back_legacy, look_back_paper
from .frame_change import Change, ChangeSettings, compare, to_device
from .layout import Target
from .plan import Query

LONGEST_STEPS = {'paper': 11, 'released': 6, 'clamped': 6}


class Reference:
    """Chooses T, fetches the frame T - 1 control steps back, and compares.

    :param rule: ``'paper'``, ``'released'`` or ``'clamped'``; see ``controller``.
    """

    def __init__(self, change: ChangeSettings, rule: str, target: Target) -> None:
        self._change, self._rule, self._target = change, rule, target
        self._last_ns: int | None = None

    @property
    def longest_steps(self) -> int:
        """Control steps that frames must reach back."""
        return LONGEST_STEPS[self._rule]

    def available(self, query: Query) -> bool:
        """True where every camera has an earlier frame."""
        history = query.history
        return history is not None and all(
            history.has_earlier(c, query.stamp_ns) for c in query.layout.cameras
        )

    def changes(
        self, query: Query, motion: MotionHint | None, device: torch.device
    ) -> tuple[list[Change], int]:
        """Per camera what changed, and T.

        :param motion: None where unknown: the longest look back, which finds the most motion.
        """
        steps = self._steps(query, motion)
        self._last_ns = query.stamp_ns
        frames = query.model_images if query.frames is None else query.frames
        changes = []
        for index, camera in enumerate(query.layout.cameras):
            now = to_device(frames[camera], device)
            then = self._frame(query, camera, steps)
            if then is None and self._rule != 'released':
                changes.append(_everything(query.layout.patches, device))
                continue
            before = now if then is None else to_device(then, device)
            changes.append(compare(now, before, self._change, index))
        return changes, steps

    def _steps(self, query: Query, motion: MotionHint | None) -> int:
        if motion is None:
            return self.longest_steps
        target = self._target
        units = motion.linear_m_s * target.control_period_s / target.step_m  # per control step
        if self._rule == 'paper':
            return look_back_paper(units)
        moved = units * self._steps_since(query)
        return look_back_legacy(moved) if self._rule == 'released' else look_back_clamped(moved)

    def _steps_since(self, query: Query) -> float:
        """Control steps since the last query; a whole chunk where stamps do not tell."""
        if self._last_ns is None or query.stamp_ns <= self._last_ns:
            return self._target.chunk
        return 1e-9 * (query.stamp_ns - self._last_ns) / self._target.control_period_s

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
        back_s = (steps - 1) * self._target.control_period_s
        return history.before(camera, query.stamp_ns, round(1e9 * back_s))


def _everything(patches: int, device: torch.device) -> Change:
    """What is not known to stand still may have moved."""
    ones = torch.ones(patches, device=device)
    return Change(ones, ones.bool())
