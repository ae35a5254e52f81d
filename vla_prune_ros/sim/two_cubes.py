"""Two cubes on a table and tasks about them: robosuite's Stack scene with a Panda arm.

It needs no asset download; actions and cameras are LIBERO's. World frame: x away from the robot, y
to its left, z up, m. In the image of camera ``primary`` as OpenVLA-OFT sees it (turned by 180
degrees) the robot's left is on the left, too."""

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .panda import (
    CONTROL_HZ,
    FINGER_BODIES,
    OPEN_AND_STILL,
    SETTLING_STEPS,
    PandaScene,
    close_env,
    contacts,
    forget_finger_command,
    matched_versions,
    seeded,
    use_fast_visuals,
)

BODIES = {'red': 'cubeA_main', 'green': 'cubeB_main'}
_GEOMS = {'red': 'cubeA_g0', 'green': 'cubeB_g0'}
_TOUCHED = {
    'world': 'floor',
    'table': 'table',
    **dict.fromkeys(FINGER_BODIES[0], 'finger1'),
    **dict.fromkeys(FINGER_BODIES[1], 'finger2'),
    **{body: colour for colour, body in BODIES.items()},
}
_FINGERS = frozenset({'finger1', 'finger2'})


@dataclass(frozen=True)
class Cube:
    position: np.ndarray  # (3,), centre, m
    rotation: np.ndarray  # (3, 3), the cube's axes as columns
    rest: np.ndarray  # (3,), centre after the reset, m
    half_m: float  # of the edge
    speed_m_s: float
    # Cubes by colour, 'table', 'finger1', 'finger2', 'robot' (its other parts), 'floor'.
    touching: frozenset[str]

    @property
    def between_fingers(self) -> bool:
        return self.touching >= _FINGERS

    @property
    def released(self) -> bool:
        return self.touching.isdisjoint(_FINGERS | {'robot'})


Cubes = Mapping[str, Cube]


TABLE_Z_M = 0.8  # height of the table's top
LIFTED_M = 0.05  # so far above where it rested a cube counts as picked up,
PUSHED_M = 0.03  # and so far beside it as pushed
LEFT_M = 0.15  # the left side of the table begins here (y); cubes start at y <= 0.10 m
_LEFT_AIM_M = 0.19
_HEIGHT_TOLERANCE_M = 0.005
_STILL_M_S = 0.05


@dataclass(frozen=True)
class Task:
    name: str
    instruction: str
    target: str  # colour of the cube that is to be moved
    reached: Callable[[Cubes], bool]  # the target is where it should be, be it held or not
    # Where the target's centre is to be set down, (3,), m; None: the task ends with the cube held.
    goal: Callable[[Cubes], np.ndarray] | None = None

    def success(self, cubes: Cubes) -> bool:
        """A cube that is to be set down must also be released (no part of the robot touches it)
        and slower than 5 cm/s, so that neither a held nor a falling cube counts."""
        cube = cubes[self.target]
        down = self.goal is None or (cube.released and cube.speed_m_s < _STILL_M_S)
        return down and self.reached(cubes)


def _pick(target: str) -> Task:
    def lifted(cubes: Cubes) -> bool:
        return bool(cubes[target].position[2] - cubes[target].rest[2] > LIFTED_M)

    return Task(f'pick_{target}', f'pick up the {target} cube', target, reached=lifted)


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
    instruction = f'stack the {target} cube on the other cube'
    return Task(name, instruction, target, reached=on_top, goal=goal)


def _place_left(target: str) -> Task:
    def goal(cubes: Cubes) -> np.ndarray:
        cube = cubes[target]
        return np.array([cube.position[0], _LEFT_AIM_M, TABLE_Z_M + cube.half_m])

    def on_the_left(cubes: Cubes) -> bool:
        cube = cubes[target]
        lies = abs(cube.position[2] - TABLE_Z_M - cube.half_m) < _HEIGHT_TOLERANCE_M
        return bool(cube.position[1] > LEFT_M) and bool(lies) and 'table' in cube.touching

    name = f'place_{target}_left'
    instruction = f'place the {target} cube on the left'
    return Task(name, instruction, target, reached=on_the_left, goal=goal)


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

PICK_TASKS = ('pick_red', 'pick_green')


