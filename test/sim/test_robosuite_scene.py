"""The two-cube scene: determinism, image convention, motion, success.

Images are expected where the pinhole model and the camera poses that MuJoCo reports place them,
motion as the closed solution of a critically damped controller has it.
"""

import math

import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.panda import MUJOCO_CAMERAS
from vla_prune_ros.sim.rendering import may_be_seen
from vla_prune_ros.sim.scene import twist_to_action
from vla_prune_ros.sim.two_cubes import TwoCubeScene

pytest.importorskip('robosuite', reason='the sim extra is not installed')

SIZE = 128


@pytest.fixture(scope='module')
def scene(renderer):
    scene = TwoCubeScene(image_size=SIZE)
    yield scene
    scene.close()


def drive(scene, action, steps):
    """State after every step, the one before the first included."""
    states = [scene.state()]
    for _ in range(steps):
        scene.step(np.asarray(action))
        states.append(scene.state())
    return states


def project(scene, camera, point):
    """(row, column) of a world point in an image whose row 0 is the bottom: the pinhole model.

    MuJoCo cameras look along -z, x to the right, y up; ``fovy`` is the full vertical angle.
    """
    sim = scene.env.sim
    index = sim.model.camera_name2id(MUJOCO_CAMERAS[camera])
    rotation = sim.data.cam_xmat[index].reshape(3, 3)
    x, y, z = rotation.T @ (point - sim.data.cam_xpos[index])
    focal = SIZE / 2 / math.tan(math.radians(sim.model.cam_fovy[index]) / 2)
    return round(SIZE / 2 + focal * y / -z), round(SIZE / 2 + focal * x / -z)


