"""One message of every kind that :mod:`vla_prune_ros.bags.messages` builds, and a bag of
them. Functions, for building a message needs ``rosbags``."""

import numpy as np

from vla_prune_ros.bags import messages as build
from vla_prune_ros.bags.writer import BagWriter
from vla_prune_ros.records import ActionChunk

STAMP = 1_700_000_000_123_456_789
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
SMOOTH = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (1, 48, 3))
DELTAS, GRIPPER = RNG.normal(size=(8, 6)) * 0.01, RNG.uniform(size=8)
CHUNK = ActionChunk(STAMP, 0.05, DELTAS, GRIPPER, 'base_link')
POSITION, QUAT = RNG.normal(size=3), np.array([0.5, -0.5, 0.5, 0.5])
NAMES, JOINTS, SPEEDS = ['a', 'b'], np.array([0.1, -0.2]), np.array([1.5, 0.0])
TWIST = RNG.normal(size=6)
PLAIN = {'visual_tokens': 128, 'policy_total_ms': 12.34567, 'mode': 'fine', 'armed': True}

MESSAGES = {
    '/image': lambda: build.image_message(PIXELS, STAMP, 'optical'),
    '/jpeg': lambda: build.compressed_message(SMOOTH, STAMP, 'optical'),
    '/pose': lambda: build.pose_message(POSITION, QUAT, STAMP, 'world'),
    '/joints': lambda: build.joint_message(NAMES, JOINTS, SPEEDS, STAMP),
    '/task': lambda: build.text_message('pick up the cube'),
    '/twist': lambda: build.twist_message(TWIST, STAMP, 'world'),
    '/gripper': lambda: build.gripper_message(0.25, STAMP, 'finger', 0.3),
    '/chunk': lambda: build.chunk_message(CHUNK),
    '/path': lambda: build.path_message(CHUNK, POSITION),
    '/inference': lambda: build.diagnostics_message('n', PLAIN, STAMP, build.WARN, 'late', 'hw'),
    '/number': lambda: build.number_message(2.5),
}


def write(path, storage='mcap', topics=MESSAGES, **options):
    with BagWriter(path, storage, **options) as writer:
        for i, topic in enumerate(topics):
            writer.write(topic, STAMP + i, MESSAGES[topic]())
    return path
