"""The drawn scene: speeds, stamps and noise, measured in the pictures.

Expected numbers: 200 pixels per metre, 0.05 s per step and 0.6 or 0.04 m/s are 6 or 0.4 pixels
per step; the difference of two frames of noise s has the deviation s sqrt(2).
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from vla_prune_ros.evaluate.bench.pruning import BenchScene
from vla_prune_ros.profiles import ALOHA, LIBERO

RED = np.array([200, 40, 30])


@pytest.fixture(scope='module')
def scene():
    return BenchScene(LIBERO, queries=8, noise_levels=3.0)


def block_x(frame):
    """Mean column of the pixels that look like the block."""
    near = (np.abs(frame.astype(int) - RED) < 16).all(axis=2)
    assert near.sum() > 1000
    return np.nonzero(near)[1].mean()


def difference(a, b):
    return a.astype(float) - b.astype(float)


def test_frames_are_what_the_policy_takes_and_repeat(scene):
    frames = scene.frames(5)
    assert list(frames) == list(LIBERO.cameras)
    assert all(f.shape == (256, 256, 3) and f.dtype == np.uint8 for f in frames.values())
    again = BenchScene(LIBERO, queries=8).frames(5)
    assert all((frames[c] == again[c]).all() for c in frames)
    assert (BenchScene(LIBERO, queries=8, seed=1).frames(5)['primary'] != frames['primary']).any()


def test_the_block_goes_fast_then_slowly(scene):
    fast = block_x(scene.frames(3)['primary']) - block_x(scene.frames(1)['primary'])
    assert fast == pytest.approx(12, abs=0.5)
    slow = block_x(scene.frames(30)['primary']) - block_x(scene.frames(20)['primary'])
    assert abs(slow) == pytest.approx(4, abs=1)


def test_noise_is_fresh_and_as_strong_as_asked(scene):
    rows = slice(0, 60)  # above the block
    d = difference(scene.frames(1)['primary'], scene.frames(2)['primary'])[rows]
    assert d.std() == pytest.approx(3 * math.sqrt(2), rel=0.03)
    assert abs(d.mean()) < 0.1


def test_the_other_camera_sees_everything_move(scene):
    one, two = scene.frames(1)['wrist'], scene.frames(2)['wrist']
    assert difference(one, two).std() > 2 * 3 * math.sqrt(2)
    shifted = difference(one[:, 6:], two[:, :-6])
    assert shifted.std() == pytest.approx(3 * math.sqrt(2), rel=0.03)


def test_stamps_are_a_control_period_apart_and_chunks_follow_each_other(scene):
    first, second = scene.observation(0, None), scene.observation(1, None)
    assert second.stamp_ns - first.stamp_ns == 8 * 50_000_000
    between = [scene.stamp_ns(s) - first.stamp_ns for s in scene.steps_after(0)]
    assert between == [50_000_000 * (i + 1) for i in range(8)]
    last = list(scene.steps_after(0))[-1]
    assert (scene.frames(last)['wrist'] == second.images['wrist']).all()


def test_the_last_step_of_any_profile_has_frames():
    for profile in (ALOHA, replace(LIBERO, cameras=('one',))):
        scene = BenchScene(profile, queries=2)
        assert list(scene.frames(2 * profile.chunk)) == list(profile.cameras)


def test_a_long_episode_stays_in_the_picture():
    scene = BenchScene(LIBERO, queries=40)
    assert all(20 <= block_x(scene.frames(s)['primary']) <= 236 for s in range(0, 321, 7))
