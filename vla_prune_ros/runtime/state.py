"""From robot state messages to the model's proprioception."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputRefused, ProfileError

Vector = np.ndarray | Sequence[float]

# Unit to rounding: not divided, so that the reference's numbers come out bit for bit.
_UNIT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class GripperJoints:
    """Which joints are the fingers, in the order that the checkpoint takes them.
    :param signs: +1 or -1 per name; LIBERO's second finger counts negative.
    :raises ProfileError: no joint, a repeated name, or another number or value of signs."""

    names: tuple[str, ...]
    signs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ProfileError(f'gripper joints are {self.names}', 'name each finger joint once')
        if len(self.signs) != len(self.names) or any(abs(sign) != 1 for sign in self.signs):
            what = f'gripper signs are {self.signs} for {len(self.names)} joints'
            raise ProfileError(what, 'give 1 or -1 for each joint')

    def pick(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """Signed finger positions out of a joint state, as :func:`joints_proprio`."""
        return joints_proprio(names, positions, self.names) * np.asarray(self.signs)


def joints_proprio(
    names: Sequence[str],
    positions: Sequence[float],
    wanted: Sequence[str],
    what: str = 'position',
    plural: str = 'positions',
) -> np.ndarray:
    """Positions of the ``wanted`` joints out of a joint state, float64, in the message's units.
    :param what: what a refusal calls one of the numbers; ``plural``: several of them.
    :raises InputRefused: ``missing_joint``, ``length`` or ``non_finite``."""
    if len(names) != len(positions):
        raise InputRefused(
            'length',
            f'joint state has {len(names)} names and {len(positions)} {plural}',
            'make the driver fill both',
        )
    by_name = dict(zip(names, positions, strict=True))
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise InputRefused(
            'missing_joint',
            f'joint state lacks {", ".join(map(repr, missing))}',
            f'it has: {", ".join(names) or "none"}; set the joint names to match',
        )
    out = np.array([by_name[name] for name in wanted], np.float64)
    require_finite(out, f'joint {what}', wanted)
    return out


def quaternion_to_axis_angle(quat_xyzw: Vector) -> np.ndarray:
    """Rotation vector float64 (3,) in rad, length 0 ... 2 pi, as the checkpoints were trained
    with: LIBERO's formula to the last bit, by which ``q`` and ``-q`` give the angles ``t`` and
    ``2 pi - t`` about opposite axes."""
    x, y, z, w = (float(value) for value in quat_xyzw)
    w = min(max(w, -1.0), 1.0)
    denominator = math.sqrt(1.0 - w * w)
    if denominator == 0.0:  # only exactly 0: the reference's test has no absolute tolerance
        return np.zeros(3)
    return np.array((x, y, z)) * 2.0 * math.acos(w) / denominator


def resolve_axis_angle(quat_xyzw: Vector, reference: Vector) -> np.ndarray:
    """Rotation vector, float64 (3,) rad, on the branch that the checkpoint was trained on.

    ``q`` and ``-q`` are the same orientation but give different vectors in the reference's
    formula, and the model has seen one branch only: the one nearer to ``reference``.

    :param reference: (3,) mean rotation vector of the statistics file, rad.
    :raises InputRefused: ``quaternion``."""
    quat = unit_quaternion(quat_xyzw)
    # A tie must not depend on the sign either: the first number from w on that is not 0 is
    # positive.
    lead = next(value for value in (quat[3], quat[0], quat[1], quat[2]) if value != 0.0)
    quat = quat if lead > 0 else -quat
    reference = np.asarray(reference, np.float64)
    vectors = quaternion_to_axis_angle(quat), quaternion_to_axis_angle(-quat)
    return min(vectors, key=lambda vector: float(np.linalg.norm(vector - reference)))


def pose_gripper_proprio(
    position: Vector, quat_xyzw: Vector, fingers: np.ndarray, reference: Vector
) -> np.ndarray:
    """LIBERO's state vector, float64 (6 + F,): position in the base frame (m), rotation vector
    (:func:`resolve_axis_angle`), finger positions (F,); not normalised.
    :raises InputRefused: ``non_finite`` or ``quaternion``."""
    position = np.asarray(position, np.float64)
    require_finite(position, 'end-effector position', 'xyz')
    return np.concatenate((position, resolve_axis_angle(quat_xyzw, reference), fingers))


def unit_quaternion(quat_xyzw: Vector) -> np.ndarray:
    """:raises InputRefused: ``quaternion``: not four finite numbers, or of length 0."""
    quat = np.asarray(quat_xyzw, np.float64)
    norm = float(np.linalg.norm(quat)) if quat.shape == (4,) else 0.0
    if not np.isfinite(norm) or norm < 1e-6:
        what = f'orientation {quat.tolist()} is no rotation'
        raise InputRefused('quaternion', what, 'make the driver send a unit quaternion x y z w')
    return quat if abs(norm - 1.0) <= _UNIT_TOLERANCE else quat / norm


def require_finite(values: np.ndarray, what: str, names: Sequence[str]) -> None:
    """:raises InputRefused: ``non_finite``, with the name of the first that is not."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputRefused(
            'non_finite',
            f'{what} {names[int(bad[0])]} is {values[bad[0]]}',
            'check the driver: a state must be finite',
        )
