"""What every robosuite scene with one Panda shares, LIBERO's too. robosuite is imported late:
names and tasks of the scenes are needed without it."""

import atexit
import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .rendering import apply_gl, culled
from .scene import Scene, SceneState

CONTROL_HZ = 20.0  # as in LIBERO
SETTLING_STEPS = 10  # after a reset, as many as OpenVLA-OFT's LIBERO evaluation waits
OPEN_AND_STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])

# Our name of a camera -> robosuite's.
MUJOCO_CAMERAS = {'primary': 'agentview', 'wrist': 'robot0_eye_in_hand'}

FINGER_BODIES = (
    {'gripper0_leftfinger', 'gripper0_finger_joint1_tip'},
    {'gripper0_rightfinger', 'gripper0_finger_joint2_tip'},
)
_JOINTS = {
    **{f'panda_joint{i}': f'robot0_joint{i}' for i in range(1, 8)},
    **{f'panda_finger_joint{i}': f'gripper0_finger_joint{i}' for i in (1, 2)},
}


class PandaScene(Scene):
    """One Panda, LIBERO's cameras, OSC_POSE at 20 Hz. World frame: origin on the floor, x away
    from the robot, y to its left, z up. A subclass makes ``env``, robosuite's environment, names
    the episode's ``task``, and calls :meth:`_begin`."""

    control_hz = CONTROL_HZ
    cameras = tuple(MUJOCO_CAMERAS)
    env: Any
    task: Any
    # No multisampling, shadows and reflections, and nothing drawn that is out of sight: about a
    # fifth of the time on a software driver.
    fast_visuals: bool

    def __init__(self, *, image_size: int, gl: str, render: bool) -> None:
        self.image_size, self._render, self._steps = image_size, render, 0
        backend = ''
        try:
            backend = apply_gl(gl)
        except VlaPruneError:
            if render:
                raise
        robosuite = import_robosuite()
        import mujoco

        images = f'{backend}, {len(self.cameras)} cameras of {image_size}x{image_size}'
        self.description = (
            f'robosuite {robosuite.__version__}, MuJoCo {mujoco.__version__}, '
            f'{images if render else "no images"}'
        )

    def _begin(self) -> None:
        self.reset(0)
        # After EGL's own exit handler, so that it runs before: a context freed after eglTerminate
        # prints an EGLError.
        atexit.register(self.close)

    @property
    def instruction(self) -> str:
        return self.task.instruction

    @property
    def task_name(self) -> str:
        return self.task.name

    @property
    def time_s(self) -> float:
        return self._steps / self.control_hz

    def step(self, action: np.ndarray) -> None:
        self.env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self._steps += 1

    def images(self) -> dict[str, np.ndarray]:
        if not self._render:
            raise VlaPruneError('this scene was made without images', 'make it with render=True')
        return {c: self.render_image(c, self.image_size) for c in self.cameras}

    def render_image(self, camera: str, side: int) -> np.ndarray:
        sim, name = self.env.sim, MUJOCO_CAMERAS[camera]
        # robosuite never does this, and draws into the scene of the process that was made last
        sim._render_context_offscreen.gl_ctx.make_current()
        with culled(sim, name) if self.fast_visuals else contextlib.nullcontext():
            return sim.render(width=side, height=side, camera_name=name)

    def state(self) -> SceneState:
        """As LIBERO takes it: the grip point's position, the hand's orientation."""
        model, data, robot = self.env.sim.model, self.env.sim.data, self.env.robots[0]
        qpos = [model.get_joint_qpos_addr(name) for name in _JOINTS.values()]
        qvel = [model.get_joint_qvel_addr(name) for name in _JOINTS.values()]
        quat_wxyz = data.get_body_xquat(robot.robot_model.eef_name)
        return SceneState(
            ee_position=np.array(data.site_xpos[robot.eef_site_id], dtype=np.float64),
            ee_quat_xyzw=np.roll(np.array(quat_wxyz, dtype=np.float64), -1),
            joint_names=tuple(_JOINTS),
            joint_positions=np.array(data.qpos[qpos], dtype=np.float64),
            joint_velocities=np.array(data.qvel[qvel], dtype=np.float64),
        )


def forget_finger_command(env: Any) -> None:
    gripper = env.robots[0].gripper
    gripper.current_action = np.zeros_like(gripper.current_action)


def use_fast_visuals(sim: Any, image_size: int) -> None:
    sim.model.vis.quality.shadowsize = 0
    sim.model.vis.quality.offsamples = 0
    sim.model.mat_reflectance[:] = 0.0
    sim._render_context_offscreen.update_offscreen_size(image_size, image_size)


def contacts(sim: Any) -> Iterator[tuple[str, str]]:
    """Names of the bodies that touch, each pair in both orders."""
    for contact in sim.data.contact[: sim.data.ncon]:
        one, other = (
            sim.model.body_id2name(sim.model.geom_bodyid[geom])
            for geom in (contact.geom1, contact.geom2)
        )
        yield from ((one, other), (other, one))


def close_env(env: Any, rendered: bool) -> None:
    if env.sim is not None:
        if rendered:
            env.sim._render_context_offscreen.gl_ctx.make_current()
        env.close()


def import_robosuite() -> ModuleType:
    # It advises private macro files at every import.
    logging.getLogger('robosuite_logs').setLevel(logging.ERROR)
    remedy = 'pip install "vla_prune_ros[sim]"'
    try:
        import robosuite
    except ImportError as error:
        raise VlaPruneError(f'robosuite cannot be imported ({error})', remedy) from None
    except PermissionError as error:
        raise VlaPruneError(
            f'robosuite cannot write its log {error.filename}', 'delete that file'
        ) from None
    if not robosuite.__version__.startswith('1.4.'):
        raise VlaPruneError(
            f'robosuite {robosuite.__version__} is installed, 1.4.x is needed', remedy
        )
    return robosuite


@contextlib.contextmanager
def matched_versions() -> Iterator[None]:
    """A failed assertion of robosuite names its cause: a wrong MuJoCo."""
    import mujoco
    import robosuite

    try:
        yield
    except AssertionError as error:
        raise VlaPruneError(
            f'robosuite {robosuite.__version__} does not run with MuJoCo '
            f'{mujoco.__version__} ({error or "assertion failed"})',
            'pip install "vla_prune_ros[sim]"',
        ) from None


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """robosuite draws from NumPy's global generator, which is as before afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
