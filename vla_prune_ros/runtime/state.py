"""From robot state messages to the model's proprioception, and to the motion of the end
effector."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputRefused, ProfileError
from ..records import MotionHint

Vector = np.ndarray | Sequence[float]
"""A few numbers, as an array or as a message's list."""

# Unit to rounding: left alone, so that the reference's numbers come out bit for bit.
_UNIT_TOLERANCE = 1e-9
_WINDOW_NS = 50_000_000
_MAX_GAP_S = 0.5  # a speed over a longer gap says nothing about the motion now


@dataclass(frozen=True)
class GripperJoints:
    """Which joints are the fingers, and their signs in the checkpoint's convention.

    :param names: joint names in the order the checkpoint takes them.
    :param signs: +1 or -1 per name; LIBERO's second finger counts negative.
    :raises ProfileError: no joint, a repeated name, or another number or value of signs.
    """

    names: tuple[str, ...]
    signs: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, 'names', tuple(self.names))
        object.__setattr__(self, 'signs', tuple(self.signs))
        if not self.names or len(set(self.names)) != len(self.names):
            raise ProfileError(f'gripper joints are {self.names}', 'name each finger joint once')
        if len(self.signs) != len(self.names) or any(abs(sign) != 1 for sign in self.signs):
            raise ProfileError(
                f'gripper signs are {self.signs} for {len(self.names)} joints',
                'give 1 or -1 for each joint',
            )

    def pick(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """Finger positions out of a joint state, whatever the order of its joints.

        :returns: float64 (len(self.names),), signed, in the message's units (m).
        :raises InputRefused: ``missing_joint``, ``length`` or ``non_finite``.
        """
        return joints_proprio(names, positions, self.names) * np.asarray(self.signs)


def joints_proprio(
    names: Sequence[str],
    positions: Sequence[float],
    wanted: Sequence[str],
    what: str = 'position',
    plural: str = 'positions',
) -> np.ndarray:
    """Positions of the ``wanted`` joints, by name; or another of their quantities.

    :param names: joint names of the message.
    :param positions: their positions, same order (rad or m).
    :param what: what a refusal calls one of the numbers; ``plural``: several of them.
    :returns: float64 (len(wanted),) in the order of ``wanted``.
    :raises InputRefused: ``missing_joint``, ``length`` (names and positions differ) or
        ``non_finite``.
    """
    if len(names) != len(positions):
        raise InputRefused(
            'length',
            f'joint state has {len(names)} names and {len(positions)} {plural}',
            'make the driver fill both',
        )
    index = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in index]
    if missing:
        raise InputRefused(
            'missing_joint',
            f'joint state lacks {", ".join(map(repr, missing))}',
            f'it has: {", ".join(names) or "none"}; set the joint names to match',
        )
    out = np.array([positions[index[name]] for name in wanted], np.float64)
    _require_finite(out, f'joint {what}', wanted)
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
    """Rotation vector on the branch that the checkpoint was trained on.

    ``q`` and ``-q`` are the same orientation but give different vectors in the reference's
    formula, and the model has seen one branch only. The one nearer to ``reference`` is taken, so
    the result does not depend on the sign a driver happens to send.

    :param quat_xyzw: (4,) quaternion x y z w; normalised here where it is not of unit length.
    :param reference: (3,) mean rotation vector of the statistics file, rad.
    :returns: float64 (3,) in rad.
    :raises InputRefused: ``quaternion``: not four finite numbers, or of length 0.
    """
    quat = _unit(quat_xyzw)
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
    """LIBERO's state vector: position, rotation vector, finger positions.

    :param position: (3,) of the end effector in the base frame, m.
    :param quat_xyzw: (4,) its orientation.
    :param fingers: (F,) as :meth:`GripperJoints.pick` gives them.
    :param reference: (3,) see :func:`resolve_axis_angle`.
    :returns: float64 (6 + F,), un-normalised.
    :raises InputRefused: ``non_finite`` or ``quaternion``.
    """
    position = np.asarray(position, np.float64)
    _require_finite(position, 'end-effector position', 'xyz')
    return np.concatenate((position, resolve_axis_angle(quat_xyzw, reference), fingers))


class MotionEstimator:
    """Speed of the end effector from poses at least 50 ms apart, where they come faster than that.

    Differences of poses amplify their noise: 0.1 mm between two samples at 1 kHz would be 0.1 m/s,
    over 50 ms, a control period of LIBERO, it is 2 mm/s.
    """

    def __init__(self) -> None:
        self._poses: deque[tuple[int, np.ndarray, np.ndarray]] = deque()

    def reset(self) -> None:
        """Forget all poses."""
        self._poses.clear()

    def update(self, stamp_ns: int, position: Vector, quat_xyzw: Vector) -> MotionHint | None:
        """Take in one pose.

        :param stamp_ns: its header stamp.
        :param position: (3,) in the base frame, m.
        :param quat_xyzw: (4,) either sign.
        :returns: mean speeds since the newest pose that is 50 ms older, or since the oldest one
            there is; None for the first pose, a stamp that is not newer, or a gap above 0.5 s.
        :raises InputRefused: ``non_finite`` or ``quaternion``; the poses before are kept.
        """
        position = np.array(position, np.float64)
        _require_finite(position, 'end-effector position', 'xyz')
        quat = _unit(quat_xyzw)
        poses = self._poses
        if poses and not 0.0 < (stamp_ns - poses[-1][0]) * 1e-9 <= _MAX_GAP_S:
            poses.clear()
        poses.append((stamp_ns, position, quat))
        if len(poses) == 1:
            return None
        while stamp_ns - poses[1][0] >= _WINDOW_NS:
            poses.popleft()
        since_ns, last_position, last_quat = poses[0]
        dt_s = (stamp_ns - since_ns) * 1e-9
        velocity = (position - last_position) / dt_s
        return MotionHint(
            linear_m_s=float(np.linalg.norm(velocity)),
            angular_rad_s=_angle_between(last_quat, quat) / dt_s,
            vertical_m_s=float(velocity[2]),
            source='pose',
        )


def _angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Angle in rad, 0 ... pi, of the rotation from unit quaternion ``a`` to ``b``."""
    # |a - b| and |a + b| are 2 sin and 2 cos of a quarter of the angle; unlike acos of the dot
    # product this keeps its precision for the small angles between two samples.
    low, high = sorted((float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b))))
    return 4.0 * float(np.arctan2(low, high))


def _unit(quat_xyzw: Vector) -> np.ndarray:
    quat = np.asarray(quat_xyzw, np.float64)
    norm = float(np.linalg.norm(quat)) if quat.shape == (4,) else 0.0
    if not np.isfinite(norm) or norm < 1e-6:
        raise InputRefused(
            'quaternion',
            f'orientation {quat.tolist()} is no rotation',
            'make the driver send a unit quaternion x y z w',
        )
    return quat if abs(norm - 1.0) <= _UNIT_TOLERANCE else quat / norm


def _require_finite(values: np.ndarray, what: str, names: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputRefused(
            'non_finite',
            f'{what} {names[int(bad[0])]} is {values[bad[0]]}',
            'check the driver: a state must be finite',
        )
