"""What goes into a policy and what comes out of it, without ROS: conventions of LIBERO.

Expected numbers are worked out by hand; orientation comes from SciPy.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_prune_ros.evaluate.closed_loop.driving import env_actions, observe, proprio, upright
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.records import Inference
from vla_prune_ros.sim.scene import SceneState

HAND_DOWN = np.array([np.pi, 0.0, 0.0])


def state(quat=(1.0, 0.0, 0.0, 0.0)):
    return SceneState(
        np.array([-0.1, 0.2, 1.03]),
        np.array(quat),
        ('joint', 'finger1', 'finger2'),
        np.array([0.7, 0.039, -0.038]),
        np.zeros(3),
    )


def test_frames_are_turned_by_half_a_turn():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    turned = upright({'primary': picture})['primary']
    assert turned.flags['C_CONTIGUOUS'] and turned.shape == (2, 3, 3)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(turned[row, column], picture[1 - row, 2 - column])


@pytest.mark.parametrize('tilt', [(0.0, 0.0), (0.3, -0.2)])
@pytest.mark.parametrize('sign', [1, -1])
def test_the_state_is_liberos_on_the_branch_of_the_statistics(tilt, sign):
    rotation = Rotation.from_rotvec(HAND_DOWN) * Rotation.from_rotvec([*tilt, 0.1])
    got = proprio(state(sign * rotation.as_quat()), HAND_DOWN)
    assert got.shape == (8,) and got.dtype == np.float64
    np.testing.assert_array_equal(got[:3], [-0.1, 0.2, 1.03])
    np.testing.assert_array_equal(got[6:], [0.039, -0.038])
    assert (Rotation.from_rotvec(got[3:6]).inv() * rotation).magnitude() < 1e-6
    assert np.linalg.norm(got[3:6] - HAND_DOWN) < np.pi


def policy_with(mean, **changes):
    bounds = None if mean is None else SimpleNamespace(mean=np.asarray(mean))
    statistics = SimpleNamespace(proprio=bounds)
    return SimpleNamespace(profile=replace(LIBERO, **changes), statistics=statistics)


def test_an_observation_holds_the_scene_of_this_instant():
    scene = SimpleNamespace(state=state, instruction='pick up the red cube')
    images = {'primary': np.zeros((2, 2, 3), np.uint8), 'wrist': np.ones((2, 2, 3), np.uint8)}
    images['primary'][0, 0] = 9
    seen = observe(policy_with([0, 0, 0, *HAND_DOWN, 0, 0]), scene, images, 17)
    assert (seen.instruction, seen.stamp_ns) == ('pick up the red cube', 17)
    assert seen.images['primary'][1, 1, 0] == 9 and seen.images['wrist'].all()
    np.testing.assert_allclose(seen.proprio[3:6], HAND_DOWN, atol=1e-9)
    flipped = observe(policy_with([0, 0, 0, *-HAND_DOWN, 0, 0]), scene, images, 17)
    np.testing.assert_allclose(flipped.proprio[3:6], -HAND_DOWN, atol=1e-9)


def test_another_instruction_replaces_the_scenes_and_a_policy_without_state_gets_none():
    scene = SimpleNamespace(state=state, instruction='pick up the red cube')
    images = dict.fromkeys(LIBERO.cameras, np.zeros((2, 2, 3), np.uint8))
    stateless = policy_with(None, proprio_dim=0, proprio_kind='none')
    seen = observe(stateless, scene, images, 0, 'pick up the green cube')
    assert seen.proprio is None and seen.instruction == 'pick up the green cube'


def test_the_gripper_becomes_the_environments():
    actions = np.full((4, 7), 0.25)
    actions[:, 6] = [0.0, 0.2, 0.9, 1.0]
    answer = Inference(actions, actions, {}, {}, 'dense', {}, {})
    got = env_actions(answer)
    np.testing.assert_array_equal(got[:, 6], [1, 1, -1, -1])
    np.testing.assert_array_equal(got[:, :6], actions[:, :6])
    np.testing.assert_array_equal(actions[:, 6], [0.0, 0.2, 0.9, 1.0])  # left as it was
