"""Leave out of a picture what its camera cannot see: the same pixels for less than half of the
work.

MuJoCo draws every geom for every camera. On a software driver the time goes into transforming the
meshes' vertices (a Panda has 350 000), and the wrist camera sees little of the arm that carries
it.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

HIDDEN_GROUP = 0
"""Geom group that robosuite never draws (collision geoms)."""

_MARGIN_M = 1e-3  # a driver rounds: what touches a side of the pyramid is drawn
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


def may_be_seen(model: Any, data: Any, camera: str) -> np.ndarray:
    """Which geoms reach into a square picture's viewing pyramid.

    A geom counts by the box around it in its own axes (``geom_aabb``): with the camera looking
    along -z and half the field of view ``h``, a point lies beyond a side of the pyramid by ``|x|
    cos h + z sin h``, and a box whose corners all lie beyond one and the same side is outside.

    :param model: robosuite's model.
    :param data: its data, positions up to date.
    :returns: bool (ngeom,); True for geoms without bounds (planes).
    """
    index = model.camera_name2id(camera)
    boxes = model.geom_aabb.reshape(-1, 2, 3)  # centre and half sizes
    corners = boxes[:, :1] + boxes[:, 1:] * _CORNERS  # (ngeom, 8, 3), own frame
    turns = data.geom_xmat.reshape(-1, 3, 3)
    in_world = corners @ turns.transpose(0, 2, 1) + data.geom_xpos[:, None]
    in_camera = (in_world - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)
    beyond = in_camera @ _sides(math.radians(model.cam_fovy[index]) / 2.0) > _MARGIN_M
    return ~beyond.all(axis=1).any(axis=1) | (model.geom_rbound == 0.0)


def _sides(half: float) -> np.ndarray:
    """Outward normals of the pyramid's four sides and of the plane behind the camera, (3, 5)."""
    c, s = math.cos(half), math.sin(half)
    return np.array([(c, 0, s), (-c, 0, s), (0, c, s), (0, -c, s), (0, 0, 1)], np.float64).T


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
