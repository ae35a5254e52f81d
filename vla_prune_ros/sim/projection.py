"""Where a point of the world appears in a camera's picture, for labels of what can be seen."""

from typing import Any

import numpy as np

from ..model.images import CROP_AREA


def seen_at(sim: Any, camera: str, point: np.ndarray) -> np.ndarray:
    """Pinhole projection of a world point into what a vision tower sees of a square picture.

    The tower sees the picture turned by 180 degrees and cropped in the middle to
    ``CROP_AREA`` of its area. Nothing is tested for being hidden behind something else.

    :param sim: robosuite's ``MjSim``.
    :param camera: MuJoCo's name of the camera.
    :param point: (3,), world frame, m.
    :returns: float64 (2,), x to the right and y down, 0 .. 1 inside the cropped picture; NaN for a
        point that is behind the camera or outside.
    """
    index = sim.model.camera_name2id(camera)
    axes = np.array(sim.data.cam_xmat[index]).reshape(3, 3)
    right, up, back = (np.asarray(point) - sim.data.cam_xpos[index]) @ axes
    if back >= 0:  # MuJoCo's cameras look along their negative z axis
        return np.full(2, np.nan)
    half = np.tan(np.radians(sim.model.cam_fovy[index]) / 2.0)
    # Rendered rows begin at the bottom; turned by 180 degrees, they begin at the top again and
    # left and right change sides.
    aside = np.array([-right, -up]) / (-back * half)
    x = aside / (2.0 * CROP_AREA**0.5) + 0.5
    return x if ((x >= 0.0) & (x < 1.0)).all() else np.full(2, np.nan)