def dominance(image, row, column, channel):
    """How much the channel exceeds the other two around a pixel, mean of 3x3, in grey levels."""
    patch = image[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(axis=0)
    return patch[channel] - np.delete(patch, channel).max()


def test_same_seed_same_episode_whatever_came_before(scene):
    def episode():
        scene.reset(3)
        drive(scene, [0.3, -0.2, -0.4, 0.0, 0.0, 0.5, 1.0], 6)
        return vars(scene.state()), scene.images(), scene.instruction

    first = episode()
    scene.reset(4)
    drive(scene, [-1.0, 1.0, -1.0, 0.5, 0.5, 0.5, 1.0], 15)
    np.testing.assert_equal(episode(), first)


def test_a_seed_fixes_the_task_and_where_cubes_lie(scene):
    """Apart on the table, within the region; NumPy's global generator is left alone."""
    np.random.seed(11)
    expected = np.random.rand()
    np.random.seed(11)
    places = set()
    for seed in range(6):
        scene.reset(seed)
        assert scene.time_s == 0.0
        assert scene.instruction == f'pick up the {("red", "green")[seed % 2]} cube'
        red, green = scene.cube_position('red'), scene.cube_position('green')
        for cube, half in ((red, 0.020), (green, 0.025)):
            assert np.abs(cube[:2]).max() <= 0.101
            assert cube[2] == pytest.approx(0.8 + half, abs=2e-3)  # the table's top is at 0.8 m
        assert np.linalg.norm((red - green)[:2]) > 0.045
        places.add(tuple(red.round(4)))
    assert len(places) == 6 and np.random.rand() == expected


@pytest.mark.parametrize('camera', ['primary', 'wrist'])
def test_images_are_bottom_up_where_the_pinhole_model_says(scene, put, camera):
    scene.reset(0)
    # Off the middle lines, so that a flipped image shows something else there.
    put(scene, 'red', (0.06, 0.09, 0.82))
    put(scene, 'green', (0.03, -0.09, 0.825))
    image = scene.images()[camera]
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
    for colour, channel in (('red', 0), ('green', 1)):
        row, column = project(scene, camera, scene.cube_position(colour))
        assert dominance(image, row, column, channel) > 25
        for other_way in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
            assert dominance(other_way, row, column, channel) < 15


def test_culling_changes_no_pixel(scene):
    sim = scene.env.sim
    rng = np.random.default_rng(0)
    skipped = 0
    for seed in range(2):
        scene.reset(seed)
        for _ in range(3):
            drive(scene, rng.uniform(-1.0, 1.0, 7), 5)
            images = scene.images()
            for name, raw in MUJOCO_CAMERAS.items():
                complete = sim.render(width=SIZE, height=SIZE, camera_name=raw)
                np.testing.assert_array_equal(images[name], complete)
                skipped += np.count_nonzero(~may_be_seen(sim.model, sim.data, raw))
    assert skipped > 0


def test_state_follows_liberos_conventions(scene):
    scene.reset(0)
    state = scene.state()
    arm = [f'panda_joint{i}' for i in range(1, 8)]
    assert list(state.joint_names) == [*arm, 'panda_finger_joint1', 'panda_finger_joint2']
    assert state.joint_positions.shape == state.joint_velocities.shape == (9,)
    assert state.joint_positions[7] > 0.03 > -0.03 > state.joint_positions[8]
    assert np.linalg.norm(state.ee_quat_xyzw) == pytest.approx(1.0)
    # The hand points down: half a turn about x, LIBERO's training range is 2.5 .. 3.46 rad.
    angle = 2.0 * math.acos(state.ee_quat_xyzw[3]) * state.ee_quat_xyzw[0]
    assert 2.5 < angle < 3.46


def critically_damped_path(delta, steps):
    """Distance covered when each 50 ms step sets the goal ``delta`` ahead of where the arm is.

    OSC_POSE with kp = 150 and damping ratio 1 makes the arm a unit mass with
    ``e'' + 2 w e' + w**2 e = 0``, w = sqrt(150): ``e(t) = (delta + b t) exp(-w t)``, b from the
    speed at the step's start. The joints' damping, which is not in here, costs up to 12 %.
    """
    w, period, speed, path = math.sqrt(150.0), 0.05, 0.0, 0.0
    decay = math.exp(-w * period)
    for _ in range(steps):
        b = w * delta - speed
        path += delta - (delta + b * period) * decay
        speed = (w * (delta + b * period) - b) * decay
    return path


@pytest.mark.parametrize(('axis', 'speed'), [(2, 0.2), (2, -0.1), (0, 0.1), (1, -0.2)])
def test_twist_moves_the_arm_as_its_controller_lags(scene, axis, speed):
    scene.reset(0)
    twist = np.zeros(3)
    twist[axis] = speed
    states = drive(scene, twist_to_action(twist, np.zeros(3), 1.0, scene.control_hz), 20)
    moved = states[-1].ee_position - states[0].ee_position
    expected = critically_damped_path(speed / scene.control_hz, 20)
    assert moved[axis] == pytest.approx(expected, rel=0.15)
    assert np.abs(np.delete(moved, axis)).max() < 0.15 * abs(expected)
    # The lag itself: about a quarter of speed times time (0.2655 in the steady state).
    assert 0.2 < moved[axis] / (speed * 20 / scene.control_hz) < 0.3


def test_angular_twist_turns_about_the_worlds_axis(scene):
    scene.reset(0)
    hand = scene.env.robots[0].robot_model.eef_name
    before = scene.env.sim.data.get_body_xmat(hand).copy()
    drive(scene, twist_to_action(np.zeros(3), np.array([0.0, 0.0, 1.0]), 1.0, 20.0), 20)
    turn = scene.env.sim.data.get_body_xmat(hand) @ before.T
    assert math.atan2(turn[1, 0], turn[0, 0]) == pytest.approx(0.22, abs=0.05)
    assert turn[2, 2] > 0.995


def test_velocities_are_the_slope_of_the_positions(scene):
    scene.reset(0)
    states = drive(scene, [0.2, 0.0, -0.2, 0.0, 0.0, 0.0, -1.0], 12)[6:]
    assert scene.time_s == pytest.approx(0.6)
    slope = (states[-1].joint_positions - states[0].joint_positions)[:7] / (6 * 0.05)
    mean = np.mean([s.joint_velocities[:7] for s in states], axis=0)
    np.testing.assert_allclose(mean, slope, atol=0.15 * np.abs(slope).max())


def test_a_second_scene_leaves_the_first_alone(scene):
    scene.reset(2)
    before = scene.images()
    other = TwoCubeScene(image_size=64)
    assert other.images()['wrist'].shape == (64, 64, 3)
    during = scene.images()
    other.close()
    other.close()
    after = scene.images()
    np.testing.assert_equal(before, during)
    np.testing.assert_equal(before, after)


def test_a_scene_without_images_moves_as_one_with_them(scene):
    blind = TwoCubeScene(render=False)
    with pytest.raises(VlaPruneError, match='render=True'):
        blind.images()
    ends = []
    for each in (scene, blind):
        each.reset(6)
        ends.append(drive(each, [0.3, 0.1, -0.5, 0.0, 0.2, 0.4, 1.0], 10)[-1])
    np.testing.assert_array_equal(ends[0].joint_positions, ends[1].joint_positions)
    blind.close()
    blind.close()
    assert scene.images()['wrist'].shape == (SIZE, SIZE, 3)
