"""What a simulated scene offers to the rest of the package, whichever simulator is behind it.

Actions are those of a LIBERO environment: robosuite's OSC_POSE controller with delta commands.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

LINEAR_UNIT_M = 0.05
"""Metres per unit of action and control step (robosuite ``osc_pose.json``, ``output_max``)."""

ANGULAR_UNIT_RAD = 0.5
"""Radians per unit of action and control step (same source)."""


@dataclass(frozen=True)
class SceneState:
    """Where the robot is.

    :param ee_position: float64 (3,), grip point in the world frame, m.
    :param ee_quat_xyzw: float64 (4,), unit quaternion of the hand in the world frame, in the sign
        that the simulator gives it.
    :param joint_names: arm joints from base to hand, then the two fingers.
    :param joint_positions: float64 (J,), rad for the arm; m for the fingers, with opposite signs
        and in LIBERO's order (``robot0_gripper_qpos``: first >= 0, second <= 0).
    :param joint_velocities: float64 (J,), rad/s and m/s.
    """

    ee_position: np.ndarray
    ee_quat_xyzw: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    joint_velocities: np.ndarray


class Scene(Protocol):
    """A robot, a task in words and some cameras, advanced one control step at a time.

    One scene belongs to the thread that made it: its OpenGL context cannot move to another.
    """

    @property
    def control_hz(self) -> float:
        """Control steps per simulated second."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names, the third-person camera first."""

    @property
    def instruction(self) -> str:
        """The task of the present episode in plain words."""

    @property
    def description(self) -> str:
        """Simulator, versions and renderer in one line, for logs and reports."""

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset."""

    def reset(self, seed: int) -> None:
        """Start the episode that ``seed`` names: same seed, same task, placements and arm pose."""

    def step(self, action: np.ndarray) -> None:
        """One control step.

        :param action: float64 (7,), xyz and rotation-vector deltas in [-1, 1] along the world's
            axes, then the gripper: below 0 opens, above 0 closes, 0 holds.
        """

    def images(self) -> dict[str, np.ndarray]:
        """Camera -> uint8 (H, W, 3) RGB as the simulator renders it: row 0 is the bottom one.

        OpenVLA-OFT's LIBERO preprocessing rotates this by 180 degrees (``image[::-1, ::-1]``).
        """

    def state(self) -> SceneState:
        """Pose and joints now."""

    def success(self) -> bool:
        """Whether the task of this episode is fulfilled now."""

    def close(self) -> None:
        """Free the renderer; the scene is unusable afterwards. May be called twice."""


def twist_to_action(
    linear_m_s: np.ndarray, angular_rad_s: np.ndarray, gripper_open: float, control_hz: float
) -> np.ndarray:
    """A twist in SI units as one OSC_POSE action.

    The result sets the controller's goal ``twist / control_hz`` ahead of where the arm is. Within
    the step the arm covers about a quarter of that, in LIBERO as here: in SI units too, OSC_POSE
    deltas are commands and not distances.

    :param linear_m_s: (3,), along the world's axes.
    :param angular_rad_s: (3,), about the world's axes.
    :param gripper_open: 0 closed .. 1 open.
    :param control_hz: control steps per second.
    :returns: float64 (7,), clipped to [-1, 1]; gripper -1 open, +1 close.
    """
    action = np.empty(7)
    action[:3] = np.asarray(linear_m_s, dtype=np.float64) / (control_hz * LINEAR_UNIT_M)
    action[3:6] = np.asarray(angular_rad_s, dtype=np.float64) / (control_hz * ANGULAR_UNIT_RAD)
    action[6] = 1.0 - 2.0 * gripper_open
    return np.clip(action, -1.0, 1.0)
