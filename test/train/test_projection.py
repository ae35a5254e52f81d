"""Where cubes appear in what a tower sees: against rendered colours, and a camera set up by hand.

The images go through the published preprocessing and are searched for red and green pixels.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from vla_prune_ros.model.images import prepare_image
from vla_prune_ros.train.collect import seen_at

CAMERAS = {'primary': 'agentview', 'wrist': 'robot0_eye_in_hand'}
CHANNEL = {'red': 0, 'green': 1}
NOWHERE = (np.nan, np.nan)
CROP = 0.9**0.5  # side of the crop, of the picture's side


def camera(place=(0.0, 0.0, 0.0), axes=None, fovy=90.0):
    """A simulation with one camera; ``axes``: columns right, up, back."""
    axes = np.eye(3) if axes is None else np.array(axes, float)
    return SimpleNamespace(
        model=SimpleNamespace(camera_name2id={'eye': 0}.get, cam_fovy=[fovy]),
        data=SimpleNamespace(cam_xmat=[axes.flatten()], cam_xpos=[np.array(place)]),
    )


ALONG_X = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]]).T  # right is -y, up is z, back is -x


@pytest.mark.parametrize(
    ('eye', 'point', 'want'),
    [
        (camera(), (0, 0, -2), (0.5, 0.5)),
        # 45 degrees either way are the border of the image, a shade outside of the crop.
        (camera(), (1, 0, -2), (0.5 - 0.25 / CROP, 0.5)),  # by 180 degrees: right becomes left,
        (camera(), (0, 1, -2), (0.5, 0.5 - 0.25 / CROP)),  # but row 0 was at the bottom
        (camera(), (-0.4, -0.8, -1), (0.5 + 0.2 / CROP, 0.5 + 0.4 / CROP)),
        (
            camera((1.0, 2.0, 3.0), ALONG_X),
            (3.0, 1.5, 3.25),
            (0.5 - 0.125 / CROP, 0.5 - 0.0625 / CROP),
        ),
        # Behind the camera, in it, and outside of the crop.
        *((camera(), point, NOWHERE) for point in [(0, 0, 1), (0, 0, 0), (0.2, 0.1, 2.0)]),
        *((camera(), point, NOWHERE) for point in [(0.99, 0, -1), (0, -0.96, -1), (9, 9, -1)]),
    ],
)
def test_a_camera_set_up_by_hand(eye, point, want):
    np.testing.assert_allclose(seen_at(eye, 'eye', np.array(point, float)), want, atol=1e-12)


def upright(scene):
    return {name: prepare_image(view[::-1, ::-1].copy()) for name, view in scene.images().items()}


def coloured(image, colour):
    """Rows and columns of the pixels in which a channel stands out."""
    channels = image.astype(int)
    own = channels[..., CHANNEL[colour]]
    others = np.delete(channels, CHANNEL[colour], axis=2).max(axis=2)
    return np.argwhere(own > 1.5 * others + 20)


def centre(image, colour):
    """Centroid (x, y) of the coloured pixels; None where there are few or some are cut off."""
    found = coloured(image, colour)
    if len(found) < 40 or found.min() < 2 or found.max() > 221:
        return None
    return found[:, ::-1].mean(axis=0) + 0.5


def above(scene, colour):
    """Move the hand to 14 cm above a cube, a little aside."""
    for _ in range(40):
        goal = scene.cube_position(colour) + np.array([0.02, 0.02, 0.14])
        error = goal - scene.state().ee_position
        if np.abs(error).max() < 0.01:
            break
        scene.step(np.array([*np.clip(error * 40, -1, 1), 0, 0, 0, -1.0]))


@pytest.mark.parametrize('seed', [0, 7, 16, 23])
def test_cubes_are_where_their_colour_is(scene, seed):
    scene.reset(seed)
    above(scene, 'red' if seed % 2 else 'green')
    views = upright(scene)
    compared = set()
    for name, raw in CAMERAS.items():
        for colour in CHANNEL:
            want = centre(views[name], colour)
            if want is None:
                continue
            got = seen_at(scene.env.sim, raw, scene.cube_position(colour)) * 224
            # A cube's outline is not symmetric about its centre: a few pixels, more when near.
            near = {'primary': 4.0, 'wrist': 14.0}[name]
            assert np.linalg.norm(got - want) < near, (name, colour, got, want)
            compared.add(name)
    assert compared == set(CAMERAS)
