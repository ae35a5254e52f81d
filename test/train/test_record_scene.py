"""One real demonstration, replayed: what was recorded is what the arm did and what was in view.

The scene is told the executed actions once more after the same reset, so states and pictures of
each frame must come back; orientation is compared through SciPy.
"""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from vla_prune_ros.train import collect as record
from vla_prune_ros.train.collect import (
    CHUNK,
    FIRST_DEMONSTRATION,
    HAND_DOWN,
    Recorder,
    demonstrate,
)


class Witness:
    """Notes every executed action, whether it was the expert's, and when pictures were taken."""

    def __init__(self, scene, patch):
        self.actions, self.own, self.looks, self.answer = [], [], [], None
        self.task = scene.task
        expert, step, images = record.expert_action, scene.step, scene.images

        def asked(scene):
            self.answer = expert(scene) if scene.task is self.task else None
            return expert(scene) if self.answer is None else self.answer

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


def watched(scene, seed, run):
    """(episode, witness) of one recording."""
    scene.reset(seed)
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(scene, patch)
        episode = run(Recorder(scene, np.random.default_rng(seed)))
    assert scene.task is witness.task
    return episode, witness


def check_labels(episode, witness):
    assert len(witness.looks) == len(episode)
    for frame, start in enumerate(witness.looks):
        unbroken = True
        for k in range(CHUNK):
            unbroken = unbroken and witness.own[start + k]
            assert episode.valid[frame, k] == unbroken
            if unbroken:
                action = witness.actions[start + k]
                np.testing.assert_array_equal(episode.chunk[frame, k, :6], action[:6])
                assert episode.chunk[frame, k, 6] == (0.0 if action[6] > 0 else 1.0)


@pytest.fixture(scope='module')
def recorded(scene):
    seed = FIRST_DEMONSTRATION // 6 * 6  # pick_red
    return (*watched(scene, seed, demonstrate), seed)


def test_the_expert_succeeds_and_its_labels_are_what_it_did(recorded):
    episode, witness, _ = recorded
    assert episode is not None and episode.task == 'pick_red' and len(episode) > 8
    check_labels(episode, witness)
    assert episode.chunk[episode.valid][:, 6].min() == 0.0  # it closed at last
    assert episode.chunk[episode.valid][:, 6].max() == 1.0


def decoded(view):
    return np.asarray(Image.open(io.BytesIO(view)).convert('RGB')).astype(float)


def test_states_and_pictures_are_those_of_the_replayed_episode(scene, recorded):
    from vla_prune_ros.model.images import prepare_image

    episode, witness, seed = recorded
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
            for camera, view in zip(
                ('primary', 'wrist'), episode.views[2 * frame :][:2], strict=True
            ):
                raw = scene.images()[camera]
                want = prepare_image(np.ascontiguousarray(raw[::-1, ::-1])).astype(float)
                assert np.abs(decoded(view) - want).mean() < 2.0


@pytest.mark.parametrize('seed', range(FIRST_DEMONSTRATION + 2, FIRST_DEMONSTRATION + 8))
def test_disturbed_demonstrations_of_every_task_succeed(scene, seed):
    episode, witness = watched(scene, seed, demonstrate)
    assert episode is not None
    check_labels(episode, witness)
