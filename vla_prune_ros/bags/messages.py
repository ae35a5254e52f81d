"""Messages for bags, built from arrays and records, without ROS: what nodes would publish.

The same fields as in the nodes. Stamps are integer nanoseconds; a frame is an empty text where
none is given. Every function raises DataError where ``rosbags`` is not installed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np

from ..errors import DataError
from ..profiles import DELTA_POSE_NAMES
from ..records import ActionChunk

JPEG_QUALITY = 95
"""That of image_transport's compressed topics."""

OK, WARN, ERROR = 0, 1, 2
"""Levels of a diagnostic status."""

_NONE = np.zeros(0)


@cache
def type_store() -> Any:
    """The message types of ROS 2 Humble; those used here are the same in later distributions.

    :raises DataError: ``rosbags`` is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise DataError(
            'rosbags is not installed, no bag can be written', "pip install 'vla_prune_ros[bags]'"
        ) from None
    return get_typestore(Stores.ROS2_HUMBLE)


def image_message(pixels: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
    """sensor_msgs/Image, ``rgb8``, of uint8 (H, W, 3) RGB."""
    height, width, channels = pixels.shape
    return _new(
        'sensor_msgs/msg/Image',
        header=_header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=channels * width,
        data=np.ascontiguousarray(pixels, np.uint8).reshape(-1),
    )


def compressed_message(pixels: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
    """sensor_msgs/CompressedImage, JPEG, of uint8 (H, W, 3) RGB."""
    _, data = cv2.imencode('.jpg', pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return _new(
        'sensor_msgs/msg/CompressedImage',
        header=_header(stamp_ns, frame_id),
        format='rgb8; jpeg compressed bgr8',
        data=data.reshape(-1),
    )


def pose_message(
    position: np.ndarray, quat_xyzw: np.ndarray, stamp_ns: int, frame_id: str = ''
) -> Any:
    """geometry_msgs/PoseStamped of a position (3,) in m and a quaternion (4,) x y z w."""
    pose = _new(
        'geometry_msgs/msg/Pose',
        position=_new('geometry_msgs/msg/Point', **_named('xyz', position)),
        orientation=_new('geometry_msgs/msg/Quaternion', **_named('xyzw', quat_xyzw)),
    )
    return _new('geometry_msgs/msg/PoseStamped', header=_header(stamp_ns, frame_id), pose=pose)


def joint_message(
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray,
    stamp_ns: int,
    frame_id: str = '',
) -> Any:
    """sensor_msgs/JointState of J joints: rad and rad/s, m and m/s of sliding ones."""
    return _new(
        'sensor_msgs/msg/JointState',
        header=_header(stamp_ns, frame_id),
        name=list(names),
        position=np.asarray(positions, np.float64),
        velocity=np.asarray(velocities, np.float64),
        effort=_NONE,
    )


def text_message(text: str) -> Any:
    """std_msgs/String."""
    return _new('std_msgs/msg/String', data=text)


def number_message(value: float) -> Any:
    """std_msgs/Float64, which plotting tools draw over the time of receipt."""
    return _new('std_msgs/msg/Float64', data=float(value))


def twist_message(velocity: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
    """geometry_msgs/TwistStamped of float64 (6,): m/s and rad/s along the axes of the frame."""
    linear, angular = (
        _new('geometry_msgs/msg/Vector3', **_named('xyz', part))
        for part in (velocity[:3], velocity[3:])
    )
    twist = _new('geometry_msgs/msg/Twist', linear=linear, angular=angular)
    return _new('geometry_msgs/msg/TwistStamped', header=_header(stamp_ns, frame_id), twist=twist)


def gripper_message(
    position: float, stamp_ns: int, joint: str = 'gripper', time_s: float = 0.0
) -> Any:
    """trajectory_msgs/JointTrajectory with one point for the gripper's joint, in its driver's
    unit, to be reached after ``time_s``."""
    return _trajectory([joint], [_point([position], _NONE, round(1e9 * time_s))], stamp_ns, '')


def chunk_message(chunk: ActionChunk) -> Any:
    """A chunk as ``vla_policy`` publishes it; docs/interface.md has the fields."""
    step_ns = round(chunk.dt_s * 1e9)
    points = [
        _point([*delta, gripper], np.array([*(delta / chunk.dt_s), 0.0]), (i + 1) * step_ns)
        for i, (delta, gripper) in enumerate(zip(chunk.deltas, chunk.gripper, strict=True))
    ]
    return _trajectory(DELTA_POSE_NAMES, points, chunk.stamp_ns, chunk.frame_id)


def path_message(chunk: ActionChunk, position: np.ndarray) -> Any:
    """nav_msgs/Path: where the chunk would take the end effector from ``position`` (3,) in m,
    translations only; K + 1 poses."""
    points = np.vstack([position, position + np.cumsum(chunk.deltas[:, :3], axis=0)])
    unturned = np.array([0.0, 0.0, 0.0, 1.0])
    return _new(
        'nav_msgs/msg/Path',
        header=_header(chunk.stamp_ns, chunk.frame_id),
        poses=[pose_message(p, unturned, chunk.stamp_ns, chunk.frame_id) for p in points],
    )


def diagnostics_message(
    name: str,
    values: Mapping[str, Any],
    stamp_ns: int,
    level: int = OK,
    text: str = '',
    hardware_id: str = '',
) -> Any:
    """diagnostic_msgs/DiagnosticArray with one status; values are text, fractions have four
    digits."""
    pairs = [
        _new(
            'diagnostic_msgs/msg/KeyValue',
            key=key,
            value=f'{value:.4g}' if isinstance(value, float) else str(value),
        )
        for key, value in values.items()
    ]
    status = _new(
        'diagnostic_msgs/msg/DiagnosticStatus',
        level=level,
        name=name,
        message=text,
        hardware_id=hardware_id,
        values=pairs,
    )
    return _new(
        'diagnostic_msgs/msg/DiagnosticArray', header=_header(stamp_ns, ''), status=[status]
    )


def _new(kind: str, **fields: Any) -> Any:
    return type_store().types[kind](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = _new('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return _new('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _named(names: str, values: 'np.ndarray | Sequence[float]') -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _trajectory(names: Sequence[str], points: Sequence[Any], stamp_ns: int, frame_id: str) -> Any:
    return _new(
        'trajectory_msgs/msg/JointTrajectory',
        header=_header(stamp_ns, frame_id),
        joint_names=list(names),
        points=list(points),
    )


def _point(positions: Sequence[float], velocities: np.ndarray, after_ns: int) -> Any:
    sec, nanosec = divmod(after_ns, 1_000_000_000)
    return _new(
        'trajectory_msgs/msg/JointTrajectoryPoint',
        positions=np.array(positions, np.float64),
        velocities=velocities,
        accelerations=_NONE,
        effort=_NONE,
        time_from_start=_new('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec),
    )
