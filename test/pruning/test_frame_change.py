"""Frame comparison: closed forms, scenes with noise, and the original code's similarities.

Brute force is plain loops in float64. Golden similarities and sets of removable patches are the
released code's (``inputs_*``, ``*_coarse`` and ``*_precise`` in the optional golden folder). What
noise should give follows from its standard deviation; scenes are drawn here.
"""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.pruning.frame_change import (
    AUTHORS_2026,
    RECOMMENDED,
    RECOMMENDED_COSINE,
    Change,
    ChangeSettings,
    compare,
    cosine_similarity,
    difference,
    least_changed,
    most_changed,
    patch_pixels,
    to_device,
)

SIDE = 224
GUARDED = ChangeSettings('cosine', AUTHORS_2026.threshold, RECOMMENDED_COSINE.noise_levels)
BOTH = pytest.mark.parametrize(
    'chosen', [RECOMMENDED, RECOMMENDED_COSINE, GUARDED], ids=['difference', 'cosine', 'guarded']
)


# Scenes ------------------------------------------------------------------------------------------


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
# What moves, added to the scene. Cosine needs colour where there is light; see the test of
# brightness for why.
GREY = (25, 25, 25)
COLOUR = (25, -25, 25)
CONTRAST = {'dark': GREY, 'black': GREY}
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


def found(current, reference, chosen, camera=0):
    """Share of patches that count as changed, and the mask."""
    change = compare(to_device(current, 'cpu'), to_device(reference, 'cpu'), chosen, camera)
    return change.changed.float().mean().item(), change.changed.numpy()


# Noise, light and motion -------------------------------------------------------------------------


@BOTH
@IN_SCENE
@pytest.mark.parametrize('sigma', [3, 6])
def test_sensor_noise_is_no_change(scene, chosen, sigma):
    image = SCENES[scene]
    for camera in (0, 1):
        share, _ = found(noisy(image, sigma, 1), noisy(image, sigma, 2), chosen, camera)
        assert share <= 0.02


@pytest.mark.parametrize('scene', ['dark', 'black'])
def test_the_released_setting_takes_noise_in_the_dark_for_motion(scene):
    now, then = (noisy(SCENES[scene], 3, seed) for seed in (1, 2))
    for camera in (0, 1):
        assert found(now, then, AUTHORS_2026, camera)[0] > 0.95
    similarity = cosine_similarity(torch.from_numpy(now), torch.from_numpy(then))
    if scene == 'dark':  # a . b -> m^2, |a| |b| -> m^2 + s^2
        assert similarity.mean().item() == pytest.approx(100 / 109, abs=0.01)


def test_noise_floor_of_the_difference_is_as_derived():
    """A cell of four pixels in two frames: s * sqrt(2 / 4); mean modulus sqrt(2 / pi) of that."""
    now, then = (torch.from_numpy(noisy(SCENES['mid'], 3, seed)) for seed in (1, 2))
    expected = 3 * math.sqrt(0.5) * math.sqrt(2 / math.pi)
    assert difference(now, then).mean().item() == pytest.approx(expected, rel=0.02)


@BOTH
@pytest.mark.parametrize('quality', [95, 80])
@pytest.mark.parametrize('scene', [s for s in SCENES if s != 'texture'])
def test_jpeg_of_noisy_frames_is_no_change(scene, quality, chosen):
    image = SCENES[scene]
    now, then = noisy(image, 3, 1), noisy(image, 3, 2)
    assert found(jpeg(now, quality), jpeg(then, quality), chosen)[0] <= 0.02
    assert found(jpeg(now, quality), now, chosen)[0] <= 0.02


@pytest.mark.parametrize('chosen', [RECOMMENDED, RECOMMENDED_COSINE], ids=['difference', 'cosine'])
@pytest.mark.parametrize(('row', 'col'), [(56, 70), (63, 77), (59, 73), (101, 45)])
@IN_SCENE
def test_a_small_object_that_moved_by_one_patch_is_found(scene, chosen, row, col):
    """All patches of which a quarter or more changed are found, and hardly any other."""
    image, contrast = SCENES[scene], CONTRAST.get(scene, COLOUR)
    before, after = (with_object(image, row, col + by, contrast) for by in (0, 14))
    touched = (before != after).any(axis=2).reshape(16, 14, 16, 14).mean(axis=(1, 3)).flatten()
    _, changed = found(noisy(after, 3, 1), noisy(before, 3, 2), chosen)
    assert changed[touched >= 0.24].all() and (touched >= 0.24).sum() >= 2
    assert changed[touched == 0].mean() <= 0.02


