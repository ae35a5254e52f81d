"""Real demonstrations: what was recorded is what the arm did and what was in view.

The scene is told the executed actions once more after the same reset, so states and images of
each frame must come back; orientation is compared through SciPy.
"""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from vla_prune_ros.model.images import prepare_image
from vla_prune_ros.train import collect as record
from vla_prune_ros.train.collect import (
    CHUNK,
    FIRST_DEMONSTRATION,
    HAND_DOWN,
    Recorder,
    demonstrate,
)


class Witness:
    """Notes every executed action, whether it was the expert's, and when images were taken."""

    def __init__(self, scene, patch):
        self.actions, self.own, self.looks, self.answer = [], [], [], None
        task, expert, step, images = scene.task, record.expert_action, scene.step, scene.images

        def asked(scene):
            action = expert(scene)
            self.answer = action if scene.task is task else None
            return action

        def stepped(action):
            self.own.append(self.answer is not None and np.array_equal(action, self.answer))
            self.actions.append(np.array(action))
            self.answer = None
            step(action)

        def looked():
            self.looks.append(len(self.actions))
            return images()

        patch.setattr(record, 'expert_action', asked)
        patch.setattr(scene, 'step', stepped)
        patch.setattr(scene, 'images', looked)


def demonstration(scene, seed):
    """(episode, witness) of one recording."""
    scene.reset(seed)
    task = scene.task
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(scene, patch)
        episode = demonstrate(Recorder(scene, np.random.default_rng(seed)))
    assert scene.task is task and len(witness.looks) == len(episode)
    return episode, witness


def check_labels(episode, witness):
    for frame, start in enumerate(witness.looks):
        unbroken = True
        for k in range(CHUNK):
            unbroken = unbroken and witness.own[start + k]
            assert episode.valid[frame, k] == unbroken
            if unbroken:
                action = witness.actions[start + k]
                np.testing.assert_array_equal(episode.chunk[frame, k, :6], action[:6])
                assert episode.chunk[frame, k, 6] == (0.0 if action[6] > 0 else 1.0)


def decoded(view):
    return np.asarray(Image.open(io.BytesIO(view)).convert('RGB')).astype(float)


def test_labels_states_and_images_are_those_of_the_replayed_episode(scene):
    seed = FIRST_DEMONSTRATION // 6 * 6  # pick_red
    episode, witness = demonstration(scene, seed)
    assert episode.task == 'pick_red' and len(episode) > 8
    check_labels(episode, witness)
    assert episode.chunk[episode.valid][:, 6].min() == 0.0  # it closed at last
    assert episode.chunk[episode.valid][:, 6].max() == 1.0
    scene.reset(seed)
    at = 0
    for frame, step in enumerate(witness.looks):
        for action in witness.actions[at:step]:
            scene.step(action)
        at, state = step, scene.state()
        vector = episode.state[frame]
        np.testing.assert_allclose(vector[:3], state.ee_position, atol=1e-9)
        np.testing.assert_allclose(vector[6:], state.joint_positions[-2:], atol=1e-9)
        between = Rotation.from_rotvec(vector[3:6]).inv() * Rotation.from_quat(state.ee_quat_xyzw)
        assert between.magnitude() < 1e-6 and np.linalg.norm(vector[3:6] - HAND_DOWN) < np.pi
        grip = state.ee_position
        for row, colour in enumerate(('red', 'green')):
            want = scene.cube_position(colour) - grip
            np.testing.assert_allclose(episode.offset[frame, row], want, atol=1e-9)
        if frame in (0, len(episode) - 1):
            images = scene.images()
            for camera, view in enumerate(episode.views[2 * frame :][:2]):
                raw = images[('primary', 'wrist')[camera]]
                want = prepare_image(np.ascontiguousarray(raw[::-1, ::-1])).astype(float)
                assert np.abs(decoded(view) - want).mean() < 2.0


@pytest.mark.parametrize('seed', [FIRST_DEMONSTRATION + n for n in (3, 4, 7)])
def test_disturbed_demonstrations_of_every_family_succeed(scene, seed):
    episode, witness = demonstration(scene, seed)
    check_labels(episode, witness)
