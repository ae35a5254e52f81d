"""What a recorder would have heard of a scene.

The scene is the line of conftest.py, whose position is known in closed form; stamps, units and
signs are those of docs/interface.md, by hand."""

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from bag_frames import requests

from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.topics import guess_topics
from vla_prune_ros.bags.writer import BagWriter
from vla_prune_ros.evaluate.closed_loop.record_demo import RecordedScene, command, image_topic
from vla_prune_ros.evaluate.closed_loop.rollout import run_episode
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.runtime.messages import (
    read_gripper,
    read_image,
    read_joints,
    read_pose,
    read_text,
    read_twist,
)
from vla_prune_ros.sim.scene import twist_to_action

MS = 1_000_000
FIRST_NS = 1_000_000_000
FULL = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])  # 1 m/s along x, closing


def record(path, scene, drive, **options):
    """Messages by topic, and all in the order in which they are written."""
    with BagWriter(path) as writer:
        recorded = RecordedScene(scene, writer, **options)
        drive(recorded)
    with Bag(path) as bag:
        rows = list(bag.messages(bag.topics))
        topics = guess_topics(bag, LIBERO)
    return {name: [m for m in rows if m.topic == name] for name in bag.topics}, rows, topics


def steps(count, *seeds, action=FULL):
    def drive(scene):
        for seed in seeds:
            scene.reset(seed)
            for _ in range(count):
                scene.step(action)
            scene.end()

    return drive


def test_a_step_is_what_was_seen_and_then_what_was_told(tmp_path, line_scene):
    scene = line_scene()
    found, rows, _ = record(tmp_path / 'bag', scene, steps(4, 7))
    order = ['/ee_pose', '/joint_states', *map(image_topic, scene.cameras), '/twist', '/gripper']
    told = [m.topic for m in rows]
    assert told == ['/instruction', *(4 * order), *order[:-1]]
    for topic in order:
        stamps = [FIRST_NS + 50 * MS * i for i in range(len(found[topic]))]
        delays = {m.receipt_ns - m.stamp_ns for m in found[topic]}
        assert [m.stamp_ns for m in found[topic]] == stamps
        assert len(delays) == 1 and 0 < delays.pop() < 50 * MS
    assert [m.read(read_text) for m in found['/instruction']] == ['pick up the red cube']
    xs = [m.read(read_pose)[0][0] for m in found['/ee_pose']]
    np.testing.assert_allclose(xs, [0.007 + 0.05 * i for i in range(5)], atol=1e-12)
    names, positions, velocities = found['/joint_states'][2].read(read_joints)
    assert names == list(scene.names) and len(velocities) == 3
    np.testing.assert_allclose(positions, [0.107, 0.02, -0.02])
    np.testing.assert_allclose(
        [m.read(read_twist) for m in found['/twist']], [[1, 0, 0, 0, 0, 0]] * 4 + [[0] * 6]
    )
    assert [m.read(read_gripper) for m in found['/gripper']] == [0.0] * 4


def test_images_are_upright_and_of_their_instant(tmp_path, line_scene):
    """The scene marks the corner of row 0, which it renders at the bottom."""
    found, _, _ = record(tmp_path / 'bag', line_scene(), steps(3, 0))
    for camera in LIBERO.cameras:
        views = [m.read(read_image) for m in found[image_topic(camera)]]
        assert [int(view[-1, -1, 0]) for view in views] == [1, 2, 3, 4]
        assert all(view[0, 0, 0] == 0 for view in views)
        header = found[image_topic(camera)][0].message().header
        assert header.frame_id == f'{camera}_optical'


def test_the_next_episode_comes_behind_a_gap_that_all_notice(tmp_path, line_scene):
    found, rows, topics = record(tmp_path / 'bag', line_scene(), steps(3, 0, 1))
    first, second = (m.receipt_ns for m in found['/instruction'])
    assert first == FIRST_NS and second == FIRST_NS + 3 * 50 * MS + 50 * MS + 2000 * MS
    assert [m.receipt_ns for m in rows] == sorted(m.receipt_ns for m in rows)
    with Bag(tmp_path / 'bag') as bag:
        found, _ = requests(bag, topics, LIBERO, period_s=0.0)
    assert [f.epoch for f in found[:4]] == [found[0].epoch] * 4 and len(found) == 8
    assert [f.epoch for f in found[4:]] == [found[4].epoch] * 4
    assert found[4].epoch > found[0].epoch
    assert found[4].pair.stamp_ns == second


@pytest.mark.parametrize('size', [1.0, 0.3])
def test_a_command_is_the_action_in_si_units(size):
    actions = np.random.default_rng(5).uniform(-size, size, (50, 7))
    for action in actions:
        velocity, opening = command(action, 20.0)
        np.testing.assert_allclose(velocity[:3], action[:3] * 0.05 / 0.05, rtol=1e-12)  # m per s
        np.testing.assert_allclose(velocity[3:], action[3:6] * 0.5 / 0.05, rtol=1e-12)  # rad per s
        back = twist_to_action(velocity[:3], velocity[3:], opening, 20.0)
        np.testing.assert_allclose(back, action, atol=1e-15)
    assert command(np.array([0, 0, 0, 0, 0, 0, -1.0]), 20.0)[1] == 1.0  # open


def test_a_policy_drives_it_like_the_scene_itself(tmp_path, line_scene, script_policy):
    """Commands beyond the limits stay in the bag as they were sent; the scene clips them."""
    plain, scene = line_scene(goal_m=0.97), line_scene(goal_m=0.97)
    alone = run_episode(script_policy(history_s=1.0), plain, 3)

    def drive(recorded):
        result = run_episode(script_policy(history_s=1.0, value=1.5), recorded, 3)
        recorded.end()
        assert (result.success, result.steps, result.task) == (True, alone.steps, 'pick_red')
        assert recorded.steps == alone.steps

    found, _, _ = record(tmp_path / 'bag', scene, drive)
    np.testing.assert_array_equal(scene.actions, plain.actions)
    assert [m.read(read_twist)[0] for m in found['/twist']] == [1.5] * alone.steps + [0.0]
    assert scene.rendered_at == list(range(alone.steps + 1))  # each instant once
