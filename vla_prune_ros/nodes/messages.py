"""Between ROS messages and the records of this package; nothing here keeps state."""

import array
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, Vector3
from nav_msgs.msg import Path
from sensor_msgs.msg import CompressedImage, Image
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ..errors import InputRefused
from ..profiles import DELTA_POSE_NAMES
from ..records import ActionChunk
from ..runtime.decode import decode_compressed, decode_image


def to_ns(stamp: Time) -> int:
    """Nanoseconds of a message stamp."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(ns: int) -> Time:
    """Message stamp of integer nanoseconds."""
    return Time(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def to_duration(ns: int) -> Duration:
    """Message duration of integer nanoseconds."""
    return Duration(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def image_array(message: Image | CompressedImage) -> np.ndarray:
    """Pixels as uint8 (H, W, 3) RGB.

    Encodings that are not known here go through cv_bridge where a distribution has it.

    :raises InputRefused: unknown encoding, truncated or corrupt data.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    try:
        return decode_image(
            message.encoding,
            message.height,
            message.width,
            message.step,
            bool(message.is_bigendian),
            message.data,
        )
    except InputRefused as refusal:
        if refusal.reason != 'encoding' or find_spec('cv_bridge') is None:
            raise
        return _through_cv_bridge(message, refusal)


def _through_cv_bridge(message: Image, refusal: InputRefused) -> np.ndarray:
    try:
        from cv_bridge import (
            CvBridge,
        )  # with NumPy 2 in the environment, the import itself may fail

        return np.asarray(CvBridge().imgmsg_to_cv2(message, 'rgb8'))
    except Exception:  # its own exceptions, and whatever a broken binary raises
        raise refusal from None


def image_message(image: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """uint8 (H, W, 3) RGB -> Image; ``data`` is an array.array: its setter does not check."""
    out = Image(
        height=image.shape[0], width=image.shape[1], encoding='rgb8', step=3 * image.shape[1]
    )
    out.header.stamp, out.header.frame_id = stamp, frame_id
    out.data = array.array('B', image.tobytes())
    return out


def chunk_message(chunk: ActionChunk) -> JointTrajectory:
    """The chunk as a trajectory of pseudo-joints; step i is complete at stamp + (i + 1) dt."""
    out = JointTrajectory(joint_names=list(DELTA_POSE_NAMES))
    out.header.stamp, out.header.frame_id = to_stamp(chunk.stamp_ns), chunk.frame_id
    step_ns = round(chunk.dt_s * 1e9)
    for i, (delta, gripper) in enumerate(zip(chunk.deltas, chunk.gripper, strict=True)):
        out.points.append(
            JointTrajectoryPoint(
                positions=array.array('d', [*delta, gripper]),
                velocities=array.array('d', [*(delta / chunk.dt_s), 0.0]),
                time_from_start=to_duration((i + 1) * step_ns),
            )
        )
    return out


def chunk_record(message: JointTrajectory) -> ActionChunk:
    """Inverse of :func:`chunk_message`.

    :raises InputRefused: other joint names, no points, wrong lengths, uneven times.
    """
    if tuple(message.joint_names) != DELTA_POSE_NAMES:
        raise InputRefused(
            'joint_names',
            f'chunk has joint_names {list(message.joint_names)}',
            f'publish {list(DELTA_POSE_NAMES)}',
        )
    times = [
        p.time_from_start.sec * 1_000_000_000 + p.time_from_start.nanosec for p in message.points
    ]
    rows = [list(p.positions) for p in message.points]
    if not rows or any(len(row) != len(DELTA_POSE_NAMES) for row in rows):
        raise InputRefused(
            'points',
            f'chunk has {len(rows)} points of lengths {sorted({len(r) for r in rows})}',
            f'give each point {len(DELTA_POSE_NAMES)} positions',
        )
    steps = np.diff([0, *times])
    if times[0] <= 0 or np.abs(steps - times[0]).max() > 1000:  # 1 us of rounding
        raise InputRefused(
            'times', 'time_from_start of the chunk is not (i + 1) * dt', 'space the points evenly'
        )
    values = np.asarray(rows, np.float64)
    return ActionChunk(
        to_ns(message.header.stamp),
        times[0] * 1e-9,
        values[:, :6],
        values[:, 6],
        message.header.frame_id,
    )


def gripper_message(
    position: float, stamp: Time, joint: str = 'gripper', time_s: float = 0.0
) -> JointTrajectory:
    """One point for the gripper's joint, in its driver's unit, to be reached after ``time_s``."""
    out = JointTrajectory(joint_names=[joint])
    out.header.stamp = stamp
    point = JointTrajectoryPoint(
        positions=array.array('d', [float(position)]),
        time_from_start=to_duration(round(1e9 * time_s)),
    )
    out.points = [point]
    return out


def path_message(chunk: ActionChunk, position: np.ndarray) -> Path:
    """Where the chunk would take the end effector from ``position`` (3,), translations only."""
    out = Path()
    out.header.stamp, out.header.frame_id = to_stamp(chunk.stamp_ns), chunk.frame_id
    for point in np.vstack([position, position + np.cumsum(chunk.deltas[:, :3], axis=0)]):
        pose = PoseStamped(header=out.header)
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = map(float, point)
        out.poses.append(pose)
    return out


def vector(values: Sequence[float]) -> Vector3:
    """Three numbers as a Vector3."""
    return Vector3(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def pose_arrays(message: PoseStamped) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) in m and quaternion (4,) x, y, z, w of a pose message."""
    p, q = message.pose.position, message.pose.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])


def status_message(
    name: str, level: bytes, text: str, values: Mapping[str, Any], hardware_id: str = ''
) -> DiagnosticStatus:
    """One diagnostic status with plain values."""
    pairs = [
        KeyValue(key=k, value=f'{v:.4g}' if isinstance(v, float) else str(v))
        for k, v in values.items()
    ]
    return DiagnosticStatus(
        name=name, level=level, message=text, hardware_id=hardware_id, values=pairs
    )


def status_values(status: DiagnosticStatus) -> dict[str, str]:
    """Key -> value of a diagnostic status."""
    return {pair.key: pair.value for pair in status.values}


def pose_message(
    position: np.ndarray, quat_xyzw: np.ndarray, stamp: Time, frame_id: str
) -> PoseStamped:
    """Position (3,) in m and quaternion (4,) x y z w as a pose message."""
    out = PoseStamped()
    out.header.stamp, out.header.frame_id = stamp, frame_id
    out.pose.position.x, out.pose.position.y, out.pose.position.z = map(float, position)
    q = out.pose.orientation
    q.x, q.y, q.z, q.w = map(float, quat_xyzw)
    return out
