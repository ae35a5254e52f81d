"""What a simulated robot holds: the latest gripper goal, and the latest twist until it is old."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputRefused
from .scene import twist_to_action


@dataclass(frozen=True)
class _Twist:
    linear_m_s: np.ndarray
    angular_rad_s: np.ndarray
    received_ns: int


class CommandHold:
    """Zero-order hold with a timeout.

    Setters may run in another thread than :meth:`action`: each replaces one immutable value.

    :param control_hz: control steps per simulated second.
    :param timeout_s: simulated seconds; a twist received longer ago no longer moves the arm. Age
        counts from receipt, not from the header's stamp: a sender may run on wall time.
    """

    def __init__(self, control_hz: float, timeout_s: float) -> None:
        self._control_hz = control_hz
        self._timeout_ns = round(timeout_s * 1e9)
        self.clear()

    def clear(self) -> None:
        """Forget all: no motion, gripper open, ``applied`` 0."""
        self._twist: _Twist | None = None
        self._last: _Twist | None = None
        self._open = 1.0
        self.applied = 0

    def set_twist(self, linear_m_s: np.ndarray, angular_rad_s: np.ndarray, now_ns: int) -> None:
        """Hold this twist from now on.

        :param linear_m_s: (3,), world axes.
        :param angular_rad_s: (3,), world axes.
        :param now_ns: simulated time of receipt.
        :raises InputRefused: ``non_finite``; the twist held before stays.
        """
        linear = np.array(linear_m_s, dtype=np.float64)
        angular = np.array(angular_rad_s, dtype=np.float64)
        if not (np.isfinite(linear).all() and np.isfinite(angular).all()):
            raise InputRefused(
                'non_finite', 'twist holds NaN or infinity', 'send finite m/s and rad/s'
            )
        self._twist = _Twist(linear, angular, now_ns)

    def set_gripper(self, fraction_open: float) -> None:
        """Hold this gripper goal: 0 closed .. 1 open, clipped.

        :raises InputRefused: ``non_finite``; the goal held before stays.
        """
        if not np.isfinite(fraction_open):
            raise InputRefused(
                'non_finite', 'gripper position is NaN or infinity', 'send 0 (closed) to 1 (open)'
            )
        self._open = float(np.clip(fraction_open, 0.0, 1.0))

    def action(self, now_ns: int) -> np.ndarray:
        """The action for the step that starts at ``now_ns``, float64 (7,); see :class:`Scene`.

        A twist that is used for the first time counts in ``applied``.
        """
        twist = self._twist
        if twist is None or now_ns - twist.received_ns > self._timeout_ns:
            return twist_to_action(np.zeros(3), np.zeros(3), self._open, self._control_hz)
        if twist is not self._last:
            self._last = twist
            self.applied += 1
        return twist_to_action(twist.linear_m_s, twist.angular_rad_s, self._open, self._control_hz)
