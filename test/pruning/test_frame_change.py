"""Frame comparison: closed forms, scenes with noise, and the original code's similarities.

Golden similarities are the released code's (``inputs_*`` in the optional golden folder).
"""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.model.images import comparison_frame, prepare_image
from vla_prune_ros.pruning.frame_change import (
    AUTHORS_2026,
    RECOMMENDED,
    RECOMMENDED_COSINE,
    RECOMMENDED_HALF,
    Change,
    ChangeSettings,
    compare,
    cosine_similarity,
    difference,
    most_changed,
    to_device,
)

SIDE = 224
BOTH = pytest.mark.parametrize(
    'chosen', [RECOMMENDED, RECOMMENDED_COSINE], ids=['difference', 'cosine']
)


def flat(level):
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def coloured_texture():
    rng = np.random.default_rng(5)
    blocks = rng.integers(40, 216, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
    return blocks.repeat(2, 0).repeat(2, 1)


def grained():
    """Grain and stripes of a wooden table: brightness only, as most natural texture."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:SIDE, :SIDE]
    luma = 120 + 40 * np.sin(x / 3 + 4 * np.sin(y / 40)) + rng.normal(0, 15, (SIDE, SIDE))
    return np.clip(luma[..., None] * [1.0, 0.8, 0.6], 0, 255).astype(np.uint8)


SCENES = {
    'bright': flat(220),
    'mid': flat(120),
    'dark': flat(10),
    'black': flat(0),
    'texture': coloured_texture(),
    'grain': grained(),
}
# What moves, added to the scene. Cosine needs colour where there is light.
COLOUR = (25, -25, 25)
CONTRAST = dict.fromkeys(('dark', 'black'), (25, 25, 25))
IN_SCENE = pytest.mark.parametrize('scene', SCENES)


def noisy(image, sigma, seed):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'JPEG', quality=quality, subsampling='4:2:0')
    return np.asarray(Image.open(buffer))


def with_object(image, row, col, contrast):
    out = image.astype(int)
    out[row : row + 14, col : col + 14] += contrast
    return np.clip(out, 0, 255).astype(np.uint8)


def changed(current, reference, chosen, camera=0):
    """Mask of the patches that count as changed."""
    current, reference = to_device(current, 'cpu'), to_device(reference, 'cpu')
    return compare(current, reference, chosen, camera).changed.numpy()


@BOTH
@IN_SCENE
def test_noise_flicker_and_jpeg_are_no_change(scene, chosen):
    """Sensor noise, light that flickers by 2 %, and JPEG of noisy frames."""
    image = SCENES[scene]
    pairs = [(noisy(image, sigma, 1), noisy(image, sigma, 2)) for sigma in (3, 6)]
    pairs.append((noisy(image * 1.02, 2, 1), noisy(image, 2, 2)))
    for quality in (95, 80) if scene != 'texture' else ():
        now, then = pairs[0]
        pairs += [(jpeg(now, quality), jpeg(then, quality)), (jpeg(now, quality), now)]
    for now, then in pairs:
        for camera in (0, 1):
            assert changed(now, then, chosen, camera).mean() <= 0.02


@BOTH
@pytest.mark.parametrize(('row', 'col'), [(56, 70), (63, 77), (59, 73), (101, 45)])
@IN_SCENE
def test_a_small_object_that_moved_by_one_patch_is_found(scene, chosen, row, col):
    """All patches of which a quarter or more changed are found, and hardly any other."""
    image, contrast = SCENES[scene], CONTRAST.get(scene, COLOUR)
    before, after = (with_object(image, row, col + by, contrast) for by in (0, 14))
    touched = (before != after).any(axis=2).reshape(16, 14, 16, 14).mean(axis=(1, 3)).flatten()
    seen = changed(noisy(after, 3, 1), noisy(before, 3, 2), chosen)
    assert seen[touched >= 0.24].all() and (touched >= 0.24).sum() >= 2
    assert seen[touched == 0].mean() <= 0.02


def test_dark_noise_does_not_outrank_motion():
    """Half the image is black with noise; the amounts of the other half's motion are larger."""
    image = flat(120)
    image[112:] = 0
    before, after = (with_object(image, 28, 28 + by, COLOUR) for by in (0, 14))
    now, then = to_device(noisy(after, 3, 1), 'cpu'), to_device(noisy(before, 3, 2), 'cpu')
    for chosen in (RECOMMENDED, RECOMMENDED_COSINE):
        change = compare(now, then, chosen)
        assert sorted(change.amount.topk(2).indices.tolist()) == [34, 35]
        assert sorted(most_changed(change, 9).tolist()) == [34, 35]
    assert min(compare(now, then, AUTHORS_2026).amount.topk(9).indices.tolist()) >= 128


SIZES = [(224, 224), (256, 256), (480, 640), (720, 1280)]
IN_SIZES = pytest.mark.parametrize('shape', SIZES)


def blurred(shape):
    """A smooth coloured image with a few edges."""
    random = np.random.default_rng(0)
    small = random.integers(30, 220, (12, 12, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize(shape[::-1], Image.BICUBIC)).copy()
    image[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 3] = (200, 40, 40)
    return image


def changed_of_half(now, then):
    frames = [comparison_frame(f) for f in (now, then)]
    return changed(*frames, RECOMMENDED_HALF).reshape(16, 16)


@IN_SIZES
def test_half_resolution_shows_the_section_that_the_towers_see(shape):
    """Patch by patch the mean colour of both images is the same, to a few levels."""
    image = blurred(shape)
    seen = prepare_image(image).reshape(16, 14, 16, 14, 3).mean(axis=(1, 3))
    half = comparison_frame(image).reshape(16, 7, 16, 7, 3).mean(axis=(1, 3))
    assert np.abs(seen - half).mean() < 2.0
    assert np.abs(seen - np.roll(half, 1, axis=0)).mean() > 3.0  # a shift by a patch would show


@IN_SIZES
def test_half_resolution_finds_what_moved_and_no_noise(shape):
    """A grey square of a patch's size, 25 levels above its surroundings, moves three patches."""
    image = blurred(shape)
    for dimmed in (image, image // 8, np.zeros_like(image)):
        for sigma in (3, 6):
            pair = (noisy(dimmed, sigma, seed) for seed in (1, 2))
            assert changed_of_half(*pair).mean() <= 0.02
    still = np.full((*shape, 3), 90, np.uint8)
    section = 0.9**0.5 * np.array(shape)
    margin = (np.array(shape) - section) / 2

    def with_square(row, column):
        image = still.copy()
        low = np.rint(margin + section * (row, column) / 16).astype(int)
        high = np.rint(margin + section * (row + 1, column + 1) / 16).astype(int)
        image[low[0] : high[0], low[1] : high[1]] += 25
        return image

    found = changed_of_half(noisy(with_square(5, 9), 3, 1), noisy(with_square(5, 6), 3, 2))
    assert found[5, 9] and found[5, 6]
    assert found.sum() <= 6  # a border that falls between two patches may mark the neighbour


def test_half_resolution_gives_the_amounts_of_full_resolution():
    """The mean over 2 x 2 pixels, rounded to integer levels, moves an amount by half a level."""
    random = np.random.default_rng(3)
    full = random.integers(0, 256, (2, 224, 224, 3), np.uint8)
    half = np.rint(full.reshape(2, 112, 2, 112, 2, 3).mean((2, 4))).astype(np.uint8)
    want, got = (
        compare(*torch.from_numpy(pair), settings).amount
        for pair, settings in ((full, RECOMMENDED), (half, RECOMMENDED_HALF))
    )
    torch.testing.assert_close(got, want, rtol=0, atol=0.5)


@st.composite
def image_pairs(draw):
    """Two images of a few patches, with equal and black patches among them, and the side."""
    side, rows, cols = (draw(st.integers(1, high)) for high in (5, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a = rng.integers(0, draw(st.integers(1, 256)), (rows * side, cols * side, 3)).astype(np.uint8)
    b = np.clip(a + rng.integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    if draw(st.booleans()):
        a[:side, :side] = 0
    if draw(st.booleans()):
        b[:side] = a[:side]
    return a, b, side


def patches_of(image, side):
    """Patches as lists of rows of pixels, row-major."""
    return [
        image[r : r + side, c : c + side]
        for r in range(0, image.shape[0], side)
        for c in range(0, image.shape[1], side)
    ]


def cosine_twin(a, b):
    dot = sum(int(x) * int(y) for x, y in zip(a.flat, b.flat, strict=True))
    norms = [math.sqrt(sum(int(x) ** 2 for x in p.flat)) for p in (a, b)]
    return dot / (norms[0] * norms[1] + 1e-8)


def difference_twin(a, b):
    levels = []
    for channel in range(3):
        for r in range(0, len(a), 2):
            for c in range(0, len(a), 2):
                cell = [
                    int(a[y, x, channel]) - int(b[y, x, channel])
                    for y in range(r, min(r + 2, len(a)))
                    for x in range(c, min(c + 2, len(a)))
                ]
                levels.append(abs(sum(cell) / len(cell)))
    return sum(levels) / len(levels)


@given(
    image_pairs(),
    st.sampled_from(['cosine', 'difference']),
    st.lists(st.floats(0.5, 1.0), min_size=1, max_size=3),
    st.sampled_from([0.0, 2.0, 4.0]),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_compare_equals_loops(pair, metric, thresholds, floor, camera):
    a, b, side = pair
    if metric == 'difference':
        thresholds = [6 * t for t in thresholds]  # below and above the floors
    threshold = thresholds[camera] if camera < len(thresholds) else thresholds[-1]
    chosen = ChangeSettings(metric, tuple(thresholds), floor)
    now, then = torch.from_numpy(a), torch.from_numpy(b)
    change = compare(now, then, chosen, camera, side)
    both = zip(patches_of(a, side), patches_of(b, side), strict=True)
    for i, (p, q) in enumerate(both):
        similarity, levels = cosine_twin(p, q), difference_twin(p, q)
        got = cosine_similarity(now, then, side)[i], difference(now, then, side)[i]
        assert [g.item() for g in got] == pytest.approx([similarity, levels], rel=1e-6, abs=1e-7)
        if metric == 'cosine':
            amount = 0 if floor and levels <= floor else 1 - similarity
            wanted = similarity < threshold
            margin = abs(similarity - threshold)
        else:
            amount, wanted, margin = levels, levels > threshold, abs(levels - threshold)
        if not floor or abs(levels - floor) > 1e-5:
            assert change.amount[i].item() == pytest.approx(amount, rel=1e-6, abs=1e-6)
        if margin > 1e-5 and abs(levels - floor) > 1e-5:
            assert change.changed[i].item() == (wanted and (not floor or levels > floor))


def test_exactly_at_the_threshold_and_equal_frames_are_no_change():
    for image in (to_device(SCENES['grain'], 'cpu'), to_device(flat(100), 'cpu')):
        assert cosine_similarity(image, image).tolist() == [1.0] * 256
        for chosen in (RECOMMENDED, RECOMMENDED_COSINE, ChangeSettings('cosine', (1.0,))):
            change = compare(image, image, chosen)
            assert not change.changed.any() and not change.amount.any()
    brighter = image + 5  # exactly RECOMMENDED's five levels
    assert not compare(image, brighter, RECOMMENDED).changed.any()
    assert compare(image, brighter + 1, RECOMMENDED).changed.all()
    floor = ChangeSettings('difference', (5.0,), 6.0)
    assert not compare(image, brighter + 1, floor).changed.any()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20), st.integers(0, 22))
def test_most_changed_equals_sorting(patches, count):
    change = Change(
        torch.tensor([float(a) for a, _ in patches]),
        torch.tensor([c for _, c in patches], dtype=torch.bool),
    )
    among = [i for i, (_, changed) in enumerate(patches) if changed]
    ids = most_changed(change, count)
    assert ids.dtype == torch.int64
    assert ids.tolist() == sorted(among, key=lambda i: (-patches[i][0], i))[:count]


def test_images_that_cannot_be_compared():
    good = torch.zeros(28, 28, 3, dtype=torch.uint8)
    bad = [good[:, :27], good[..., :2], good[..., 0], good.float()]
    for pair in [*((image, image) for image in bad), (good, good[:14, :14])]:
        with pytest.raises(InputRefused, match='14'):
            compare(*pair, RECOMMENDED)


@pytest.mark.gpu
@BOTH
def test_the_device_does_not_matter(chosen):
    images = noisy(SCENES['texture'], 3, 1), noisy(with_object(SCENES['texture'], 5, 5, 25), 3, 2)
    here, there = (compare(*(to_device(i, d) for i in images), chosen) for d in ('cpu', 'cuda'))
    assert there.amount.device.type == there.changed.device.type == 'cuda'
    torch.testing.assert_close(here.amount, there.amount.cpu(), rtol=1e-6, atol=0)
    assert here.changed.equal(there.changed.cpu())


def test_golden_similarities(golden_dir):
    folder = golden_dir / 'pruning' / 'specprune'
    files = sorted(folder.glob('inputs_*.safetensors'))
    assert files
    for file in files:  # the frames of all tasks are the same and are stored once
        inputs = {**load_file(folder / 'inputs_long.safetensors'), **load_file(file)}
        names = [name for name in inputs if '.similarity.' in name]
        assert names
        for name in names:
            query, camera = name.split('.similarity.')
            current = inputs[f'{query}.current.{camera}']
            reference = inputs.get(f'{query}.reference.{camera}', current)
            ours = cosine_similarity(current, reference)
            torch.testing.assert_close(ours, inputs[name], rtol=0, atol=1e-6)
