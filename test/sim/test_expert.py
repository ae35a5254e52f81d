"""The scripted expert does what it is asked, from disturbed states too, and remembers nothing.

Success is judged by the tasks' predicates, which have tests of their own.
"""

import numpy as np
import pytest

from vla_prune_ros.sim.two_cubes import TASKS

pytest.importorskip('robosuite', reason='the sim extra is not installed')

LIMIT = 150
OPEN = np.array([0.0] * 6 + [-1.0])


def expert(scene):
    from vla_prune_ros.sim.expert import expert_action

    return expert_action(scene)


def ask(scene, name, seed=0):
    """Reset to the ``seed``-th episode of that task."""
    scene.reset(seed * len(TASKS) + list(TASKS).index(name))
    assert scene.task.name == name


def solve(scene, limit=LIMIT):
    """Whether the expert gets there within ``limit`` steps."""
    for _ in range(limit):
        scene.step(expert(scene))
        if scene.success():
            return True
    return False


def until(scene, condition):
    """Let the expert act until the condition holds."""
    for _ in range(LIMIT):
        if condition():
            return
        scene.step(expert(scene))
    pytest.fail('the state that the test needs did not come')


def burst(scene, rng, steps):
    """A short random motion with a random gripper command."""
    action = np.concatenate(
        [rng.uniform(-1, 1, 3), rng.uniform(-0.3, 0.3, 3), [rng.choice([-1, 1])]]
    )
    for _ in range(steps):
        scene.step(action)


@pytest.mark.parametrize('seed', [0, 10])
@pytest.mark.parametrize('name', TASKS)
def test_solves_each_task_and_leaves_the_other_cube_alone(scene, name, seed):
    ask(scene, name, seed)
    assert not scene.success()
    assert solve(scene)
    assert scene.wrong_object() == ''


@pytest.mark.parametrize('name', ['stack_red_on_green', 'place_green_left'])
def test_what_was_done_stays_done(scene, name):
    ask(scene, name)
    assert solve(scene)
    for _ in range(30):
        scene.step(expert(scene))
    assert scene.success()
    assert scene.state().ee_position[2] > scene.cube_position()[2] + 0.08


def test_a_lifted_cube_is_held_still(scene):
    ask(scene, 'pick_green')
    assert solve(scene)
    for _ in range(60):
        scene.step(expert(scene))
    before = scene.cube_position()
    for _ in range(10):
        scene.step(expert(scene))
    assert scene.success() and np.abs(scene.cube_position() - before).max() < 2e-3


@pytest.mark.parametrize('name', TASKS)
def test_labels_any_state_within_the_limits_and_from_the_state_alone(scene, name):
    rng = np.random.default_rng(3)
    ask(scene, name, seed=5)
    for _ in range(12):
        burst(scene, rng, 4)
        action = expert(scene)
        assert action.shape == (7,) and action.dtype == np.float64
        assert np.isfinite(action).all() and np.abs(action).max() <= 1.0
        assert action[6] in (-1.0, 1.0)
        np.testing.assert_array_equal(action, expert(scene))


def test_a_half_closed_gripper_opens_before_it_comes_down(scene):
    ask(scene, 'pick_red', seed=1)
    until(scene, lambda: scene.state().ee_position[2] < 0.89)
    for _ in range(8):
        scene.step(np.array([0.0] * 6 + [1.0]))
    fingers = scene.state().joint_positions[7:]
    assert fingers[0] - fingers[1] < 0.055  # 15 mm of room, or else the fingers hit the cube
    action = expert(scene)
    assert action[2] > 0.0 and action[6] == -1.0
    assert solve(scene)


def test_a_cube_dropped_on_the_way_is_picked_up_again(scene):
    ask(scene, 'place_red_left', seed=2)
    until(scene, lambda: scene.cube_position()[2] > 0.87)
    for _ in range(8):
        scene.step(OPEN)
    assert 'table' in scene.cubes()['red'].touching
    assert solve(scene)


def test_a_cube_moved_away_under_the_hand_is_followed(scene):
    ask(scene, 'stack_green_on_red', seed=3)
    until(scene, lambda: scene.state().ee_position[2] < 0.86)
    sim = scene.env.sim
    pose = sim.data.get_joint_qpos('cubeB_joint0').copy()
    pose[0] += 0.06 if pose[0] < scene.cube_position('red')[0] - 0.1 else -0.06
    sim.data.set_joint_qpos('cubeB_joint0', pose)
    sim.forward()
    assert solve(scene)


def test_fingers_go_between_neighbours(scene):
    """Side by side along the fingers' first direction, 12 mm apart: the hand has to turn."""
    ask(scene, 'pick_red', seed=4)
    for colour, joint, y in (('red', 'cubeA_joint0', 0.0), ('green', 'cubeB_joint0', 0.057)):
        z = scene.cube_position(colour)[2]
        scene.env.sim.data.set_joint_qpos(joint, [0.0, y, z, 1.0, 0.0, 0.0, 0.0])
    scene.env.sim.forward()
    green = scene.cube_position('green')
    assert solve(scene)
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
    assert solve(scene)


@pytest.mark.parametrize('name', TASKS)
def test_recovers_from_bursts_of_random_motion(scene, name):
    rng = np.random.default_rng(0)
    ask(scene, name, seed=20)
    burst(scene, rng, 8)
    for _ in range(2):
        for _ in range(15):
            scene.step(expert(scene))
        burst(scene, rng, 5)
    assert solve(scene, 2 * LIMIT)
