"""What a recorded message says, as arrays and records of this package.

The same numbers as in the nodes; a recorded message has the fields of the ROS message.
"""

import numpy as np

from ..errors import DataError, InputRefused
from ..profiles import DELTA_POSE_NAMES
from ..records import ActionChunk
from ..runtime.decode import decode_compressed, decode_image
from .reader import IMAGES, JOINTS, POSE, TEXT, TRAJECTORY, TWIST, BagMessage


def image(recorded: BagMessage) -> np.ndarray:
    """uint8 (H, W, 3) RGB of an Image or CompressedImage.

    :raises InputRefused: ``corrupt``, or see :mod:`~vla_prune_ros.runtime.decode`.
    """
    _require(recorded, *IMAGES)
    m = recorded.message()
    if recorded.type == IMAGES[1]:
        return decode_compressed(m.data, m.format)
    return decode_image(m.encoding, m.height, m.width, m.step, bool(m.is_bigendian), m.data)


def pose(recorded: BagMessage) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) in m and quaternion (4,) x y z w of a PoseStamped, float64.

    :raises InputRefused: ``corrupt``.
    """
    _require(recorded, POSE)
    m = recorded.message().pose
    p, q = m.position, m.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])


def checked_pose(recorded: BagMessage) -> tuple[np.ndarray, np.ndarray]:
    """The same where it is a pose: finite, with a quaternion that is not of length 0.

    :raises InputRefused: ``corrupt`` or ``pose``.
    """
    position, quaternion = pose(recorded)
    norm = float(np.linalg.norm(quaternion))
    if not (np.isfinite(position).all() and np.isfinite(norm) and norm > 1e-6):
        raise InputRefused('pose', f'{recorded.topic}: no pose', 'check its publisher')
    return position, quaternion


def joints(recorded: BagMessage) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, positions and velocities of a JointState, float64; velocities may be empty.

    :raises InputRefused: ``corrupt``.
    """
    _require(recorded, JOINTS)
    m = recorded.message()
    return list(m.name), np.asarray(m.position), np.asarray(m.velocity)


def text(recorded: BagMessage) -> str:
    """The text of a String.

    :raises InputRefused: ``corrupt``.
    """
    _require(recorded, TEXT)
    return recorded.message().data


def twist(recorded: BagMessage) -> np.ndarray:
    """float64 (6,): m/s and rad/s of a TwistStamped.

    :raises InputRefused: ``corrupt`` or ``non_finite``.
    """
    _require(recorded, TWIST)
    m = recorded.message().twist
    return _finite(recorded, [getattr(v, a) for v in (m.linear, m.angular) for a in 'xyz'])


def gripper(recorded: BagMessage) -> float:
    """Commanded position of the gripper's joint, in its driver's unit, of a JointTrajectory.

    :raises InputRefused: ``corrupt``, ``points`` (not one joint) or ``non_finite``.
    """
    _require(recorded, TRAJECTORY)
    m = recorded.message()
    if not m.points or len(m.points[-1].positions) != 1:
        raise InputRefused(
            'points',
            f'{recorded.topic}: a gripper command has {len(m.joint_names)} joints',
            'name a topic with one joint',
        )
    return float(_finite(recorded, m.points[-1].positions)[0])


def chunk(recorded: BagMessage) -> ActionChunk:
    """A chunk as ``vla_policy`` publishes it on ``~/action_chunk``.

    :raises InputRefused: ``corrupt``, ``joint_names``, ``points`` (wrong lengths), ``times``
        (uneven) or ``non_finite``.
    """
    _require(recorded, TRAJECTORY)
    m = recorded.message()
    width = len(DELTA_POSE_NAMES)
    rows = [list(p.positions) for p in m.points]
    times = [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in m.points]
    if tuple(m.joint_names) != DELTA_POSE_NAMES:
        _refuse(recorded, 'joint_names', f'joint_names {list(m.joint_names)}')
    if not rows or any(len(row) != width for row in rows):
        _refuse(recorded, 'points', f'points of {sorted({len(r) for r in rows})} positions')
    if times[0] <= 0 or np.abs(np.diff([0, *times]) - times[0]).max() > 1000:  # 1 us of rounding
        _refuse(recorded, 'times', 'a time_from_start that is not (i + 1) * dt')
    values = _finite(recorded, rows)
    return ActionChunk(
        recorded.stamp_ns, times[0] * 1e-9, values[:, :6], values[:, 6], m.header.frame_id
    )


def _refuse(recorded: BagMessage, reason: str, what: str) -> None:
    raise InputRefused(
        reason, f'{recorded.topic}: a chunk has {what}', 'name the ~/action_chunk of vla_policy'
    )


def _finite(recorded: BagMessage, values: object) -> np.ndarray:
    out = np.asarray(values, np.float64)
    if not np.isfinite(out).all():
        raise InputRefused(
            'non_finite', f'{recorded.topic}: a value is not finite', 'check its publisher'
        )
    return out


def _require(recorded: BagMessage, *types: str) -> None:
    if recorded.type not in types:
        raise DataError(
            f'topic {recorded.topic!r} has messages of {recorded.type}',
            f'need {" or ".join(types)}',
        )
