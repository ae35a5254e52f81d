"""The scripted expert does what it is asked, from disturbed states too, and remembers nothing, by
the tasks' predicates, which have tests of their own."""

import numpy as np
import pytest

from vla_prune_ros.sim.expert import expert_action
from vla_prune_ros.sim.two_cubes import TASKS

pytest.importorskip('robosuite', reason='the sim extra is not installed')

LIMIT = 150
OPEN = np.array([0.0] * 6 + [-1.0])


def ask(scene, name, seed=0):
    """Reset to the ``seed``-th episode of that task."""
    scene.reset(seed * len(TASKS) + list(TASKS).index(name))
    assert scene.task.name == name and not scene.success()


def repeat(scene, action, steps):
    for _ in range(steps):
        scene.step(action)


def solve(scene, done=None, limit=LIMIT):
    """Let the expert act until it is done, by default with its task."""
    for _ in range(limit):
        scene.step(expert_action(scene))
        if (done or scene.success)():
            return
    pytest.fail(f'not there after {limit} steps')


@pytest.mark.parametrize('name', TASKS)
def test_solves_each_task_and_leaves_the_other_cube_alone(scene, name):
    """What was done stays done: the hand goes away, or holds the cube still."""
    ask(scene, name, seed=10)
    solve(scene)
    assert scene.wrong_object() == ''
    lifted = scene.task.goal is None
    for _ in range(60 if lifted else 30):
        scene.step(expert_action(scene))
    before = scene.cube_position()
    for _ in range(5):
        scene.step(expert_action(scene))
    assert scene.success() and np.abs(scene.cube_position() - before).max() < 2e-3
    assert lifted or scene.state().ee_position[2] > before[2] + 0.08


@pytest.mark.parametrize('name', TASKS)
def test_labels_any_state_within_the_limits_and_from_the_state_alone(scene, name):
    """And recovers from bursts of random motion."""
    rng = np.random.default_rng(0)
    ask(scene, name, seed=20)
    for _ in range(6):
        motion = [*rng.uniform(-1, 1, 3), *rng.uniform(-0.3, 0.3, 3), rng.choice([-1, 1])]
        repeat(scene, np.array(motion), 5)
        for _ in range(4):
            action = expert_action(scene)
            assert action.shape == (7,) and action.dtype == np.float64
            assert np.isfinite(action).all() and np.abs(action).max() <= 1.0
            assert action[6] in (-1.0, 1.0)
            np.testing.assert_array_equal(action, expert_action(scene))
            scene.step(action)
    solve(scene, limit=2 * LIMIT)


def test_a_half_closed_gripper_opens_before_it_comes_down(scene):
    ask(scene, 'pick_red', seed=1)
    solve(scene, lambda: scene.state().ee_position[2] < 0.89)
    repeat(scene, -OPEN, 8)
    fingers = scene.state().joint_positions[7:]
    assert fingers[0] - fingers[1] < 0.055  # 15 mm of room, or else the fingers hit the cube
    action = expert_action(scene)
    assert action[2] > 0.0 and action[6] == -1.0
    solve(scene)


def test_a_cube_dropped_on_the_way_is_picked_up_again(scene):
    ask(scene, 'place_red_left', seed=2)
    solve(scene, lambda: scene.cube_position()[2] > 0.87)
    repeat(scene, OPEN, 8)
    assert 'table' in scene.cubes()['red'].touching
    solve(scene)


def test_a_cube_moved_away_under_the_hand_is_followed(scene, put):
    ask(scene, 'stack_green_on_red', seed=3)
    solve(scene, lambda: scene.state().ee_position[2] < 0.86)
    x, y, z = scene.cube_position('green')
    put(scene, 'green', (x + (0.06 if x < scene.cube_position('red')[0] - 0.1 else -0.06), y, z))
    solve(scene)


def test_fingers_go_between_neighbours(scene, put):
    """Side by side along the fingers' first direction, 12 mm apart: the hand has to turn."""
    ask(scene, 'pick_red', seed=4)
    for colour, y in (('red', 0.0), ('green', 0.057)):
        put(scene, colour, (0.0, y, scene.cube_position(colour)[2]))
    green = scene.cube_position('green')
    solve(scene)
    assert np.abs(scene.cube_position('green') - green).max() < 5e-3


@pytest.mark.parametrize(
    'arm_rad',
    [
        (0.126, 1.649, 0.004, -0.070, -0.004, 1.550, 0.745),  # elbow straight, at its stop
        (0.324, 0.975, -0.651, -1.679, -2.277, 3.752, 1.592),  # forearm aside, joint 6 at its stop
    ],
)
def test_gets_away_from_the_joints_stops(scene, arm_rad):
    ask(scene, 'pick_green')
    sim = scene.env.sim
    for number, value in enumerate(arm_rad, start=1):
        sim.data.set_joint_qpos(f'robot0_joint{number}', value)
        sim.data.set_joint_qvel(f'robot0_joint{number}', 0.0)
    sim.forward()
    solve(scene)