def find_tasks(names: Sequence[str]) -> tuple[Task, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        wrong = f'task {unknown[0]!r} is unknown' if unknown else 'no task is named'
        raise VlaPruneError(wrong, f'choose from {", ".join(TASKS)}')
    return tuple(TASKS[name] for name in names)


class TwoCubeScene(PandaScene):
    """The episode of a seed has task ``seed % len(tasks)``: by default even seeds ask for the red
    cube, odd ones for the green one. Where things lie follows from the seed alone.
    :param region_m: cubes lie within +-region_m of the table's centre in x and y.
    :param yaw_rad: cubes are turned by up to this angle either way."""

    def __init__(
        self,
        *,
        tasks: Sequence[str] = PICK_TASKS,
        image_size: int = 256,
        region_m: float = 0.10,
        yaw_rad: float = 0.0,
        fast_visuals: bool = True,
        gl: str = 'auto',
        render: bool = True,
    ) -> None:
        self.tasks = find_tasks(tasks)
        self.task_names = tuple(task.name for task in self.tasks)
        super().__init__(image_size=image_size, gl=gl, render=render)
        self.fast_visuals = fast_visuals
        with seeded(0):
            self.env = _make_env(region_m, yaw_rad, render)
        if fast_visuals and render:
            use_fast_visuals(self.env.sim, image_size)
        self._begin()

    def reset(self, seed: int) -> None:
        self.task = self.tasks[seed % len(self.tasks)]
        with seeded(seed):
            self.env.reset()
            forget_finger_command(self.env)
            for _ in range(SETTLING_STEPS):
                self.env.step(OPEN_AND_STILL)
        self._rest = {colour: self.cube_position(colour) for colour in BODIES}
        self._steps = 0
        self._misuse = ''

    def step(self, action: np.ndarray) -> None:
        super().step(action)
        self._misuse = self.wrong_object()

    def success(self) -> bool:
        return self.task.success(self.cubes())

    def wrong_object(self) -> str:
        (colour,) = (c for c in BODIES if c != self.task.target)
        x, y, z = self.cube_position(colour) - self._rest[colour]
        if self._misuse == 'lifted' or z > LIFTED_M:
            return 'lifted'
        return 'pushed' if float(np.hypot(x, y)) > PUSHED_M else self._misuse

    def cubes(self) -> dict[str, Cube]:
        sim = self.env.sim
        touching: dict[str, set[str]] = {colour: set() for colour in BODIES}
        for pair in contacts(sim):
            one, other = (_TOUCHED.get(body, 'robot') for body in pair)
            if one in touching:
                touching[one].add(other)
        return {
            colour: Cube(
                position=self.cube_position(colour),
                rotation=np.array(sim.data.get_body_xmat(body), dtype=np.float64).reshape(3, 3),
                rest=self._rest[colour],
                half_m=float(sim.model.geom_size[sim.model.geom_name2id(_GEOMS[colour])][0]),
                speed_m_s=float(np.linalg.norm(sim.data.get_body_xvelp(body))),
                touching=frozenset(touching[colour]),
            )
            for colour, body in BODIES.items()
        }

    def grip_rotation(self) -> np.ndarray:
        """Axes of the grip point as columns, (3, 3): x is the direction in which the fingers move,
        z points out of the hand."""
        site = self.env.robots[0].eef_site_id
        return np.array(self.env.sim.data.site_xmat[site], dtype=np.float64).reshape(3, 3)

    def cube_position(self, colour: str | None = None) -> np.ndarray:
        """Centre (3,), m; of the cube that the instruction names, if none is given."""
        body = BODIES[colour or self.task.target]
        return np.array(self.env.sim.data.get_body_xpos(body), dtype=np.float64)

    def close(self) -> None:
        atexit.unregister(self.close)
        close_env(self.env, self._render)


def _make_env(region_m: float, yaw_rad: float, render: bool) -> Any:
    import robosuite
    from robosuite.utils.placement_samplers import UniformRandomSampler

    placement = UniformRandomSampler(
        name='cubes',
        x_range=[-region_m, region_m],
        y_range=[-region_m, region_m],
        rotation=(-yaw_rad, yaw_rad),
        ensure_object_boundary_in_range=False,
        ensure_valid_placement=True,
        reference_pos=np.array([0.0, 0.0, 0.8]),
        z_offset=0.01,
    )
    controller = robosuite.load_controller_config(default_controller='OSC_POSE')
    with matched_versions():
        # A soft reset keeps model and OpenGL context: 1 ms in place of seconds.
        return robosuite.make(
            'Stack',
            robots='Panda',
            controller_configs=controller,
            hard_reset=False,
            placement_initializer=placement,
            control_freq=int(CONTROL_HZ),
            has_renderer=False,
            has_offscreen_renderer=render,
            use_camera_obs=False,
            use_object_obs=False,
            ignore_done=True,
        )
