"""One message of every kind that a ``MessageBuilder`` makes, and a bag of them.
Functions, for building a message needs ``rosbags``."""

import numpy as np

from vla_prune_ros.bags.writer import BagWriter
from vla_prune_ros.bags.writer import message_builder as build
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


def status():
    return build().status('n', PLAIN, message='late', level=build().WARN, hardware_id='hw')


MESSAGES = {
    '/image': lambda: build().image(PIXELS, STAMP, 'optical'),
    '/jpeg': lambda: build().compressed_image(SMOOTH, STAMP, 'optical'),
    '/pose': lambda: build().pose(POSITION, QUAT, STAMP, 'world'),
    '/joints': lambda: build().joints(NAMES, JOINTS, SPEEDS, STAMP),
    '/task': lambda: build().text('pick up the cube'),
    '/twist': lambda: build().twist(TWIST, STAMP, 'world'),
    '/gripper': lambda: build().gripper(0.25, STAMP, 'finger', 0.3),
    '/chunk': lambda: build().chunk(CHUNK),
    '/path': lambda: build().path(CHUNK, POSITION),
    '/inference': lambda: build().diagnostics([status()], STAMP),
    '/number': lambda: build().number(2.5),
}


def write(path, storage='mcap', topics=MESSAGES, **options):
    with BagWriter(path, storage, **options) as writer:
        for i, topic in enumerate(topics):
            writer.write(topic, STAMP + i, MESSAGES[topic]())
    return path
