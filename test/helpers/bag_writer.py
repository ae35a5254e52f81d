"""Bags for tests, written by ``rosbags``; loaded by path, for pytest's importlib mode has no
folder of tests to import."""

import numpy as np
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
T0 = 1_700_000_000_000_000_000
MS = 1_000_000


def header(stamp_ns, frame='base'):
    stamp = TYPES['builtin_interfaces/msg/Time'](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES['std_msgs/msg/Header'](stamp=stamp, frame_id=frame)


def pose_message(stamp_ns, position=(0, 0, 0), quat=(0, 0, 0, 1)):
    return TYPES['geometry_msgs/msg/PoseStamped'](
        header=header(stamp_ns),
        pose=TYPES['geometry_msgs/msg/Pose'](
            position=TYPES['geometry_msgs/msg/Point'](*map(float, position)),
            orientation=TYPES['geometry_msgs/msg/Quaternion'](*map(float, quat)),
        ),
    )


def twist_message(stamp_ns, numbers):
    vector = TYPES['geometry_msgs/msg/Vector3']
    return TYPES['geometry_msgs/msg/TwistStamped'](
        header=header(stamp_ns),
        twist=TYPES['geometry_msgs/msg/Twist'](
            linear=vector(*map(float, numbers[:3])), angular=vector(*map(float, numbers[3:]))
        ),
    )


def image_message(stamp_ns, pixels):
    return TYPES['sensor_msgs/msg/Image'](
        header=header(stamp_ns),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding='rgb8',
        is_bigendian=0,
        step=3 * pixels.shape[1],
        data=pixels.reshape(-1),
    )


def joints_message(stamp_ns, names, positions):
    return TYPES['sensor_msgs/msg/JointState'](
        header=header(stamp_ns),
        name=list(names),
        position=np.array(positions, float),
        velocity=np.zeros(0),
        effort=np.zeros(0),
    )


def trajectory_message(stamp_ns, names, rows, dt_ns):
    duration = TYPES['builtin_interfaces/msg/Duration']
    point = TYPES['trajectory_msgs/msg/JointTrajectoryPoint']
    none = np.zeros(0)
    return TYPES['trajectory_msgs/msg/JointTrajectory'](
        header=header(stamp_ns),
        joint_names=list(names),
        points=[
            point(
                positions=np.array(row, float),
                velocities=none,
                accelerations=none,
                effort=none,
                time_from_start=duration(sec=0, nanosec=(i + 1) * dt_ns),
            )
            for i, row in enumerate(rows)
        ],
    )


def text_message(text):
    return TYPES['std_msgs/msg/String'](data=text)


def write(path, rows, storage='mcap', compression=None):
    """``rows``: topic, time of receipt, message, in the order of the file."""
    plugin = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression:
        writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, receipt_ns, message in rows:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], receipt_ns, STORE.serialize_cdr(message, kind))
    return path
