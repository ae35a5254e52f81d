"""Two cubes on a table and tasks about them in words: robosuite's Stack scene with a Panda arm.

It needs no asset download, its action space is LIBERO's (OSC_POSE at 20 Hz) and its two 256x256
views are those of LIBERO's cameras.
"""

import atexit
import contextlib
import logging
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .cubes import BODIES, Cube, cube_position, read_cubes
from .culling import culled
from .rendering import apply_gl
from .scene import SceneState
from .tasks import PICK_TASKS, TASKS, Task, misuse

SETTLING_STEPS = 10
"""Steps after a reset until things rest, as many as OpenVLA-OFT's LIBERO evaluation waits."""

_CAMERAS = {'primary': 'agentview', 'wrist': 'robot0_eye_in_hand'}
_JOINTS = {
    **{f'panda_joint{i}': f'robot0_joint{i}' for i in range(1, 8)},
    **{f'panda_finger_joint{i}': f'gripper0_finger_joint{i}' for i in (1, 2)},
}
_OPEN_AND_STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


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

    control_hz = 20.0
    cameras = tuple(_CAMERAS)

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
        backend = _renderer(gl, render)
        robosuite = _import_robosuite()
        import mujoco

        self.image_size, self._fast_visuals, self._render = image_size, fast_visuals, render
        with _seeded(0):
            self.env = _make_env(robosuite, region_m, yaw_rad, render)
        # Before EGL's own exit handler: a context freed after eglTerminate prints an EGLError.
        atexit.register(self.close)
        if fast_visuals and render:
            _use_fast_visuals(self.env.sim, image_size)
        model = self.env.sim.model
        self._qpos = [model.get_joint_qpos_addr(name) for name in _JOINTS.values()]
        self._qvel = [model.get_joint_qvel_addr(name) for name in _JOINTS.values()]
        pictures = f'{backend}, {len(_CAMERAS)} cameras of {image_size}x{image_size}'
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
        """The task of the present episode."""
        return self._task

    @property
    def time_s(self) -> float:
        """Simulated seconds since the last reset, settling not counted."""
        return self._steps / self.control_hz

    def reset(self, seed: int) -> None:
        """Start the episode that ``seed`` (0 .. 2**32 - 1) names: arm still, gripper open."""
        self._task = self.tasks[seed % len(self.tasks)]
        with _seeded(seed):
            self.env.reset()
            # robosuite keeps the finger command of the last episode across a reset
            gripper = self.env.robots[0].gripper
            gripper.current_action = np.zeros_like(gripper.current_action)
            for _ in range(SETTLING_STEPS):
                self.env.step(_OPEN_AND_STILL)
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
        sim = self.env.sim
        # robosuite never does this, and draws into the scene of the process that was made last
        sim._render_context_offscreen.gl_ctx.make_current()
        return {name: self._image(camera) for name, camera in _CAMERAS.items()}

    def _image(self, camera: str) -> np.ndarray:
        sim, side = self.env.sim, self.image_size
        with culled(sim, camera) if self._fast_visuals else contextlib.nullcontext():
            return sim.render(width=side, height=side, camera_name=camera)

    def state(self) -> SceneState:
        """Pose and joints, taken where LIBERO takes them.

        The position is the grip point's (``robot0_eef_pos``), the orientation the hand's
        (``robot0_eef_quat``).
        """
        data, robot = self.env.sim.data, self.env.robots[0]
        quat_wxyz = data.get_body_xquat(robot.robot_model.eef_name)
        return SceneState(
            ee_position=np.array(data.site_xpos[robot.eef_site_id], dtype=np.float64),
            ee_quat_xyzw=np.roll(np.array(quat_wxyz, dtype=np.float64), -1),
            joint_names=tuple(_JOINTS),
            joint_positions=np.array(data.qpos[self._qpos], dtype=np.float64),
            joint_velocities=np.array(data.qvel[self._qvel], dtype=np.float64),
        )

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
        site = self.env.robots[0].eef_site_id
        return np.array(self.env.sim.data.site_xmat[site], dtype=np.float64).reshape(3, 3)

    def cube_position(self, colour: str | None = None) -> np.ndarray:
        """Centre of a cube in the world frame, float64 (3,), m.

        :param colour: ``'red'`` or ``'green'``; None for the one that the instruction names.
        """
        return cube_position(self.env.sim, colour or self.task.target)

    def close(self) -> None:
        """Free the OpenGL context; may be called twice."""
        atexit.unregister(self.close)
        if self.env.sim is not None:
            if self._render:
                self.env.sim._render_context_offscreen.gl_ctx.make_current()
            self.env.close()


def _known(names: Sequence[str]) -> tuple[Task, ...]:
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        wrong = f'task {unknown[0]!r} is unknown' if unknown else 'no task is named'
        raise VlaPruneError(wrong, f'choose from {", ".join(TASKS)}')
    return tuple(TASKS[name] for name in names)


def _renderer(gl: str, render: bool) -> str:
    """Apply the backend and name it; without pictures it is only for scenes that come later."""
    try:
        return apply_gl(gl)
    except VlaPruneError:
        if render:
            raise
    return ''


def _import_robosuite() -> ModuleType:
    # robosuite advises private macro files at every import; nothing here uses them.
    logging.getLogger('robosuite_logs').setLevel(logging.ERROR)
    mend = 'pip install "vla_prune_ros[sim]"'
    try:
        import robosuite
    except ImportError as error:
        raise VlaPruneError(f'robosuite cannot be imported ({error})', mend) from None
    except PermissionError as error:
        raise VlaPruneError(
            f'robosuite cannot write its log {error.filename}', 'delete that file'
        ) from None
    if not robosuite.__version__.startswith('1.4.'):
        raise VlaPruneError(
            f'robosuite {robosuite.__version__} is installed, 1.4.x is needed', mend
        )
    return robosuite


def _make_env(robosuite: ModuleType, region_m: float, yaw_rad: float, render: bool) -> Any:
    import mujoco
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
    try:
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
    except AssertionError as error:
        raise VlaPruneError(
            f'robosuite {robosuite.__version__} does not run with MuJoCo '
            f'{mujoco.__version__} ({error or "assertion failed"})',
            'pip install "vla_prune_ros[sim]"',
        ) from None


def _use_fast_visuals(sim: Any, image_size: int) -> None:
    """Drop what software rendering spends most on: 4x multisampling, shadow map, mirror images.

    The scene's one light casts no shadow, so its map of 4096x4096 is made for nothing. The buffers
    are made anew by resizing them, which reads the changed quality.
    """
    sim.model.vis.quality.shadowsize = 0
    sim.model.vis.quality.offsamples = 0
    sim.model.mat_reflectance[:] = 0.0
    sim._render_context_offscreen.update_offscreen_size(image_size, image_size)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """robosuite draws from NumPy's global generator: seed it inside, give it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
