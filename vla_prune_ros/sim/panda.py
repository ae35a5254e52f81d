"""What every robosuite scene with one Panda shares: names, state, pictures, and how to make one.

LIBERO's environments are robosuite's, so the same names and conventions hold there.
"""

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import VlaPruneError
from .rendering import apply_gl, culled
from .scene import SceneState

CONTROL_HZ = 20.0
"""Control steps per simulated second, as in LIBERO."""

SETTLING_STEPS = 10
"""Steps after a reset until things rest, as many as OpenVLA-OFT's LIBERO evaluation waits."""

OPEN_AND_STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
"""The action of a settling step: no motion, gripper open."""

MUJOCO_CAMERAS = {'primary': 'agentview', 'wrist': 'robot0_eye_in_hand'}
"""Our name of a camera -> robosuite's."""

_JOINTS = {
    **{f'panda_joint{i}': f'robot0_joint{i}' for i in range(1, 8)},
    **{f'panda_finger_joint{i}': f'gripper0_finger_joint{i}' for i in (1, 2)},
}


def read_state(env: Any) -> SceneState:
    """Pose and joints, taken where LIBERO takes them.

    The position is the grip point's (``robot0_eef_pos``), the orientation the hand's
    (``robot0_eef_quat``).

    :param env: robosuite's environment.
    """
    model, data, robot = env.sim.model, env.sim.data, env.robots[0]
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


def grip_rotation(env: Any) -> np.ndarray:
    """Axes of the grip point as columns, float64 (3, 3), world frame.

    x is the direction in which the fingers move, z points out of the hand.

    :param env: robosuite's environment.
    """
    site = env.robots[0].eef_site_id
    return np.array(env.sim.data.site_xmat[site], dtype=np.float64).reshape(3, 3)


def forget_finger_command(env: Any) -> None:
    """robosuite keeps the finger command of the last episode across a reset; drop it."""
    gripper = env.robots[0].gripper
    gripper.current_action = np.zeros_like(gripper.current_action)


def take_pictures(env: Any, side: int, cull: bool) -> dict[str, np.ndarray]:
    """Both views, uint8 (side, side, 3) RGB, row 0 at the bottom.

    :param env: robosuite's environment with an off-screen renderer.
    :param cull: leave out what a camera cannot see; see :func:`~.culling.culled`.
    """
    return {camera: take_picture(env, camera, side, cull) for camera in MUJOCO_CAMERAS}


def take_picture(env: Any, camera: str, side: int, cull: bool) -> np.ndarray:
    """One view, as :func:`take_pictures` has it."""
    sim, name = env.sim, MUJOCO_CAMERAS[camera]
    # robosuite never does this, and draws into the scene of the process that was made last
    sim._render_context_offscreen.gl_ctx.make_current()
    with culled(sim, name) if cull else contextlib.nullcontext():
        return sim.render(width=side, height=side, camera_name=name)


def use_fast_visuals(sim: Any, image_size: int) -> None:
    """Drop what software rendering spends most on: 4x multisampling, shadow map, mirror images.

    The buffers are made anew by resizing them, which reads the changed quality.
    """
    sim.model.vis.quality.shadowsize = 0
    sim.model.vis.quality.offsamples = 0
    sim.model.mat_reflectance[:] = 0.0
    sim._render_context_offscreen.update_offscreen_size(image_size, image_size)


def close_env(env: Any, rendered: bool) -> None:
    """Free model and OpenGL context; may be called twice."""
    if env.sim is not None:
        if rendered:
            env.sim._render_context_offscreen.gl_ctx.make_current()
        env.close()


def choose_renderer(gl: str, render: bool) -> str:
    """Apply the backend and name it; without pictures it is only for scenes that come later.

    :param gl: as for :func:`~.rendering.choose_gl`.
    :raises VlaPruneError: nothing renders, and pictures are wanted.
    """
    try:
        return apply_gl(gl)
    except VlaPruneError:
        if render:
            raise
    return ''


def import_robosuite() -> ModuleType:
    """robosuite 1.4 without its advice.

    :raises VlaPruneError: not installed, another version, or its log file cannot be written.
    """
    # robosuite advises private macro files at every import; nothing here uses them.
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
    """Within, a failed assertion of robosuite is told as what it is: a wrong MuJoCo.

    :raises VlaPruneError: in place of an AssertionError.
    """
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
    """robosuite draws from NumPy's global generator: seed it inside, give it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
