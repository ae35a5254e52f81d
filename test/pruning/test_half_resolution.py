"""Frames at half the resolution: the same section, the same motion, no more noise.

Expected values are means over blocks of pixels, and what the scene was made with.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from vla_prune_ros.model.images import comparison_frame, prepare_image
from vla_prune_ros.pruning.frame_change import (
    RECOMMENDED,
    RECOMMENDED_HALF,
    compare,
)

SIZES = [(224, 224), (256, 256), (480, 640), (720, 1280)]


def scene(shape, seed=0):
    """A smooth coloured image with a few edges."""
    random = np.random.default_rng(seed)
    small = random.integers(30, 220, (12, 12, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize(shape[::-1], Image.BICUBIC)).copy()
    image[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 3] = (200, 40, 40)
    return image


def noisy(image, sigma, seed):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def changed(now, then):
    frames = [torch.from_numpy(comparison_frame(f)) for f in (now, then)]
    return compare(*frames, RECOMMENDED_HALF).changed.view(16, 16).numpy()


@pytest.mark.parametrize('shape', SIZES)
def test_it_shows_the_section_that_the_towers_see(shape):
    """Patch by patch the mean colour of both images is the same, to a few levels."""
    image = scene(shape)
    seen = prepare_image(image).reshape(16, 14, 16, 14, 3).mean(axis=(1, 3))
    half = comparison_frame(image).reshape(16, 7, 16, 7, 3).mean(axis=(1, 3))
    assert np.abs(seen - half).mean() < 2.0
    assert np.abs(seen - np.roll(half, 1, axis=0)).mean() > 3.0  # a shift by a patch would show


@pytest.mark.parametrize('sigma', [3, 6])
@pytest.mark.parametrize('shape', SIZES)
def test_sensor_noise_is_no_change(shape, sigma):
    image = scene(shape)
    for dimmed in (image, image // 8, np.zeros_like(image)):
        assert changed(noisy(dimmed, sigma, 1), noisy(dimmed, sigma, 2)).mean() <= 0.02


@pytest.mark.parametrize('shape', SIZES)
def test_what_moved_is_found_where_it_was_and_where_it_is(shape):
    """A grey square of a patch's size, 25 levels above its surroundings, moves three patches."""
    still = np.full((*shape, 3), 90, np.uint8)
    section = 0.9**0.5 * np.array(shape)
    margin = (np.array(shape) - section) / 2

    def with_square(row, column):
        image = still.copy()
        low = np.rint(margin + section * (row, column) / 16).astype(int)
        high = np.rint(margin + section * (row + 1, column + 1) / 16).astype(int)
        image[low[0] : high[0], low[1] : high[1]] += 25
        return image

    found = changed(noisy(with_square(5, 9), 3, 1), noisy(with_square(5, 6), 3, 2))
    assert found[5, 9] and found[5, 6]
    assert found.sum() <= 6  # a border that falls between two patches may mark the neighbour


def test_half_resolution_gives_the_amounts_of_full_resolution():
    """The mean over 2 x 2 pixels, rounded to integer levels, moves an amount by half a level."""
    random = np.random.default_rng(3)
    now, then = (random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(2))
    half = [
        torch.from_numpy(np.rint(i.reshape(112, 2, 112, 2, 3).mean((1, 3))).astype(np.uint8))
        for i in (now, then)
    ]
    full = compare(torch.from_numpy(now), torch.from_numpy(then), RECOMMENDED)
    half_resolution = compare(*half, RECOMMENDED_HALF)
    torch.testing.assert_close(half_resolution.amount, full.amount, rtol=0, atol=0.5)
