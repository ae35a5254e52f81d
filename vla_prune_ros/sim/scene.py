"""What a simulated scene offers to the rest of the package, and how one is opened by name. Actions
are those of a LIBERO environment: robosuite's OSC_POSE controller with delta commands."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .libero.suites import SUITES

SIMULATORS = ('two_cubes', *SUITES)

# One unit of action moves this far per control step (robosuite ``osc_pose.json``, ``output_max``).
LINEAR_UNIT_M, ANGULAR_UNIT_RAD = 0.05, 0.5

# 7.5 s at 20 Hz for a pick, several times what the scripted expert takes.
PICK_STEPS, OTHER_STEPS = 150, 250


@dataclass(frozen=True)
class SceneState:
    ee_position: np.ndarray  # (3,), grip point in the world frame, m
    ee_quat_xyzw: np.ndarray  # (4,), of the hand in the world frame; sign as the simulator has it
    joint_names: tuple[str, ...]  # arm joints from base to hand, then the two fingers
    # (J,), rad for the arm; m for the fingers, with opposite signs and in LIBERO's order
    # (``robot0_gripper_qpos``: first >= 0, second <= 0).
    joint_positions: np.ndarray
    joint_velocities: np.ndarray


class Scene(ABC):
    """A robot, a task and some cameras, advanced one control step at a time; it belongs to the
    thread that made it, since its OpenGL context cannot move to another."""

    control_hz: float  # control steps per simulated second
    cameras: tuple[str, ...]  # the third-person camera first
    instruction: str  # the task of the present episode
    description: str  # simulator, versions and renderer in one line, for logs and reports
    time_s: float  # simulated seconds since the last reset, settling not counted
    task_names: tuple[str, ...] = ()  # that the episodes take in turn
    max_steps: int | None = None  # published step limit; None for the rule of `step_limit`
    # True where shapes stand in for a simulator's files: its results are not that simulator's.
    generated_assets: bool = False

    @property
    def task_name(self) -> str:
        return self.instruction

    @property
    def step_limit(self) -> int:
        if self.max_steps is not None:
            return self.max_steps
        return PICK_STEPS if self.task_name.startswith('pick') else OTHER_STEPS

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start the episode of a seed, which fixes task, placements and arm pose, and let it
        settle."""

    @abstractmethod
    def step(self, action: np.ndarray) -> None:
        """:param action: float64 (7,), xyz and rotation-vector deltas in [-1, 1] along the world's
        axes, then the gripper: below 0 opens, above 0 closes, 0 holds."""

    @abstractmethod
    def images(self) -> dict[str, np.ndarray]:
        """Camera -> uint8 (H, W, 3) RGB as the simulator renders it: row 0 is the bottom one, and
        OpenVLA-OFT's LIBERO preprocessing rotates it by 180 degrees (``image[::-1, ::-1]``)."""

    @abstractmethod
    def state(self) -> SceneState: ...

    @abstractmethod
    def success(self) -> bool: ...

    def wrong_object(self) -> str:
        """``'lifted'`` or ``'pushed'`` where another object than the task's was manipulated since
        the reset; else, and where the scene does not tell, ``''``."""
        return ''

    def close(self) -> None:  # noqa: B027 (most scenes hold nothing)
        """The scene is unusable afterwards. May be called twice."""


def make_scene(simulator: str = 'two_cubes', tasks: Sequence[str] = (), **options: Any) -> Scene:
    """:param tasks: names of its tasks; the episode of a seed has task ``seed % len(tasks)``.
        Empty: the simulator's own choice.
    :param options: passed on to the scene, for example ``image_size``, ``gl`` or ``render``."""
    if simulator not in SIMULATORS:
        raise VlaPruneError(
            f'simulator {simulator!r} is unknown', f'choose from {", ".join(SIMULATORS)}'
        )
    if simulator in SUITES:
        from .libero.scene import LiberoScene

        return LiberoScene(simulator, tasks, **options)
    from .two_cubes import PICK_TASKS, TwoCubeScene

    return TwoCubeScene(tasks=tasks or PICK_TASKS, **options)


def twist_to_action(
    linear_m_s: np.ndarray, angular_rad_s: np.ndarray, gripper_open: float, control_hz: float
) -> np.ndarray:
    """A twist (3,), (3,) along the world's axes as one OSC_POSE action, clipped to [-1, 1].

    It sets the controller's goal ``twist / control_hz`` ahead of where the arm is, of which it
    covers about a quarter within the step, in LIBERO as here: a command and not a distance.
    :param gripper_open: 0 closed .. 1 open."""
    action = np.empty(7)
    action[:3] = np.asarray(linear_m_s, dtype=np.float64) / (control_hz * LINEAR_UNIT_M)
    action[3:6] = np.asarray(angular_rad_s, dtype=np.float64) / (control_hz * ANGULAR_UNIT_RAD)
    action[6] = 1.0 - 2.0 * gripper_open
    return np.clip(action, -1.0, 1.0)


def gripper_to_env(actions: np.ndarray) -> np.ndarray:
    """A copy of a policy's actions (..., D) with the gripper, 0 closed ... 1 open, as scenes take
    it: -1 open, +1 close. OpenVLA-OFT's formula, to the last bit."""
    out = np.array(actions, copy=True)
    out[..., -1] = -np.sign(2 * out[..., -1] - 1)
    return out
