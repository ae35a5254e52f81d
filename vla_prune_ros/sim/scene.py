"""What a simulated scene offers to the rest of the package, whichever simulator is behind it.

Actions are those of a LIBERO environment: robosuite's OSC_POSE controller with delta commands.
"""

from dataclasses import dataclass

import numpy as np

LINEAR_UNIT_M = 0.05
"""Metres per unit of action and control step (robosuite ``osc_pose.json``, ``output_max``)."""

ANGULAR_UNIT_RAD = 0.5
"""Radians per unit of action and control step (same source)."""

PICK_STEPS, OTHER_STEPS = 150, 250
"""Step limits without a published one: 7.5 s at 20 Hz for a pick, several times what the scripted
expert takes."""


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


class Scene:
    """A robot, a task and some cameras, advanced one control step at a time.

    One scene belongs to the thread that made it: its OpenGL context cannot move to another.
    """

    control_hz: float
    """Control steps per simulated second."""

    cameras: tuple[str, ...]
    """Camera names, the third-person camera first."""

    instruction: str
    """The task of the present episode in plain words."""

    description: str
    """Simulator, versions and renderer in one line, for logs and reports."""

    time_s: float
    """Simulated seconds since the last reset."""

    task_names: tuple[str, ...] = ()
    """Names of the tasks that the episodes take in turn."""

    max_steps: int | None = None
    """Published step limit of an episode; None for :attr:`step_limit`'s own rule."""

    generated_assets: bool = False
    """True where shapes stand in for a simulator's files: its results are not that simulator's."""

    @property
    def task_name(self) -> str:
        """Short name of the present episode's task; the instruction where it has none."""
        return self.instruction

    @property
    def step_limit(self) -> int:
        """Control steps after which the present episode has failed."""
        if self.max_steps is not None:
            return self.max_steps
        return PICK_STEPS if self.task_name.startswith('pick') else OTHER_STEPS

    def reset(self, seed: int) -> None:
        """Start the episode that ``seed`` names and let it settle.

        The same seed gives the same task, placements and arm pose.
        """
        raise NotImplementedError

    def step(self, action: np.ndarray) -> None:
        """One control step.

        :param action: float64 (7,), xyz and rotation-vector deltas in [-1, 1] along the world's
            axes, then the gripper: below 0 opens, above 0 closes, 0 holds.
        """
        raise NotImplementedError

    def images(self) -> dict[str, np.ndarray]:
        """Camera -> uint8 (H, W, 3) RGB as the simulator renders it: row 0 is the bottom one.

        OpenVLA-OFT's LIBERO preprocessing rotates this by 180 degrees (``image[::-1, ::-1]``).
        """
        raise NotImplementedError

    def state(self) -> SceneState:
        """Pose and joints now."""
        raise NotImplementedError

    def success(self) -> bool:
        """Whether the task of this episode is fulfilled now."""
        raise NotImplementedError

    def wrong_object(self) -> str:
        """``'lifted'`` or ``'pushed'`` where another object than the task's was manipulated since
        the reset; else, and where the scene does not tell, ``''``."""
        return ''

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
