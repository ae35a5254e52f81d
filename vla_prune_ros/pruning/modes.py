"""Coarse or fine, by how the end effector moves (SpecPrune-VLA, arXiv 2509.05614). An action unit
is what 1.0 means in one step of the robot's action: ``step_m`` metres or ``step_rad`` radians.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ..records import MotionHint
from .layout import Target
from .state import Stateful

DENSE, COARSE, FINE = 'dense', 'coarse', 'fine'


def linear_units(speed_m_s: float, target: Target) -> float:
    return speed_m_s * target.control_period_s / target.step_m


def angular_units(speed_rad_s: float, target: Target) -> float:
    return speed_rad_s * target.control_period_s / target.step_rad


@dataclass(frozen=True)
class UnitSpeed:
    linear: float
    horizontal: float  # norm of x and y
    vertical: float
    angular: float

    @classmethod
    def of_motion(cls, motion: MotionHint, target: Target) -> 'UnitSpeed':
        linear, vertical = motion.linear_m_s, motion.vertical_m_s
        horizontal = math.sqrt(max(0.0, (linear - vertical) * (linear + vertical)))
        return cls(
            linear=linear_units(linear, target),
            horizontal=linear_units(horizontal, target),
            vertical=linear_units(vertical, target),
            angular=angular_units(motion.angular_rad_s, target),
        )


@dataclass(frozen=True)
class AxesThresholds:
    """The 2026 rule, constants in action units of LIBERO (code revision 8091adc4)."""

    enter_linear_units: float = 0.35
    enter_angular_units: float = 0.2

    def fine(self, was_fine: bool, speed: UnitSpeed, may_leave: bool = True) -> bool:
        """Whether the mode is fine after a step at ``speed``. A fast straight descent enters."""
        if was_fine:
            return not (may_leave and (speed.vertical > 0.2 or speed.angular > 0.3))
        straight = speed.horizontal < 0.1 and speed.vertical < 0.1
        return speed.linear < self.enter_linear_units or (
            straight and speed.angular < self.enter_angular_units
        )


@dataclass(frozen=True)
class ControllerSettings:
    # 'descending' is the paper's (slow and not rising is fine), 'axes' the 2026 code's.
    rule: Literal['descending', 'axes'] = 'descending'
    # Fine needs speeds below these; none, for 'axes' only: the constants of `axes`.
    enter_m_s: float | None = 0.35
    enter_rad_s: float | None = 2.0
    # For 'descending': fine ends above this many times a threshold, and begins only at a vertical
    # velocity up to `rising_m_s`, above 0 so that sensor noise at rest does not count as rising.
    leave_factor: float = 1.5
    rising_m_s: float = 0.01
    axes: AxesThresholds = AxesThresholds()
    # The mode where the motion is unknown: the one that keeps more tokens.
    conservative: str = FINE


# SpecPrune-VLA v1: fine iff slow and not rising. The paper prints no thresholds; 0.35 and 2.0 are
# the 2026 code's 0.35 and 0.2 action units per step at LIBERO's 0.05 m, 0.5 rad and 0.05 s.
PAPER = ControllerSettings(leave_factor=1.0, rising_m_s=0.0)
# The paper's rule with hysteresis, for measured speeds. The authors judge what the policy
# commands; LIBERO's arm follows about a quarter of it: a command of 0.35 m/s moves the hand by
# 0.09 m/s (robosuite 1.4.0, OSC_POSE).
RECOMMENDED = ControllerSettings(enter_m_s=0.09, enter_rad_s=0.5)
# The 2026 code to the letter. Its fine mode keeps fewer tokens, so coarse is the safe one.
LEGACY_2026 = ControllerSettings(
    rule='axes', enter_m_s=None, enter_rad_s=None, conservative=COARSE
)


def _known(motion: MotionHint | None) -> bool:
    if motion is None or not math.isfinite(motion.vertical_m_s):
        return False
    speeds = (motion.linear_m_s, motion.angular_rad_s)
    return all(math.isfinite(v) and v >= 0 for v in speeds)


class Controller(Stateful):
    """Coarse or fine, query by query; ``mode`` is that of the last known motion, ``unknown``
    whether the last :meth:`update` had none."""

    state_names = ('mode', 'unknown')

    def __init__(self, settings: ControllerSettings, target: Target) -> None:
        self.settings, self.target = settings, target
        axes, linear, angular = settings.axes, settings.enter_m_s, settings.enter_rad_s
        if linear is not None:
            axes = replace(axes, enter_linear_units=linear_units(linear, target))
        if angular is not None:
            axes = replace(axes, enter_angular_units=angular_units(angular, target))
        self._axes = axes
        self.reset()

    def reset(self) -> None:
        self.mode, self.unknown = COARSE, False

    def update(self, motion: MotionHint | None) -> str:
        """The mode of this query; without usable motion the conservative one, not remembered."""
        self.unknown = not _known(motion)
        if self.unknown:
            return self.settings.conservative
        if self.settings.rule == 'axes':
            speed = UnitSpeed.of_motion(motion, self.target)
            fine = self._axes.fine(self.mode == FINE, speed)
        else:
            fine = self._descending(motion)
        self.mode = FINE if fine else COARSE
        return self.mode

    def _descending(self, motion: MotionHint) -> bool:
        s = self.settings
        if self.mode == FINE:
            return (
                motion.linear_m_s <= s.leave_factor * s.enter_m_s
                and motion.angular_rad_s <= s.leave_factor * s.enter_rad_s
            )
        return (
            motion.linear_m_s < s.enter_m_s
            and motion.angular_rad_s < s.enter_rad_s
            and motion.vertical_m_s <= s.rising_m_s
        )


def look_back_legacy(moved_units: float) -> int:
    """Control steps T back to the reference frame, 2026 code (8091adc4), m units since the last
    query: min(int(-16/3 m/6 + 22/3) + 3, 6), ``int`` towards zero. T counts from the end, 1 is the
    present frame; 0 or less counts from the beginning."""
    # In the order of the original, to round like it.
    return min(int(-16 / 3 * moved_units / 6 + 22 / 3) + 3, 6)


def look_back_clamped(moved_units: float) -> int:
    """Like :func:`look_back_legacy` with floor for ``int``, and T kept within 2 ... 6."""
    return max(2, min(math.floor(-16 / 3 * moved_units / 6 + 22 / 3) + 3, 6))


def look_back_paper(speed_units: float) -> int:
    """T = floor(7 - v) + 4 (SpecPrune-VLA v3) of the linear speed v in units, within 2 ... 11."""
    return max(2, min(math.floor(7 - speed_units) + 4, 11))
