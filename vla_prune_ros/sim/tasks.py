"""What the instructions of the two-cube scene ask for, and exact tests of whether it was done.

All in the world frame: x away from the robot, y to its left, z up, m. In the picture of camera
``primary`` as OpenVLA-OFT sees it (turned by 180 degrees) the robot's left is on the left, too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .cubes import Cubes

TABLE_Z_M = 0.8
"""Height of the table's top."""

LIFTED_M = 0.05
"""A cube this far above where it rested counts as picked up."""

PUSHED_M = 0.03
"""A cube that slid this far from where it rested counts as pushed."""

LEFT_M = 0.15
"""The left side of the table begins here (y); cubes start at y <= 0.10 m."""

_LEFT_AIM_M = 0.19
_HEIGHT_TOLERANCE_M = 0.005
_STILL_M_S = 0.05


def misuse(shift_m: np.ndarray) -> str:
    """What was done to a cube that is now elsewhere: ``'lifted'``, ``'pushed'`` or ``''``.

    :param shift_m: (3,), from where it rested after the reset to where it is, world axes.
    """
    if shift_m[2] > LIFTED_M:
        return 'lifted'
    return 'pushed' if float(np.hypot(shift_m[0], shift_m[1])) > PUSHED_M else ''


@dataclass(frozen=True)
class Task:
    """An instruction and what fulfils it.

    :param name: short name, for options and tables.
    :param instruction: the task in plain words, as the policy is told.
    :param target: colour of the cube that is to be moved.
    :param reached: whether the target is where it should be, be it held or not.
    :param goal: where the target's centre is to be set down, float64 (3,), m; None for a task that
        ends with the cube held.
    """

    name: str
    instruction: str
    target: str
    reached: Callable[[Cubes], bool]
    goal: Callable[[Cubes], np.ndarray] | None = None

    def success(self, cubes: Cubes) -> bool:
        """Whether the task is fulfilled now.

        A cube that is to be set down must also be released (no part of the robot touches it) and
        slower than 5 cm/s, so that neither a held nor a falling cube counts.
        """
        cube = cubes[self.target]
        down = self.goal is None or (cube.released and cube.speed_m_s < _STILL_M_S)
        return down and self.reached(cubes)


def _pick(target: str) -> Task:
    def lifted(cubes: Cubes) -> bool:
        cube = cubes[target]
        return bool(cube.position[2] - cube.rest[2] > LIFTED_M)

    return Task(f'pick_{target}', f'pick up the {target} cube', target, lifted)


def _stack(target: str, support: str) -> Task:
    def goal(cubes: Cubes) -> np.ndarray:
        height = cubes[target].half_m + cubes[support].half_m
        return cubes[support].position + np.array([0.0, 0.0, height])

    def on_top(cubes: Cubes) -> bool:
        top, base = cubes[target], cubes[support]
        too_high = top.position[2] - goal(cubes)[2]
        # Along the base's own axes: its upper face is a square wherever it is turned to.
        aside = np.abs(base.rotation.T @ (top.position - base.position))
        return (
            abs(too_high) < _HEIGHT_TOLERANCE_M
            and float(np.sort(aside)[1]) < base.half_m
            and support in top.touching
            and 'table' not in top.touching
            and 'table' in base.touching
        )

    name = f'stack_{target}_on_{support}'
    # Not "on the red cube": FiLM takes the mean of the words, in which their order is lost.
    return Task(name, f'stack the {target} cube on the other cube', target, on_top, goal)


def _place_left(target: str) -> Task:
    def goal(cubes: Cubes) -> np.ndarray:
        cube = cubes[target]
        return np.array([cube.position[0], _LEFT_AIM_M, TABLE_Z_M + cube.half_m])

    def on_the_left(cubes: Cubes) -> bool:
        cube = cubes[target]
        lies = abs(cube.position[2] - TABLE_Z_M - cube.half_m) < _HEIGHT_TOLERANCE_M
        return bool(cube.position[1] > LEFT_M) and bool(lies) and 'table' in cube.touching

    name = f'place_{target}_left'
    return Task(name, f'place the {target} cube on the left', target, on_the_left, goal)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _pick('red'),
        _pick('green'),
        _stack('red', 'green'),
        _stack('green', 'red'),
        _place_left('red'),
        _place_left('green'),
    )
}
"""Every task by its name."""

PICK_TASKS = ('pick_red', 'pick_green')
"""What the scene asks for where nothing else is chosen."""
