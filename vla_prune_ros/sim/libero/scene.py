"""LIBERO's tasks as a scene: fixed initial states, published step limits, BDDL goals."""

import atexit
import contextlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import VlaPruneError
from ..panda import (
    CONTROL_HZ,
    MUJOCO_CAMERAS,
    choose_renderer,
    import_robosuite,
    read_state,
    take_pictures,
)
from ..scene import Scene, SceneState
from .assets import INSTALL, find_assets, libero_version, use_assets
from .env import LiberoEnv
from .suites import MAX_STEPS, LiberoTask, suite_tasks

KEPT_ENVS = 3
"""Environments that stay open: a model with its OpenGL context needs memory, another takes time
to make."""


class LiberoScene(Scene):
    """The tasks of one LIBERO suite.

    The episode of a seed has task ``seed % n`` of the n tasks and fixed initial state
    ``seed // n`` modulo their number (50): seeds 0 .. 50 n - 1 are the published protocol. World
    frame: origin on the floor, x away from the robot, y to its left, z up.

    :param suite: one of :data:`~.suites.SUITES`.
    :param tasks: names or numbers of the suite's tasks; none: all of them.
    :param assets: as for :func:`~.assets.find_assets`.
    :param image_size: side of both pictures, pixels.
    :param gl: OpenGL backend, as for :func:`~.rendering.choose_gl`.
    :param render: False for a scene without pictures and OpenGL context.
    :param fast_visuals: no multisampling, shadows and reflections. None: with generated assets
        only; published policies were trained on pictures that have them.
    :raises VlaPruneError: LIBERO, OpenGL or the assets are missing, or a task is unknown.
    """

    control_hz = CONTROL_HZ
    cameras = tuple(MUJOCO_CAMERAS)

    def __init__(
        self,
        suite: str = 'libero_spatial',
        tasks: Sequence[str] = (),
        assets: str | Path = 'auto',
        image_size: int = 256,
        gl: str = 'auto',
        render: bool = True,
        fast_visuals: bool | None = None,
    ) -> None:
        version = libero_version()
        backend = choose_renderer(gl, render)
        robosuite = import_robosuite()
        import mujoco

        self.suite, self.image_size, self._render = suite, image_size, render
        self._assets = find_assets(assets)
        _import_libero()
        self.tasks = suite_tasks(suite, tasks)
        self.task_names = tuple(task.name for task in self.tasks)
        self.max_steps = MAX_STEPS[suite]
        self.generated_assets = self._assets.generated
        self._fast = self.generated_assets if fast_visuals is None else fast_visuals
        self._envs: OrderedDict[str, LiberoEnv] = OrderedDict()
        pictures = f'{backend}, {len(MUJOCO_CAMERAS)} cameras of {image_size}x{image_size}'
        self.description = (
            f'{suite} (hf-libero {version}), robosuite {robosuite.__version__}, '
            f'MuJoCo {mujoco.__version__}, {pictures if render else "no pictures"}, '
            f'{self._assets.label}'
        )
        # Before EGL's own exit handler: a context freed after eglTerminate prints an EGLError.
        atexit.register(self.close)
        self.reset(0)

    @property
    def task(self) -> LiberoTask:
        """The task of the present episode."""
        return self.env.task

    @property
    def task_name(self) -> str:
        """Name of the present episode's task."""
        return self.task.name

    @property
    def instruction(self) -> str:
        """The task of the present episode in the words that published policies know."""
        return self.task.instruction

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset, settling not counted."""
        return self._steps / self.control_hz

    def reset(self, seed: int) -> None:
        """Start the episode that ``seed`` (>= 0) names, and let it settle for 10 steps."""
        number, task = divmod(seed, len(self.tasks))
        self.env = self._open(self.tasks[task])
        self.initial_state = number % len(self.env.states)
        self.env.start(self.initial_state)
        self._steps = 0

    def step(self, action: np.ndarray) -> None:
        """One control step of 0.05 s; see :meth:`Scene.step`. Values are clipped to [-1, 1]."""
        self.env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self._steps += 1

    def images(self) -> dict[str, np.ndarray]:
        """Both views, uint8 (image_size, image_size, 3) RGB, row 0 at the bottom.

        :raises VlaPruneError: the scene was made without pictures.
        """
        if not self._render:
            raise VlaPruneError('this scene was made without pictures', 'make it with render=True')
        return take_pictures(self.env, self.image_size, self._fast)

    def state(self) -> SceneState:
        """Pose and joints, as LIBERO reports them; see :func:`~.panda.read_state`."""
        return read_state(self.env)

    def success(self) -> bool:
        """Whether the goal of the task's BDDL file holds now: what ``done`` of a step says."""
        return self.env.goal_reached()

    def close(self) -> None:
        """Free all OpenGL contexts; may be called twice."""
        atexit.unregister(self.close)
        while self._envs:
            self._envs.popitem()[1].close()

    def _open(self, task: LiberoTask) -> LiberoEnv:
        """The environment of a task; the one that was not used for longest makes room."""
        if task.name in self._envs:
            self._envs.move_to_end(task.name)
            return self._envs[task.name]
        while len(self._envs) >= KEPT_ENVS:
            self._envs.popitem(last=False)[1].close()
        use_assets(self._assets)
        fast_size = self.image_size if self._fast else 0
        self._envs[task.name] = LiberoEnv(task, self._render, fast_size)
        return self._envs[task.name]


def _import_libero() -> None:
    """Import LIBERO's code without what it prints."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import libero.libero.envs  # noqa: F401
    except ImportError as error:
        raise VlaPruneError(f'LIBERO cannot be imported ({error})', INSTALL) from None
