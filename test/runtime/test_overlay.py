"""Overlays against a loop over patches, written out."""

import numpy as np
import pytest

from vla_prune_ros.runtime.overlay import draw_overlay


def dimmed_by_hand(image, kept, side):
    patch = len(image) // side
    out = image.copy()
    for row in range(side):
        for column in range(side):
            if not kept[row * side + column]:
                here = (
                    slice(row * patch, (row + 1) * patch),
                    slice(column * patch, (column + 1) * patch),
                )
                out[here] = (image[here] * 0.25).astype(np.uint8)
    return out


@pytest.mark.parametrize(('size', 'side'), [(224, 16), (8, 2), (12, 4)])
def test_pruned_patches_are_dimmed_to_a_quarter(size, side):
    random = np.random.default_rng(size)
    image = random.integers(0, 256, (size, size, 3), np.uint8)
    kept = random.random(side * side) < 0.4
    before = image.copy()
    np.testing.assert_array_equal(draw_overlay(image, kept), dimmed_by_hand(image, kept, side))
    np.testing.assert_array_equal(image, before)


def test_all_kept_is_the_picture_and_none_kept_is_dark():
    image = np.full((224, 224, 3), 200, np.uint8)
    assert (draw_overlay(image, np.ones(256, bool)) == 200).all()
    assert (draw_overlay(image, np.zeros(256, bool)) == 50).all()


@pytest.mark.parametrize('count', [1, 2])
def test_lines_of_text_are_bright_on_a_dark_strip_at_the_top(count):
    image = np.full((224, 224, 3), 240, np.uint8)
    drawn = draw_overlay(image, np.ones(256, bool), ['dense 256/256'] * count)
    strip = drawn[: 6 + 14 * count]
    assert (drawn[6 + 14 * count :] == 240).all()
    assert np.median(strip) < 120 and strip.max() > 220
    for line in range(count):  # each line has letters of its own
        assert (drawn[14 * line + 6 : 14 * line + 14] > 200).any()
