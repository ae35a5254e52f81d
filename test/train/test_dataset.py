"""Episodes on disk, as batches, and as a source: images, prompts, numbers, and the other cube's.

Expected values: loops over single samples and NumPy on concatenated arrays; images decoded with
Pillow and normalised by the published constants written out here.
"""

import io
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vla_prune_ros.errors import DataError, ProfileError
from vla_prune_ros.model.normalization import read_statistics
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train import dataset
from vla_prune_ros.train.config import Data
from vla_prune_ros.train.dataset import Samples, compress, describe_numbers, load, patch_of, save
from vla_prune_ros.train.sources.base import open_source

MEAN = np.array([0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5])
STD = np.array([0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5])
FAMILIES = {'pick', 'place', 'stack'}
shares = st.one_of(st.floats(0, 1, exclude_max=True), st.just(float('nan')))


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=12))
def test_patches_are_those_of_a_search_over_all_of_them(points):
    want = []
    for x, y in points:
        inside = [
            16 * row + column
            for row in range(16)
            for column in range(16)
            if row <= 16 * y < row + 1 and column <= 16 * x < column + 1
        ]
        want.append(inside[0] if inside else -1)
    got = patch_of(np.array(points))
    assert got.dtype == np.int64 and got.tolist() == want
    assert patch_of(np.array(points)[:, None]).shape == (len(points), 1)


@pytest.fixture(scope='module')
def samples(six_episodes, words, statistics):
    return Samples(six_episodes, words, statistics)


def sources(samples, six_episodes, family, chosen):
    """(episode, frame) of the samples: episodes of the family in order, frame by frame."""
    own = [e for e in six_episodes if e.task.startswith(family)]
    every = [(e, f) for e in own for f in range(len(e))]
    assert len(samples.families[family].index) == len(every)
    return [every[i] for i in chosen]


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


def scaled(values, entry):
    low, high = np.array(entry['q01']), np.array(entry['q99'])
    return np.clip(2.0 * (values - low) / (high - low + 1e-8) - 1.0, -1.0, 1.0)


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_a_batch_is_its_samples_one_by_one(samples, six_episodes, statistics, words, family):
    chosen, swapped = np.array([4, 0, 4, 2]), np.array([False, True, True, False])
    batch = samples.batch(family, chosen, swapped)
    rows = zip(sources(samples, six_episodes, family, chosen), swapped, strict=True)
    for i, ((episode, frame), swap) in enumerate(rows):
        name = episode.sister if swap else episode.task
        assert torch.equal(batch.prompts[i], words.prompts[TASKS[name].instruction])
        want = scaled(episode.state[frame], statistics['proprio'])
        np.testing.assert_allclose(batch.state[i], want, atol=1e-6)
        want = scaled(episode.chunk[frame], statistics['action'])
        want[:, 6] = episode.chunk[frame][:, 6]  # the gripper stays 0 closed, 1 open
        np.testing.assert_allclose(batch.actions[i], want, atol=1e-6)
        weights = np.zeros(8) if swap else episode.valid[frame].astype(float)
        np.testing.assert_array_equal(batch.weights[i], weights)
        for place in (0, 1):
            there = 1 - place if swap else place
            offset = episode.offset[frame, there] * 10.0
            np.testing.assert_allclose(batch.offsets[i, place], offset, rtol=1e-6)
            for camera in (0, 1):
                x, y = episode.seen[frame, there, camera]
                patch = -1 if np.isnan(x) else int(y * 16) * 16 + int(x * 16)
                assert batch.patches[i, place, camera] == patch
        for camera, view in enumerate(episode.views[2 * frame :][:2]):
            six = np.tile(decoded(view) / 255.0, 2)
            want = ((six - MEAN) / STD).transpose(2, 0, 1)
            np.testing.assert_allclose(batch.pixels[i, camera], want, atol=0.04)  # 2 grey levels
    for name, tensor in batch._asdict().items():
        assert tensor.dtype == (torch.int64 if name in ('prompts', 'patches') else torch.float32)


@pytest.mark.parametrize('ratio', [0.0, 0.25, 1.0])
def test_the_ratio_of_other_instructions(samples, ratio, monkeypatch):
    monkeypatch.setattr(dataset, 'pixel_values', lambda views: torch.zeros(len(views)))
    batch = samples.draw('pick', 300, ratio, np.random.default_rng(0))
    swapped = (batch.weights.sum(1) == 0).float().mean()
    assert abs(swapped - ratio) < 0.1  # four standard errors: sqrt(0.25 * 0.75 / 300) = 0.025


def test_training_and_validation_share_no_episode(monkeypatch):
    monkeypatch.setattr(dataset, 'load', lambda path: int(path.stem))  # an episode is its seed
    seeds = list(range(1_000_000, 1_001_200))
    train, held = dataset.split(Path(f'{seed}.npz') for seed in seeds)
    assert sorted(train + held) == seeds and train == sorted(train)
    assert len(held) == 30  # a fortieth
    assert [sum(seed % 6 == n for seed in held) for n in range(6)] == [5] * 6