def test_why_the_recommended_cosine_is_stricter_than_the_released_one():
    """25 levels of colour on a bright table: 0.986 does not see them, with or without a floor."""
    before, after = (with_object(SCENES['bright'], 56, 70 + by, COLOUR) for by in (0, 14))
    similarity = cosine_similarity(torch.from_numpy(after), torch.from_numpy(before))
    a, b = np.array([220.0] * 3), np.array([245.0, 195.0, 245.0])
    assert similarity.min().item() == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-6)
    assert similarity.min() > 0.99
    assert found(after, before, AUTHORS_2026)[0] == found(after, before, GUARDED)[0] == 0
    assert found(after, before, RECOMMENDED_COSINE)[1].nonzero()[0].tolist() == [69, 70]


@BOTH
@IN_SCENE
def test_flicker_of_two_per_cent_is_no_change(scene, chosen):
    light = SCENES[scene] * 1.02
    assert found(noisy(light, 2, 1), noisy(SCENES[scene], 2, 2), chosen)[0] <= 0.02


def test_black_patches():
    black = torch.zeros(28, 28, 3, dtype=torch.uint8)
    assert cosine_similarity(black, black).tolist() == [0] * 4
    assert compare(black, black, AUTHORS_2026).changed.all()  # to the letter
    for chosen in (RECOMMENDED, RECOMMENDED_COSINE):
        change = compare(black, black, chosen)
        assert change.amount.tolist() == [0] * 4 and not change.changed.any()
    white = torch.full_like(black, 255)
    for chosen in (AUTHORS_2026, RECOMMENDED, RECOMMENDED_COSINE):
        assert compare(black, white, chosen).changed.all()


def test_dark_noise_does_not_outrank_motion():
    """Half the picture is black with noise; the amounts of the other half's motion are larger."""
    image = flat(120)
    image[112:] = 0
    before, after = (with_object(image, 28, 28 + by, COLOUR) for by in (0, 14))
    now, then = to_device(noisy(after, 3, 1), 'cpu'), to_device(noisy(before, 3, 2), 'cpu')
    for chosen in (RECOMMENDED, RECOMMENDED_COSINE):
        change = compare(now, then, chosen)
        assert sorted(change.amount.topk(2).indices.tolist()) == [34, 35]
        assert sorted(most_changed(change, 9).tolist()) == [34, 35]
    assert min(compare(now, then, AUTHORS_2026).amount.topk(9).indices.tolist()) >= 128


# Brute force -------------------------------------------------------------------------------------


@st.composite
def image_pairs(draw):
    """Two pictures of a few patches, with equal and black patches among them, and the side."""
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


@given(image_pairs())
@settings(max_examples=60, deadline=None)
def test_metrics_equal_loops(pair):
    a, b, side = pair
    now, then = torch.from_numpy(a), torch.from_numpy(b)
    both = list(zip(patches_of(a, side), patches_of(b, side), strict=True))
    pixels = patch_pixels(now, side)
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == [p.flatten().tolist() for p, _ in both]
    similarity, levels = cosine_similarity(now, then, side), difference(now, then, side)
    assert similarity.dtype == levels.dtype == torch.float32
    np.testing.assert_allclose(similarity, [cosine_twin(*p) for p in both], atol=1e-7)
    np.testing.assert_allclose(levels, [difference_twin(*p) for p in both], rtol=1e-6)


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
    change = compare(torch.from_numpy(a), torch.from_numpy(b), chosen, camera, side)
    both = zip(patches_of(a, side), patches_of(b, side), strict=True)
    for i, (p, q) in enumerate(both):
        similarity, levels = cosine_twin(p, q), difference_twin(p, q)
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


def test_exactly_at_the_threshold_is_no_change():
    image = to_device(flat(100), 'cpu')
    assert not compare(image, image, ChangeSettings('cosine', (1.0,))).changed.any()
    brighter = image + 5  # exactly RECOMMENDED's five levels
    assert not compare(image, brighter, RECOMMENDED).changed.any()
    assert compare(image, brighter + 1, RECOMMENDED).changed.all()
    floor = ChangeSettings('difference', (5.0,), 6.0)
    assert not compare(image, brighter + 1, floor).changed.any()


