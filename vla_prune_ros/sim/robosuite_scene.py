"""Two cubes on a table and tasks about them in words: robosuite's Stack scene with a Panda arm.

It needs no asset download, its action space is LIBERO's (OSC_POSE at 20 Hz) and its two 256x256
views are those of LIBERO's cameras.
"""

import atexit
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .cubes import BODIES, Cube, cube_position, read_cubes
from .panda import (
    CONTROL_HZ,
    MUJOCO_CAMERAS,
    OPEN_AND_STILL,
    SETTLING_STEPS,
    choose_renderer,
    close_env,
    forget_finger_command,
    grip_rotation,
    import_robosuite,
    matched_versions,
    read_state,
    seeded,
    take_pictures,
    use_fast_visuals,
)
from .scene import SceneState
from .tasks import PICK_TASKS, TASKS, Task, misuse


class TwoCubeScene:
    """A :class:`~vla_prune_ros.sim.scene.Scene`: pick up, stack or place the cube that is named.

    The episode of a seed has task ``seed % len(tasks)``: successive episodes are balanced, and by
    default even seeds ask for the red cube, odd ones for the green one. Where things lie follows
    from the seed alone, whatever the task. World frame: origin on the floor below the table's
    centre, x away from the robot, y to its left, z up.

    :param image_size: side of both pictures, pixels.
    :param region_m: cubes lie within +-region_m of the table's centre in x and y.
    :param yaw_rad: cubes are turned by up to this angle either way.
    :param fast_visuals: no multisampling, no shadow map, no reflections, nothing drawn that is out
        of sight: about a fifth of the time on a software driver.
    :param gl: OpenGL backend, as for :func:`~vla_prune_ros.sim.rendering.choose_gl`.
    :param tasks: names from :data:`~vla_prune_ros.sim.tasks.TASKS`, at least one.
    :param render: False for a scene without pictures and OpenGL context. robosuite still loads the
        OpenGL library.
    :raises VlaPruneError: robosuite or OpenGL is missing, or a task is unknown; the message names
        what to install or to choose from.
    """

    control_hz = CONTROL_HZ
    cameras = tuple(MUJOCO_CAMERAS)

    def __init__(
        self,
        image_size: int = 256,
        region_m: float = 0.10,
        yaw_rad: float = 0.0,
        fast_visuals: bool = True,
        gl: str = 'auto',
        tasks: Sequence[str] = PICK_TASKS,
        render: bool = True,
    ) -> None:
        self.tasks = _known(tasks)
        backend = choose_renderer(gl, render)
        robosuite = import_robosuite()
        import mujoco

        self.image_size, self._fast_visuals, self._render = image_size, fast_visuals, render
        with seeded(0):
            self.env = _make_env(robosuite, region_m, yaw_rad, render)
        # Before EGL's own exit handler: a context freed after eglTerminate prints an EGLError.
        atexit.register(self.close)
        if fast_visuals and render:
            use_fast_visuals(self.env.sim, image_size)
        pictures = f'{backend}, {len(MUJOCO_CAMERAS)} cameras of {image_size}x{image_size}'
        self.description = (
            f'robosuite {robosuite.__version__}, MuJoCo {mujoco.__version__}, '
            f'{pictures if render else "no pictures"}'
        )
        self.reset(0)

    @property
    def instruction(self) -> str:
        """The task of the present episode."""
        return self.task.instruction

    @property
    def task(self) -> Task:
        """The task of the present episode; may be exchanged within it."""
        return self._task

    @task.setter
    def task(self, task: Task) -> None:
        self._task = task

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset, settling not counted."""
        return self._steps / self.control_hz

    def reset(self, seed: int) -> None:
        """Start the episode that ``seed`` (0 .. 2**32 - 1) names: arm still, gripper open."""
        self._task = self.tasks[seed % len(self.tasks)]
        with seeded(seed):
            self.env.reset()
            forget_finger_command(self.env)
            for _ in range(SETTLING_STEPS):
                self.env.step(OPEN_AND_STILL)
        self._rest = {colour: self.cube_position(colour) for colour in BODIES}
        self._steps = 0
        self._misuse = ''

    def step(self, action: np.ndarray) -> None:
        """One control step of 0.05 s; see :meth:`Scene.step`. Values are clipped to [-1, 1]."""
        self.env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self._steps += 1
        self._misuse = self.wrong_object()

    def images(self) -> dict[str, np.ndarray]:
        """Both views, uint8 (image_size, image_size, 3) RGB, row 0 at the bottom.

        :raises VlaPruneError: the scene was made without pictures.
        """
        if not self._render:
            raise VlaPruneError('this scene was made without pictures', 'make it with render=True')
        return take_pictures(self.env, self.image_size, self._fast_visuals)

    def state(self) -> SceneState:
        """Pose and joints, taken where LIBERO takes them; see :func:`~.panda.read_state`."""
        return read_state(self.env)

    def success(self) -> bool:
        """Whether the task is fulfilled now; see :meth:`~vla_prune_ros.sim.tasks.Task.success`."""
        return self.task.success(self.cubes())

    def wrong_object(self) -> str:
        """Whether a cube other than the task's was manipulated since the reset, and how.

        :returns: ``'lifted'`` by more than 5 cm, else ``'pushed'`` by more than 3 cm, else ``''``.
        """
        found = {self._misuse}
        for colour in BODIES:
            if colour != self.task.target:
                found.add(misuse(self.cube_position(colour) - self._rest[colour]))
        return next((how for how in ('lifted', 'pushed') if how in found), '')

    def cubes(self) -> dict[str, Cube]:
        """Both cubes by colour: pose, speed, contacts, and where they rested after the reset."""
        return read_cubes(self.env.sim, self._rest)

    def grip_rotation(self) -> np.ndarray:
        """Axes of the grip point as columns, float64 (3, 3), world frame.

        x is the direction in which the fingers move, z points out of the hand.
        """
        return grip_rotation(self.env)

    def cube_position(self, colour: str | None = None) -> np.ndarray:
        """Centre of a cube in the world frame, float64 (3,), m.

        :param colour: ``'red'`` or ``'green'``; None for the one that the instruction names.
        """
        return cube_position(self.env.sim, colour or self.task.target)

    def close(self) -> None:
        """Free the OpenGL context; may be called twice."""
        atexit.unregister(self.close)
        close_env(self.env, self._render)


def _known(names: Sequence[str]) -> tuple[Task, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        wrong = f'task {unknown[0]!r} is unknown' if unknown else 'no task is named'
        raise VlaPruneError(wrong, f'choose from {", ".join(TASKS)}')
    return tuple(TASKS[name] for name in names)


def _make_env(robosuite: ModuleType, region_m: float, yaw_rad: float, render: bool) -> Any:
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
            control_freq=int(TwoCubeScene.control_hz),
            has_renderer=False,
            has_offscreen_renderer=render,
            use_camera_obs=False,
            use_object_obs=False,
            ignore_done=True,
        )