def test_statistics_are_numpys_on_all_labels(six_episodes, statistics):
    labels = [
        action
        for episode in six_episodes
        for action, valid in zip(episode.chunk.reshape(-1, 7), episode.valid.flat, strict=True)
        if valid
    ]
    states = np.concatenate([e.state for e in six_episodes])
    for entry, values in (('action', np.array(labels)), ('proprio', states)):
        got = statistics[entry]
        np.testing.assert_allclose(got['min'], np.min(values, 0))
        np.testing.assert_allclose(got['max'], np.max(values, 0))
        np.testing.assert_allclose(got['mean'], sum(values) / len(values))
        spread = np.sqrt(((values - sum(values) / len(values)) ** 2).mean(0))
        np.testing.assert_allclose(got['std'], spread)
        np.testing.assert_allclose(got['q01'], np.percentile(values, 1, axis=0), atol=1.1e-3)
        np.testing.assert_allclose(got['q99'], np.percentile(values, 99, axis=0), atol=1.1e-3)
    assert statistics['action']['mask'] == [True] * 6 + [False]
    assert statistics['num_transitions'] == 18 and statistics['num_trajectories'] == 6


def test_numbers_that_never_change_still_have_a_range(tmp_path, episode):
    still = episode(frames=2)
    still.chunk[:], still.state[:] = 0.0, 0.3
    found = describe_numbers([still])
    for entry in (found['action'], found['proprio']):
        assert (np.array(entry['q01']) < np.array(entry['q99'])).all()
    (tmp_path / 'dataset_statistics.json').write_text(json.dumps({'two_cubes': found}))
    read = read_statistics(tmp_path, LIBERO, None)  # which refuses an empty range
    np.testing.assert_array_equal(read.action.mask, [True] * 6 + [False])


@pytest.mark.parametrize('frames', [1, 5])
def test_an_episode_comes_back_as_it_was(tmp_path, episode, frames):
    before = episode('stack_red_on_green', frames, seed=3)
    save(before, tmp_path / 'new' / '1000002.npz')
    after = load(tmp_path / 'new' / '1000002.npz')
    assert len(after) == frames and len(after.views) == 2 * frames
    for field in fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, np.ndarray):
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(new, old)  # NaN equals NaN here
        else:
            assert type(new) is type(old) and new == old


def test_a_write_that_breaks_off_leaves_no_episode(tmp_path, episode, monkeypatch):
    def full(file, **arrays):
        file.write(b'half of it')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(dataset.np, 'savez', full)
    with pytest.raises(OSError, match='No space'):
        save(episode(), tmp_path / '1.npz')
    assert list(tmp_path.glob('*.npz')) == []


def test_a_turned_view_keeps_its_place_and_the_full_resolution_of_its_colours():
    """Columns in turn red and green: with halved chroma all of them would turn olive."""
    image = np.zeros((224, 224, 3), np.uint8)
    image[:112, ::2, 0] = image[:112, 1::2, 1] = 200
    image = image[::-1, ::-1]  # of negative strides
    data = compress(image)
    assert simplejpeg.decode_jpeg_header(data)[3] == '444'
    assert np.abs(decoded(data) - image).mean() < 6


def opened(folder, profile=LIBERO, **options):
    return open_source(Data(format='two_cubes', path=folder, options=options), profile)


def test_as_a_source_samples_are_the_recorded_frames(recorded, six_episodes):
    source = opened(recorded)
    assert len(source) == sum(map(len, six_episodes))
    # Files are read in the order of their names: 10, 11, 6, 7, ...
    sample, episode = source[4], six_episodes[5]
    assert sample.prepared and sample.instruction == TASKS[episode.task].instruction
    assert source.instruction(4) == sample.instruction
    for camera, view in zip(LIBERO.cameras, episode.views[2:4], strict=True):
        assert np.array_equal(sample.images[camera], simplejpeg.decode_jpeg(view, 'RGB'))
    for name in ('chunk', 'valid', 'state'):
        assert np.array_equal(getattr(sample, name), getattr(episode, name)[1])


def test_held_out_episodes_are_a_split_of_their_own(recorded, six_episodes):
    source = opened(recorded, split='validation')
    assert len(source) == len(six_episodes[1])
    actions, states = source.numbers()
    assert np.array_equal(actions, six_episodes[1].chunk[six_episodes[1].valid])
    assert np.array_equal(states, six_episodes[1].state)


def test_what_cannot_be_read_is_refused(recorded, tmp_path):
    with pytest.raises(ProfileError, match="split: 'all'"):
        opened(recorded, split='all')
    with pytest.raises(DataError, match='holds no samples'):
        opened(tmp_path / 'nothing')
    with pytest.raises(ProfileError, match='two_cubes .*colour'):
        opened(recorded, colour='red')
    with pytest.raises(DataError, match='aloha'):
        opened(recorded, ALOHA)
