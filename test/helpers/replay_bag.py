"""Small recordings of a robot of the profile ``libero``, for tests that replay bags."""

import bag_writer
import numpy as np
from bag_writer import MS, T0

PRIMARY, WRIST = '/camera/primary/image_raw', '/camera/wrist/image_raw'
POSE, JOINTS, TASK = '/ee_pose', '/joint_states', '/instruction'
TWIST, GRIPPER = '/twist', '/gripper'
TOPICS = (PRIMARY, WRIST, POSE, JOINTS, TASK, TWIST, GRIPPER)
FRAME_MS, QUERY_MS = 100, 200  # 10 Hz; the node's replan period
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')


def frame(seed, step, side=32):
    """uint8 (side, side, 3): waves that move a little with every step."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [
        np.sin(6.3 * (a * x + b * y) + p + 0.1 * step) for a, b, p in rng.uniform(0.5, 3, (3, 3))
    ]
    return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)


def rows(queries=6, seed=0, start_ns=T0, topics=TOPICS):
    """Topic, time of receipt and message: so many queries, for the node would ask at every second
    frame. The arm goes ahead and the gripper closes half-way."""
    out = [(TASK, start_ns, bag_writer.text_message('pick up the red cube'))]
    for step in range(2 * queries):
        at = start_ns + step * FRAME_MS * MS
        speed = 0.05 * (1 + np.sin(0.7 * step + seed))
        closed = step >= queries
        position = (0.4 + 0.01 * step, 0.02 * seed, 0.3 - 0.002 * step)
        fingers = (0.005, -0.005) if closed else (0.04, -0.04)
        out += [
            (POSE, at, bag_writer.pose_message(at, position, (1, 0, 0, 0.02 * step))),
            (JOINTS, at, bag_writer.joints_message(at, FINGERS, fingers)),
            (PRIMARY, at, bag_writer.image_message(at, frame(2 * seed, step))),
            (WRIST, at, bag_writer.image_message(at, frame(2 * seed + 1, step))),
            (TWIST, at, bag_writer.twist_message(at, (speed, 0, -0.02, 0, 0, 0.1))),
            (GRIPPER, at, bag_writer.trajectory_message(at, ['gripper'], [[1.0 - closed]], MS)),
        ]
    return [row for row in out if row[0] in topics]


def write(path, storage='mcap', **options):
    """A bag of :func:`rows`."""
    return bag_writer.write(path, rows(**options), storage)
