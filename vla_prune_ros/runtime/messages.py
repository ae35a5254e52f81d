"""ROS messages to arrays and records, and back, without ROS.
Messages of rclpy and of rosbags have the same fields: the readers take either, and
:class:`MessageBuilder` makes either, out of the message classes that it is given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np

from ..errors import InputRefused
from ..profiles import DELTA_POSE_NAMES
from ..records import ActionChunk
from .images import decode_compressed, decode_image

JPEG_QUALITY = 95  # that of image_transport's compressed topics

_IDENTITY = (0.0, 0.0, 0.0, 1.0)


def to_ns(time: Any) -> int:
    return time.sec * 1_000_000_000 + time.nanosec


def read_image(message: Any) -> np.ndarray:
    """uint8 (H, W, 3) RGB. :raises InputRefused: unknown encoding, truncated or corrupt data."""
    if type(message).__name__.endswith('CompressedImage'):
        return decode_compressed(message.data, message.format)
    try:
        return decode_image(
            encoding=message.encoding,
            height=message.height,
            width=message.width,
            step=message.step,
            is_bigendian=bool(message.is_bigendian),
            data=message.data,
        )
    except InputRefused as refusal:
        if refusal.reason != 'encoding' or find_spec('cv_bridge') is None:
            raise
        try:
            from cv_bridge import CvBridge  # beside NumPy 2 the import itself may fail

            return np.asarray(CvBridge().imgmsg_to_cv2(message, 'rgb8'))
        except Exception:  # its own exceptions, and whatever a broken binary raises
            raise refusal from None


def read_pose(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) in m and quaternion (4,) x, y, z, w, unchecked."""
    p, q = message.pose.position, message.pose.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])


