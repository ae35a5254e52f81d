"""Leave out of a picture what its camera cannot see: the same pixels for half of the work.

MuJoCo draws every geom for every camera. On a software driver the time goes into transforming the
meshes' vertices (a Panda has 350 000), and the wrist camera sees little of the arm that carries
it.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

HIDDEN_GROUP = 0
"""Geom group that robosuite never draws (collision geoms)."""


def may_be_seen(model: Any, data: Any, camera: str) -> np.ndarray:
    """Which geoms reach into a square picture's viewing pyramid.

    A geom counts by its bounding sphere: with the camera looking along -z and half the field of
    view ``h``, a sphere of radius r at (x, y, z) lies beyond a side where ``|x| cos h + z sin h >
    r``.

    :param model: robosuite's model.
    :param data: its data, positions up to date.
    :returns: bool (ngeom,); True for geoms without bounds (planes).
    """
    index = model.camera_name2id(camera)
    half = math.radians(model.cam_fovy[index]) / 2.0
    in_camera = (data.geom_xpos - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)
    side = np.abs(in_camera[:, :2]).max(axis=1) * math.cos(half) + in_camera[:, 2] * math.sin(half)
    radius = model.geom_rbound
    return ((side <= radius) & (in_camera[:, 2] <= radius)) | (radius == 0.0)


@contextlib.contextmanager
def culled(sim: Any, camera: str) -> Iterator[None]:
    """Within, robosuite's renderer skips what ``camera`` cannot see.

    Needs shadows and reflections off: both show geoms that are out of sight.
    """
    groups = sim.model.geom_group
    before = groups.copy()
    groups[~may_be_seen(sim.model, sim.data, camera)] = HIDDEN_GROUP
    try:
        yield
    finally:
        groups[:] = before
