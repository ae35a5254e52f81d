"""Small recordings of a robot of the profile ``libero``, as a user's bag would be: every topic is
there, and its name is guessed right. For tests of a whole replay."""

import bag_writer
import numpy as np
from bag_writer import MS, T0

PRIMARY, WRIST = '/camera/primary/image_raw', '/camera/wrist/image_raw'
POSE, JOINTS, TASK = '/ee_pose', '/joint_states', '/instruction'
TWIST, GRIPPER = '/twist', '/gripper'
FRAME_MS = 100  # the node asks every 200 ms: at every second frame
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
INSTRUCTION = 'pick up the red cube'


def frame(seed, step, side=32):
    """uint8 (side, side, 3): waves that move a little with every step."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [
        np.sin(6.3 * (a * x + b * y) + p + 0.1 * step) for a, b, p in rng.uniform(0.5, 3, (3, 3))
    ]
    return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)


def rows(queries=6, seed=0, side=32):
    """Topic, time of receipt and message, for so many queries. The arm is fast, then slow, and the
    gripper closes in the middle."""
    out = [(TASK, T0, bag_writer.text_message(INSTRUCTION))]
    x = 0.4
    for step in range(2 * queries):
        at = T0 + step * FRAME_MS * MS
        speed = 0.5 if step < queries else 0.02
        closed = step >= queries
        fingers = (0.005, -0.005) if closed else (0.04, -0.04)
        pose = (x, 0.02 * seed, 0.3), (1, 0, 0, 0.02 * step)
        out += [
            (POSE, at, bag_writer.pose_message(at, *pose)),
            (JOINTS, at, bag_writer.joints_message(at, FINGERS, fingers)),
            (PRIMARY, at, bag_writer.image_message(at, frame(2 * seed, step, side))),
            (WRIST, at, bag_writer.image_message(at, frame(2 * seed + 1, step, side))),
            (TWIST, at, bag_writer.twist_message(at, (speed, 0, 0, 0, 0, 0.1))),
            (GRIPPER, at, bag_writer.trajectory_message(at, ['gripper'], [[1.0 - closed]], MS)),
        ]
        x += speed * 1e-3 * FRAME_MS
    return out


def write(path, storage='mcap', **options):
    """A bag of :func:`rows`."""
    return bag_writer.write(path, rows(**options), storage)