@given(
    st.lists(st.sampled_from([0.97, 0.98, 0.985, 0.99, 1.0]), max_size=20),
    st.integers(0, 22),
    st.sampled_from([0.98, 0.986, 1.0]),
)
def test_least_changed_equals_sorting(values, count, threshold):
    similarity = torch.tensor(values, dtype=torch.float32)
    alike = [i for i, s in enumerate(similarity.tolist()) if s >= np.float32(threshold)]
    chosen = sorted(alike, key=lambda i: (-similarity[i].item(), i))[:count]
    ids = least_changed(similarity, count, threshold)
    assert ids.dtype == torch.int64 and ids.tolist() == sorted(chosen)


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


# Refusals, devices, goldens ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'image',
    [
        torch.zeros(28, 30, 3, dtype=torch.uint8),
        torch.zeros(28, 28, 4, dtype=torch.uint8),
        torch.zeros(28, 28, dtype=torch.uint8),
        torch.zeros(28, 28, 3),
    ],
)
def test_images_that_cannot_be_compared(image):
    with pytest.raises(InputRefused, match='14'):
        patch_pixels(image)


def test_frames_of_different_size():
    small, large = (torch.zeros(s, s, 3, dtype=torch.uint8) for s in (14, 28))
    with pytest.raises(InputRefused, match='14'):
        compare(small, large, RECOMMENDED)


@pytest.mark.gpu
@BOTH
def test_the_device_does_not_matter(chosen):
    images = noisy(SCENES['texture'], 3, 1), noisy(with_object(SCENES['texture'], 5, 5, 25), 3, 2)
    here, there = (compare(*(to_device(i, d) for i in images), chosen) for d in ('cpu', 'cuda'))
    assert there.amount.device.type == there.changed.device.type == 'cuda'
    torch.testing.assert_close(here.amount, there.amount.cpu(), rtol=1e-6, atol=0)
    assert here.changed.equal(there.changed.cpu())


def recorded(folder: Path, task: str):
    """Inputs of a task; the frames of all tasks are the same and are stored once."""
    inputs = load_file(folder / 'inputs_long.safetensors')
    return {**inputs, **load_file(folder / f'inputs_{task}.safetensors')}


def frames(inputs, query, camera):
    current = inputs[f'q{query}.current.{camera}']
    return current, inputs.get(f'q{query}.reference.{camera}', current)


def test_golden_similarities(golden_dir):
    folder = golden_dir / 'pruning' / 'specprune'
    tasks = [p.stem.removeprefix('inputs_') for p in sorted(folder.glob('inputs_*.safetensors'))]
    assert tasks
    for task in tasks:
        inputs = recorded(folder, task)
        names = [k for k in inputs if '.similarity.' in k]
        assert names
        for name in names:
            query, camera = int(name[1]), name.rpartition('.')[2]
            ours = cosine_similarity(*frames(inputs, query, camera))
            torch.testing.assert_close(ours, inputs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(('mode', 'counts'), [('coarse', (236, 230)), ('precise', (240, 236))])
def test_golden_removable_patches(golden_dir, mode, counts):
    """The released code's sets, query 1 onwards: those of query 0 are ties of equal frames."""
    folder = golden_dir / 'pruning' / 'specprune'
    cases = sorted(folder.glob(f'*_{mode}.safetensors'))
    assert cases
    for case in cases:
        inputs, expected = recorded(folder, case.stem.split('_')[1]), load_file(case)
        for query in (1, 2, 3):
            for i, camera in enumerate(('primary', 'wrist')):
                similarity = cosine_similarity(*frames(inputs, query, camera))
                ids = least_changed(similarity, counts[i], AUTHORS_2026.threshold_of(i))
                golden = expected[f'q{query}.low_change.{camera}'].long() - 1 - 256 * i
                assert ids.tolist() == golden.tolist()


def test_equal_frames_do_not_change():
    image = to_device(SCENES['grain'], 'cpu')
    assert cosine_similarity(image, image).tolist() == [1.0] * 256
    for chosen in (AUTHORS_2026, RECOMMENDED, RECOMMENDED_COSINE):
        change = compare(image, image, chosen)
        assert not change.changed.any() and not change.amount.any()
