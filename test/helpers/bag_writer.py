"""Bags for tests, written by ``rosbags``, and their messages. ``T0``, times and stamps are ns."""

import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from vla_prune_ros.bags.writer import message_builder

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
BUILD = message_builder()
T0 = 1_700_000_000_000_000_000
MS = 1_000_000
text_message = BUILD.text


def pose_message(stamp_ns, position=(0, 0, 0), quat=(0, 0, 0, 1)):
    return BUILD.pose(position, quat, stamp_ns, 'base')


def twist_message(stamp_ns, numbers):
    return BUILD.twist(numbers, stamp_ns, 'base')


def image_message(stamp_ns, pixels):
    return BUILD.image(pixels, stamp_ns, 'base')


def joints_message(stamp_ns, names, positions):
    return BUILD.joints(names, positions, (), stamp_ns)


def trajectory_message(stamp_ns, names, rows, dt_ns):
    none = np.zeros(0)
    points = [
        TYPES['trajectory_msgs/msg/JointTrajectoryPoint'](
            positions=np.array(row, float),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=BUILD.duration((i + 1) * dt_ns),
        )
        for i, row in enumerate(rows)
    ]
    kind = TYPES['trajectory_msgs/msg/JointTrajectory']
    return kind(header=BUILD.header(stamp_ns, 'base'), joint_names=list(names), points=points)


def write(path, rows, storage='mcap', compression=None):
    """``rows``: topic, time of receipt, message, in the order of the file; a message may be
    its type and what is stored instead of it."""
    plugin = {'sqlite3': StoragePlugin.SQLITE3, 'mcap': StoragePlugin.MCAP}[storage]
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression:
        writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, receipt_ns, message in rows:
            raw = isinstance(message, tuple)
            kind = message[0] if raw else message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            data = message[1] if raw else STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], receipt_ns, data)
    return path


def write_ros1(path, rows):
    store, connections = get_typestore(Stores.ROS1_NOETIC), {}
    with Writer1(path) as out:
        for topic, receipt_ns, message in rows:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = out.add_connection(topic, kind, typestore=store)
            raw = STORE.cdr_to_ros1(STORE.serialize_cdr(message, kind), kind)
            out.write(connections[topic], receipt_ns, raw)
    return path
