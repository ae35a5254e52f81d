"""Real demonstrations: what was recorded is what the arm did and what was in view.

The scene gets the executed actions once more after the same reset, so states and images of each
frame must come back; orientation is compared through SciPy. Which steps are labels is pinned by
``test_record.py``.
"""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from vla_prune_ros.model.images import prepare_image
from vla_prune_ros.train.collect import FIRST_DEMONSTRATION, HAND_DOWN, Recorder, demonstrate


def demonstration(scene, seed):
    """(episode, executed actions, number of actions before each frame)."""
    scene.reset(seed)
    task, step, images = scene.task, scene.step, scene.images
    actions, starts = [], []

    def logged_step(action):
        actions.append(np.array(action))
        step(action)

    def logged_images():
        starts.append(len(actions))
        return images()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, 'step', logged_step)
        patch.setattr(scene, 'images', logged_images)
        episode = demonstrate(Recorder(scene, np.random.default_rng(seed)))
    assert scene.task is task and len(starts) == len(episode) > 8
    steps = np.array(starts)[:, None] + np.arange(8)
    done = np.array(actions)[steps[episode.valid]]
    np.testing.assert_array_equal(episode.chunk[episode.valid][:, :6], done[:, :6])
    np.testing.assert_array_equal(episode.chunk[episode.valid][:, 6], done[:, 6] < 0)
    assert episode.valid[:, 0].all()
    return episode, actions, starts


def decoded(view):
    return np.asarray(Image.open(io.BytesIO(view)).convert('RGB')).astype(float)


def test_states_and_images_are_those_of_the_replayed_episode(scene):
    seed = FIRST_DEMONSTRATION // 6 * 6  # pick_red
    episode, actions, starts = demonstration(scene, seed)
    assert episode.task == 'pick_red'
    assert set(episode.chunk[episode.valid][:, 6]) == {0.0, 1.0}  # it closed at last
    scene.reset(seed)
    at = 0
    for frame, start in enumerate(starts):
        for action in actions[at:start]:
            scene.step(action)
        at, state, vector = start, scene.state(), episode.state[frame]
        np.testing.assert_allclose(vector[:3], state.ee_position, atol=1e-9)
        np.testing.assert_allclose(vector[6:], state.joint_positions[-2:], atol=1e-9)
        between = Rotation.from_rotvec(vector[3:6]).inv() * Rotation.from_quat(state.ee_quat_xyzw)
        assert between.magnitude() < 1e-6 and np.linalg.norm(vector[3:6] - HAND_DOWN) < np.pi
        for row, colour in enumerate(('red', 'green')):
            want = scene.cube_position(colour) - state.ee_position
            np.testing.assert_allclose(episode.offset[frame, row], want, atol=1e-9)
        if frame in (0, len(episode) - 1):
            images = scene.images()
            for camera, view in zip(
                ('primary', 'wrist'), episode.views[2 * frame :], strict=False
            ):
                want = prepare_image(np.ascontiguousarray(images[camera][::-1, ::-1]))
                assert np.abs(decoded(view) - want.astype(float)).mean() < 2.0


@pytest.mark.parametrize(
    'seed',
    [
        FIRST_DEMONSTRATION + 3,
        pytest.param(FIRST_DEMONSTRATION + 4, marks=pytest.mark.slow),
        pytest.param(FIRST_DEMONSTRATION + 7, marks=pytest.mark.slow),
    ],
)
def test_disturbed_demonstrations_of_every_family_succeed(scene, seed):
    demonstration(scene, seed)