def read_valid_pose(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """:raises InputRefused: ``pose``: not finite, or a quaternion of length 0."""
    position, quaternion = read_pose(message)
    norm = float(np.linalg.norm(quaternion))
    if not (np.isfinite(position).all() and np.isfinite(norm) and norm > 1e-6):
        raise InputRefused('pose', 'the pose is not usable', 'check its publisher')
    return position, quaternion


def read_joints(message: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, positions and velocities of a JointState, float64; velocities may be empty."""
    return list(message.name), np.asarray(message.position), np.asarray(message.velocity)


def read_text(message: Any) -> str:
    return message.data


def read_twist(message: Any) -> np.ndarray:
    """float64 (6,), m/s and rad/s. :raises InputRefused: ``non_finite``."""
    linear, angular = message.twist.linear, message.twist.angular
    return _finite([getattr(part, axis) for part in (linear, angular) for axis in 'xyz'], 'twist')


def read_gripper(message: Any, joint: str = '') -> float:
    """Commanded position of a gripper, in its driver's unit: the last point of a JointTrajectory,
    of ``joint`` or, where that is empty, of any one joint.

    :raises InputRefused: ``joint_names``, ``points`` (none, or not one joint) or ``non_finite``.
    """
    names = list(message.joint_names)
    if joint and names != [joint]:
        raise InputRefused('joint_names', f'joint_names is {names}', f'send [{joint!r}]')
    if not message.points or len(message.points[-1].positions) != 1:
        raise InputRefused(
            'points', f'a gripper command of {len(names)} joints has no point for one', 'send one'
        )
    return float(_finite(message.points[-1].positions, 'gripper command')[0])


def read_chunk(message: Any) -> ActionChunk:
    """:raises InputRefused: ``joint_names``, ``points``, ``times`` (uneven) or ``non_finite``."""
    names, rows = list(message.joint_names), [list(p.positions) for p in message.points]
    if tuple(names) != DELTA_POSE_NAMES:
        raise InputRefused(
            'joint_names', f'chunk has joint_names {names}', f'publish {list(DELTA_POSE_NAMES)}'
        )
    if not rows or any(len(row) != len(names) for row in rows):
        lengths = sorted({len(row) for row in rows})
        what = f'chunk has {len(rows)} points of lengths {lengths}'
        raise InputRefused('points', what, f'give each point {len(names)} positions')
    times = [to_ns(point.time_from_start) for point in message.points]
    if times[0] <= 0 or np.abs(np.diff([0, *times]) - times[0]).max() > 1000:  # 1 us of rounding
        raise InputRefused(
            'times', 'time_from_start of the chunk is not (i + 1) * dt', 'space the points evenly'
        )
    values = _finite(rows, 'chunk')
    return ActionChunk(
        stamp_ns=to_ns(message.header.stamp),
        dt_s=times[0] * 1e-9,
        deltas=values[:, :6],
        gripper=values[:, 6],
        frame_id=message.header.frame_id,
    )


def status_values(status: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def _finite(values: Any, what: str) -> np.ndarray:
    out = np.asarray(values, np.float64)
    bad = out[~np.isfinite(out)]
    if len(bad):
        raise InputRefused('non_finite', f'{what} is not finite ({bad[0]})', 'check its publisher')
    return out


class MessageBuilder:
    """Messages out of arrays and records, in the classes of one ROS implementation.

    :param types: ``'sensor_msgs/msg/Image'`` -> class, of every type that is built.
    :param array: of a type code (``'d'``, ``'B'``) and values: ``array.array`` for rclpy, which
        checks nothing else as fast; numpy for rosbags."""

    def __init__(self, types: Mapping[str, type], array: Callable[[str, Any], Any]) -> None:
        self._types, self._array = types, array
        status = types['diagnostic_msgs/msg/DiagnosticStatus']
        self.OK, self.WARN, self.ERROR = status.OK, status.WARN, status.ERROR

    def time(self, ns: int) -> Any:
        return self._new('builtin_interfaces/msg/Time', **_seconds(ns))

    def duration(self, ns: int) -> Any:
        return self._new('builtin_interfaces/msg/Duration', **_seconds(ns))

    def image(self, pixels: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
        height, width, channels = pixels.shape
        return self._stamped(
            'sensor_msgs/msg/Image',
            stamp_ns,
            frame_id,
            height=height,
            width=width,
            encoding='rgb8',
            is_bigendian=0,
            step=channels * width,
            data=self._array('B', pixels),
        )

    def compressed_image(self, pixels: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
        _, data = cv2.imencode('.jpg', pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        return self._stamped(
            'sensor_msgs/msg/CompressedImage',
            stamp_ns,
            frame_id,
            format='rgb8; jpeg compressed bgr8',
            data=self._array('B', data),
        )

    def pose(
        self, position: Sequence[float], quat_xyzw: Sequence[float], stamp_ns: int, frame_id: str
    ) -> Any:
        pose = self._new(
            'geometry_msgs/msg/Pose',
            position=self._new('geometry_msgs/msg/Point', **_named('xyz', position)),
            orientation=self._new('geometry_msgs/msg/Quaternion', **_named('xyzw', quat_xyzw)),
        )
        return self._stamped('geometry_msgs/msg/PoseStamped', stamp_ns, frame_id, pose=pose)

    def joints(
        self,
        names: Iterable[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        stamp_ns: int,
    ) -> Any:
        return self._stamped(
            'sensor_msgs/msg/JointState',
            stamp_ns,
            name=list(names),
            position=self._array('d', positions),
            velocity=self._array('d', velocities),
            effort=self._array('d', ()),
        )

    def twist(self, velocity: np.ndarray, stamp_ns: int, frame_id: str = '') -> Any:
        linear, angular = (
            self._new('geometry_msgs/msg/Vector3', **_named('xyz', part))
            for part in (velocity[:3], velocity[3:])
        )
        twist = self._new('geometry_msgs/msg/Twist', linear=linear, angular=angular)
        return self._stamped('geometry_msgs/msg/TwistStamped', stamp_ns, frame_id, twist=twist)

    def gripper(
        self, position: float, stamp_ns: int, joint: str = 'gripper', time_s: float = 0.0
    ) -> Any:
        """To be reached after ``time_s``, in its driver's unit."""
        point = self._point((position,), (), round(1e9 * time_s))
        return self._trajectory((joint,), [point], stamp_ns, '')

    def chunk(self, chunk: ActionChunk) -> Any:
        """JointTrajectory of pseudo-joints; step i is complete at stamp + (i + 1) dt."""
        step_ns = round(chunk.dt_s * 1e9)
        points = [
            self._point((*delta, gripper), (*(delta / chunk.dt_s), 0.0), (i + 1) * step_ns)
            for i, (delta, gripper) in enumerate(zip(chunk.deltas, chunk.gripper, strict=True))
        ]
        return self._trajectory(DELTA_POSE_NAMES, points, chunk.stamp_ns, chunk.frame_id)

    def path(self, chunk: ActionChunk, position: np.ndarray) -> Any:
        """K + 1 poses from ``position`` (3,) on, translations only."""
        points = np.vstack([position, position + np.cumsum(chunk.deltas[:, :3], axis=0)])
        stamped = chunk.stamp_ns, chunk.frame_id
        poses = [self.pose(p, _IDENTITY, *stamped) for p in points]
        return self._stamped('nav_msgs/msg/Path', *stamped, poses=poses)

    def text(self, text: str) -> Any:
        return self._new('std_msgs/msg/String', data=text)

    def number(self, value: float) -> Any:
        return self._new('std_msgs/msg/Float64', data=float(value))

    def status(
        self,
        name: str,
        values: Mapping[str, Any],
        *,
        message: str,
        level: Any = None,
        hardware_id: str = '',
    ) -> Any:
        """Values become text, floats with four digits; ``level`` is one of this builder's."""
        texts = {k: f'{v:.4g}' if isinstance(v, float) else str(v) for k, v in values.items()}
        return self._new(
            'diagnostic_msgs/msg/DiagnosticStatus',
            level=self.OK if level is None else level,
            name=name,
            message=message,
            hardware_id=hardware_id,
            values=[
                self._new('diagnostic_msgs/msg/KeyValue', key=key, value=text)
                for key, text in texts.items()
            ],
        )

    def diagnostics(self, statuses: Iterable[Any], stamp_ns: int, frame_id: str = '') -> Any:
        kind = 'diagnostic_msgs/msg/DiagnosticArray'
        return self._stamped(kind, stamp_ns, frame_id, status=list(statuses))

    def header(self, stamp_ns: int, frame_id: str = '') -> Any:
        return self._new('std_msgs/msg/Header', stamp=self.time(stamp_ns), frame_id=frame_id)

    def _trajectory(
        self, names: Iterable[str], points: list[Any], stamp_ns: int, frame_id: str
    ) -> Any:
        kind = 'trajectory_msgs/msg/JointTrajectory'
        return self._stamped(kind, stamp_ns, frame_id, joint_names=list(names), points=points)

    def _point(
        self, positions: Sequence[float], velocities: Sequence[float], after_ns: int
    ) -> Any:
        return self._new(
            'trajectory_msgs/msg/JointTrajectoryPoint',
            positions=self._array('d', positions),
            velocities=self._array('d', velocities),
            accelerations=self._array('d', ()),
            effort=self._array('d', ()),
            time_from_start=self.duration(after_ns),
        )

    def _stamped(self, type_name: str, stamp_ns: int, frame_id: str = '', **values: Any) -> Any:
        return self._new(type_name, header=self.header(stamp_ns, frame_id), **values)

    def _new(self, type_name: str, **values: Any) -> Any:
        # rosbags' classes have no defaults: every field is given.
        return self._types[type_name](**values)


def _seconds(ns: int) -> dict[str, int]:
    sec, nanosec = divmod(ns, 1_000_000_000)
    return {'sec': sec, 'nanosec': nanosec}


def _named(names: str, values: Sequence[float]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
