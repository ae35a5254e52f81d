"""A recording of an arm whose motion is a formula: constant speeds, cameras at rates of their own.

Times are milliseconds after ``T0``, positions in m, openings of the gripper 0 closed ... 1 open.
Every function gives rows for ``bag_writer.write``: topic, time of receipt, message.
"""

import math

import bag_writer as writer
import numpy as np

T0, MS = writer.T0, writer.MS
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
TASK = 'pick up the cube'
BEGIN = np.array([0.1, -0.2, 0.3])
VELOCITY = np.array([0.04, -0.02, 0.1])
TURN = np.array([0.1, -0.2, 0.3])


def pixels(camera, ms, side=16):
    """uint8 (side, side, 3): squares of the camera, noise that no other frame has, and a block
    that crosses the picture within two seconds."""
    squares = np.random.default_rng(len(camera)).integers(40, 200, (4, 4, 3))
    noise = np.random.default_rng((len(camera), ms)).integers(0, 9, (side, side, 3))
    out = np.kron(squares, np.ones((side // 4, side // 4, 1))) + noise
    left, third = ms * side // 2000 % side, side // 3
    out[third : 2 * third, left : left + third] = (230, 60, 30)
    return out.astype(np.uint8)


def _rows(topic, times, delay, content, kind):
    """Messages that are received so many milliseconds after their stamps."""
    make = getattr(writer, f'{kind}_message')
    return [(topic, T0 + (ms + delay) * MS, make(T0 + ms * MS, *content(ms))) for ms in times]


def images(camera, times, delay=8, side=16):
    """On ``/<camera>``."""
    return _rows(f'/{camera}', times, delay, lambda ms: (pixels(camera, ms, side),), 'image')


def position(ms):
    """(3,) on a straight line."""
    return BEGIN + 1e-3 * ms * VELOCITY


def quaternion(ms):
    """x, y, z, w of a constant turn."""
    vector = 1e-3 * ms * TURN
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle else vector
    return *(math.sin(angle / 2) * axis), math.cos(angle / 2)


def poses(times, topic='/ee_pose', delay=1, place=position, turned=quaternion):
    return _rows(topic, times, delay, lambda ms: (place(ms), turned(ms)), 'pose')


def fingers(times, opening=lambda ms: 1.0, delay=1):
    """Both fingers on ``/joint_states``, 0.04 m when open; the second counts negative."""

    def content(ms):
        return FINGERS, (0.04 * opening(ms), -0.04 * opening(ms))

    return _rows('/joint_states', times, delay, content, 'joints')


def twists(times, delay=1, numbers=(*VELOCITY, *TURN)):
    """Commanded speeds on ``/twist``."""
    return _rows('/twist', times, delay, lambda ms: (numbers,), 'twist')


def grips(commands, delay=1):
    """Gripper commands: milliseconds -> position."""

    def content(ms):
        return ['gripper'], [[commands[ms]]], 300 * MS

    return _rows('/gripper', commands, delay, content, 'trajectory')


def task(ms, text=TASK):
    """On ``/instruction``."""
    return [('/instruction', T0 + ms * MS, writer.text_message(text))]


def arm(stop, opening=lambda ms: 1.0):
    """Measured state at 100 Hz."""
    return poses(range(0, stop, 10)) + fingers(range(0, stop, 10), opening)


def drive(stop=1200, opening=lambda ms: 1.0, side=16):
    """Without commands and task: the first camera at 20 Hz, the second at 10 Hz and 12 ms behind,
    so that they pair at 12, 112, 212, ... ms, received at 20, 120, 220, ... ms."""
    return (
        images('primary', range(0, stop, 50), side=side)
        + images('wrist', range(12, stop, 100), side=side)
        + arm(stop, opening)
    )


def stamp(message, ns):
    """Give a message another header stamp."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)


def write(path, rows, storage='mcap'):
    """In the order of receipt; ``storage`` is ``'mcap'``, ``'sqlite3'`` or ``'ros1'``."""
    ordered = sorted(rows, key=lambda row: row[1])
    if storage != 'ros1':
        return writer.write(path, ordered, storage)
    return writer.write_ros1(path.with_suffix('.bag'), ordered)
