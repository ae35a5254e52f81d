"""Rendering without a display: which OpenGL works here, and what a camera need not draw."""

import contextlib
import functools
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import VlaPruneError

# MuJoCo draws every geom for every camera. On a software driver the time goes into transforming
# the meshes' vertices (a Panda has 350 000), and the wrist camera sees little of the arm that
# carries it: without what is out of sight the same pixels take less than half of the work.

HIDDEN_GROUP = 0  # of collision geoms, which robosuite never draws
_MARGIN_M = 1e-3  # a driver rounds: what touches a side of the pyramid is drawn
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


def may_be_seen(model: Any, data: Any, camera: str) -> np.ndarray:
    """Which geoms reach into a square image's viewing pyramid, bool (ngeom,). With the camera
    looking along -z and half the field of view ``h``, a point lies beyond a side of the pyramid
    by ``|x| cos h + z sin h``; a box whose corners all lie beyond one side is outside."""
    index = model.camera_name2id(camera)
    half = math.radians(model.cam_fovy[index]) / 2.0
    c, s = math.cos(half), math.sin(half)
    # Outward normals of the pyramid's four sides and of the plane behind the camera.
    sides = np.array([(c, 0, s), (-c, 0, s), (0, c, s), (0, -c, s), (0, 0, 1)], np.float64).T
    boxes = model.geom_aabb.reshape(-1, 2, 3)  # centre and half sizes
    corners = boxes[:, :1] + boxes[:, 1:] * _CORNERS  # (ngeom, 8, 3), own frame
    turns = data.geom_xmat.reshape(-1, 3, 3)
    in_world = corners @ turns.transpose(0, 2, 1) + data.geom_xpos[:, None]
    in_camera = (in_world - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)
    beyond = in_camera @ sides > _MARGIN_M
    return ~beyond.all(axis=1).any(axis=1) | (model.geom_rbound == 0.0)


@contextlib.contextmanager
def culled(sim: Any, camera: str) -> Iterator[None]:
    """Within, robosuite's renderer skips what ``camera`` cannot see. Needs shadows and reflections
    off: both show geoms that are out of sight."""
    groups = sim.model.geom_group
    before = groups.copy()
    groups[~may_be_seen(sim.model, sim.data, camera)] = HIDDEN_GROUP
    try:
        yield
    finally:
        groups[:] = before


# A missing or broken driver shows itself only when a context is made, and then it may end the
# process. So the trial, a few pixels, runs in a child process.

# The Debian packages that bring a backend (Mesa's software driver, no GPU needed).
PACKAGES = {'egl': 'libegl1 libgl1-mesa-dri libgles2', 'osmesa': 'libosmesa6'}

_TRIAL_TIMEOUT_S = 60.0

# No shadows and no multisampling: a software driver spends most of the start on those buffers.
_TRIAL = '''
import mujoco
model = mujoco.MjModel.from_xml_string("""<mujoco>
  <visual><quality shadowsize="0" offsamples="0"/><global offwidth="8" offheight="8"/></visual>
  <worldbody><light pos="0 0 3"/><geom type="plane" size="1 1 .1" rgba="1 1 1 1"/></worldbody>
</mujoco>""")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    if not renderer.render().any():
        raise SystemExit("the image is black")
'''


def choose_gl(wanted: str = 'auto') -> str:
    """The OpenGL backend that renders on this machine: ``'egl'`` or ``'osmesa'``.
    :param wanted: ``'egl'`` or ``'osmesa'`` to insist on one; ``'auto'`` takes the environment
        variable ``MUJOCO_GL`` where the user set it, else EGL, else OSMesa.
    :raises VlaPruneError: MuJoCo is not installed, or no allowed backend renders."""
    if importlib.util.find_spec('mujoco') is None:
        raise VlaPruneError('mujoco is not installed', 'pip install "vla_prune_ros[sim]"')
    from_user = os.environ.get('MUJOCO_GL', '').strip().lower() if wanted == 'auto' else ''
    insisted = from_user or ('' if wanted == 'auto' else wanted)
    name = f'MUJOCO_GL={insisted}' if from_user else f'gl={insisted}'
    if insisted and insisted not in PACKAGES:
        raise VlaPruneError(
            f'{name} does not render without a display', "use 'egl' or 'osmesa', or leave it unset"
        )
    reasons = []
    for backend in (insisted,) if insisted else PACKAGES:
        reason = _trial(backend, _egl_device())
        if not reason:
            return backend
        reasons.append(f'{backend}: {reason}')
    if insisted:
        raise VlaPruneError(
            f'{name} does not render ({reason})',
            f'apt-get install {PACKAGES[insisted]}, or leave it unset',
        )
    raise VlaPruneError(
        'no OpenGL renders without a display (' + '; '.join(reasons) + ')',
        f'apt-get install {PACKAGES["egl"]} (or {PACKAGES["osmesa"]})',
    )


def apply_gl(wanted: str = 'auto') -> str:
    """Set the environment for :func:`choose_gl`'s backend, before MuJoCo is imported."""
    backend = choose_gl(wanted)
    loaded = os.environ.get('PYOPENGL_PLATFORM', '')
    if 'OpenGL' in sys.modules and loaded != backend:
        raise VlaPruneError(
            f'OpenGL is loaded for {loaded or "a display"}, {backend} is wanted',
            'make the scene before anything else imports OpenGL',
        )
    os.environ.update(_environment(backend, _egl_device()))
    return backend


def _egl_device() -> str:
    # robosuite takes one device only and stops at an empty CUDA_VISIBLE_DEVICES, MuJoCo tries them
    # all: naming the device keeps the trial and the scene on the same one.
    first = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')[0].strip()
    return os.environ.get('MUJOCO_EGL_DEVICE_ID') or (first if first.isdigit() else '0')


def _environment(backend: str, device: str) -> dict[str, str]:
    variables = {'MUJOCO_GL': backend, 'PYOPENGL_PLATFORM': backend}
    return {**variables, 'MUJOCO_EGL_DEVICE_ID': device} if backend == 'egl' else variables


@functools.cache
def _trial(backend: str, device: str) -> str:
    """Why ``backend`` cannot render here, in one line; empty where it can."""
    environment = {**os.environ, **_environment(backend, device)}
    try:
        child = subprocess.run(
            [sys.executable, '-c', _TRIAL],
            env=environment,
            timeout=_TRIAL_TIMEOUT_S,
            capture_output=True,
            encoding='utf-8',
            errors='replace',
        )
    except subprocess.TimeoutExpired:
        return f'no image within {_TRIAL_TIMEOUT_S:.0f} s'
    if child.returncode == 0:
        return ''
    if child.returncode < 0:
        return f'the driver crashed, signal {-child.returncode}'
    # The indented lines belong to the traceback; the error itself stands at the margin.
    errors = [line.strip() for line in child.stderr.splitlines() if line[:1].strip()]
    return errors[-1] if errors else f'exit code {child.returncode}'
