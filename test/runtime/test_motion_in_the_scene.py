"""libero.yaml's motion source on the simulator's own joint states.

Expected speeds are differences of poses that MuJoCo computes: of the hand's, over a joint motion
that is too small to bend, and over whole control steps of a moving arm.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('robosuite', reason='the sim extra is not installed')
pytest.importorskip('pinocchio', reason='the motion extra is not installed')

from scipy.spatial.transform import Rotation

from vla_prune_ros.runtime.params import load_params

ROOT = Path(__file__).resolve().parents[2]
HAND = 'robot0_right_hand'
STEP_NS = 50_000_000
MOTIONS = {
    'forward': [0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    'aside and up': [0.0, 0.4, 0.3, 0.0, 0.0, 0.0],
    'down and turning': [0.2, 0.0, -0.5, 0.0, 0.3, 0.0],
}


@pytest.fixture(scope='module')
def scene(renderer):
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(image_size=64)
    yield scene
    scene.close()


def source(**changed):
    """The motion source of libero.yaml."""
    return replace(load_params(ROOT / 'config' / 'libero.yaml'), **changed).motion()


def hand(scene):
    """Position (3,) and rotation of the hand in the world, as MuJoCo has them now."""
    data = scene.env.sim.data
    matrix = data.get_body_xmat(HAND).reshape(3, 3)
    return np.array(data.get_body_xpos(HAND)), Rotation.from_matrix(matrix)


def speeds(before, after, seconds):
    """Linear and angular speed and vertical velocity between two poses."""
    velocity = (after[0] - before[0]) / seconds
    turned = (after[1] * before[1].inv()).magnitude() / seconds
    return np.linalg.norm(velocity), turned, velocity[2]


def numbers(hint):
    return np.array([hint.linear_m_s, hint.angular_rad_s, hint.vertical_m_s])


def feed(motion, scene, now_ns):
    state = scene.state()
    motion.on_joints(now_ns, state.joint_names, state.joint_positions, state.joint_velocities)
    motion.on_pose(now_ns, state.ee_position, state.ee_quat_xyzw)
    return motion.at(now_ns)


def nudged(scene, seconds):
    """The hand after its joints went on for ``seconds`` at their velocities; puts it back."""
    sim = scene.env.sim
    q = sim.data.qpos.copy()
    state = scene.state()
    for name, velocity in zip(state.joint_names, state.joint_velocities, strict=True):
        simulated = name.replace('panda_j', 'robot0_j').replace('panda_f', 'gripper0_f')
        sim.data.qpos[sim.model.get_joint_qpos_addr(simulated)] += seconds * velocity
    sim.forward()
    moved = hand(scene)
    sim.data.qpos[:] = q
    sim.forward()
    return moved


@pytest.mark.parametrize('action', MOTIONS.values(), ids=MOTIONS)
def test_jacobian_against_the_hands_poses(scene, action):
    """Their derivative at once, central differences over 0.2 ms: the URDF's arm is the scene's.
    Later those of whole steps within 8 %: the controller lets the arm swing within each
    step, and the messages are of its end."""
    motion, poses = source(), source(motion_source='pose')
    scene.reset(0)
    before, earlier = None, None
    for step in range(1, 13):
        scene.step(np.array([*action, -1.0]))
        hint = feed(motion, scene, step * STEP_NS)
        from_pose = feed(poses, scene, step * STEP_NS)
        assert hint is not None and hint.source == 'joint_velocities'
        want = speeds(nudged(scene, -1e-4), nudged(scene, 1e-4), 2e-4)
        np.testing.assert_allclose(numbers(hint), want, rtol=2e-3, atol=2e-5)
        now = hand(scene)
        if step > 8:
            mean = (numbers(hint) + numbers(earlier)) / 2
            want = speeds(before, now, 0.05)
            assert mean[0] == pytest.approx(want[0], rel=0.08) and want[0] > 0.1
            if want[1] > 0.1:
                assert mean[1] == pytest.approx(want[1], rel=0.08)
                assert from_pose.angular_rad_s == pytest.approx(mean[1], rel=0.08)
            else:  # no rotation: the grip point, whose pose the node gets, moves as the hand does
                assert from_pose.linear_m_s == pytest.approx(mean[0], rel=0.08)
        before, earlier = now, hint
