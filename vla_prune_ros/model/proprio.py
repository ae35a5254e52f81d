"""Numbers in and out of the model: orientation, normalisation and its inverse, the gripper.

The formulas are those of OpenVLA-OFT's evaluation code (``robot_utils.py``, ``openvla_utils.py``
and LIBERO's quaternion helper), reproduced to the last bit; numpy only.
"""

import math
from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-8  # the reference adds it to every range, so that a constant dimension divides


def quaternion_to_axis_angle(quat_xyzw: 'np.ndarray | Sequence[float]') -> np.ndarray:
    """Rotation vector float64 (3,) in rad, length 0 ... 2 pi, as the checkpoints were trained
    with.

    There is no choice of sign: ``q`` and ``-q`` give the angles ``t`` and ``2 pi - t`` about
    opposite axes. :func:`vla_prune_ros.runtime.state.resolve_axis_angle` picks that of the
    training data."""
    x, y, z, w = (float(value) for value in quat_xyzw)
    w = min(max(w, -1.0), 1.0)
    denominator = math.sqrt(1.0 - w * w)
    if denominator == 0.0:  # only exactly 0: the reference's test has no absolute tolerance
        return np.zeros(3)
    return np.array((x, y, z)) * 2.0 * math.acos(w) / denominator


def normalize(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """(..., D) in the robot's units: ``low ... high`` (D,) to -1 ... 1, and clip. float64.

    :param mask: bool (D,), True where a dimension is normalised; the others are only clipped."""
    values, low, high = (np.asarray(a, np.float64) for a in (values, low, high))
    scaled = 2.0 * (values - low) / (high - low + _EPSILON) - 1.0
    if mask is not None:
        scaled = np.where(np.asarray(mask, bool), scaled, values)
    return np.clip(scaled, -1.0, 1.0)


def unnormalize(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """(..., D) of the head: -1 ... 1 back to ``low ... high`` (D,), without clipping. float64.

    ``0.5 * (values + 1)`` is taken in the dtype of ``values`` (the head gives float32) and only
    then widened, because the reference does so: the result is the reference's to the last bit.

    :param mask: bool (D,), True where a dimension was normalised; the others pass through
        (LIBERO's gripper, predicted as 0 closed ... 1 open)."""
    values = np.asarray(values)
    low, high = (np.asarray(a, np.float64) for a in (low, high))
    scaled = 0.5 * (values + 1) * (high - low + _EPSILON) + low
    if mask is None:
        return scaled
    return np.where(np.asarray(mask, bool), scaled, values.astype(np.float64))


def gripper_to_env(actions: np.ndarray) -> np.ndarray:
    """A copy of actions (..., D) with the gripper, 0 closed ... 1 open, as robosuite's LIBERO
    environments take it: -1 open, +1 close."""
    out = np.array(actions, copy=True)
    out[..., -1] = -np.sign(2 * out[..., -1] - 1)
    return out
