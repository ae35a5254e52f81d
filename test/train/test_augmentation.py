"""Crops and colours of the training.

Expected: closed forms on pictures where they are easy (a ramp, one colour), and TensorFlow's
definitions through the colour conversion of the standard library.
"""

import colorsys

import numpy as np
import pytest

from vla_prune_ros.train.collate import augmented, coloured, random_crop


class Drawn:
    """Answers of a generator, in order."""

    def __init__(self, *values):
        self._values = list(values)

    def uniform(self, low, high, size=None):
        value = self._values.pop(0)
        assert np.all(np.asarray(value) >= low) and np.all(np.asarray(value) <= high)
        return np.asarray(value) if size else value


def test_a_crop_of_a_ramp_is_a_ramp():
    ramp = np.repeat(np.arange(224, dtype=np.uint8)[None, :, None], 224, 0).repeat(3, 2)
    side = 224 * 0.9**0.5
    for x, y in ((0.0, 0.0), (5.0, 3.0), (224 - side, 1.0)):
        found = random_crop(ramp, Drawn((x, y)))
        expected = x + np.arange(224) * (side - 1) / 223
        assert np.abs(found[100, :, 0] - expected).max() <= 0.6
        assert (found == found[:1]).all()


def test_colours_are_tensorflows():
    colour = np.array([200, 120, 40], np.uint8)
    image = np.tile(colour, (4, 4, 1))
    image[2:] = [30, 60, 90]
    bright, contrast, saturation, hue = 0.1, 1.15, 0.9, -0.04
    found = coloured(image, Drawn(bright, contrast, saturation, hue))
    x = image / 255.0 + bright
    x = np.clip((x - x.mean((0, 1))) * contrast + x.mean((0, 1)), 0, 1)
    for row in (0, 3):
        h, s, v = colorsys.rgb_to_hsv(*x[row, 0])
        expected = colorsys.hsv_to_rgb((h + hue) % 1.0, min(1.0, s * saturation), v)
        assert np.abs(found[row, 0] - 255 * np.array(expected)).max() <= 1.0


@pytest.mark.parametrize('shape', [(256, 256, 3), (224, 224, 3), (120, 160, 3)])
def test_any_frame_becomes_a_picture_of_224(shape):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    one, two = (augmented(image, 0, np.random.default_rng(s)) for s in (1, 2))
    assert one.shape == (224, 224, 3) and one.dtype == np.uint8
    assert not np.array_equal(one, two)
    assert np.array_equal(one, augmented(image, 0, np.random.default_rng(1)))
