"""The recorded demonstrations as samples: what was saved comes back, by camera and split."""

import numpy as np
import pytest
import simplejpeg

from vla_prune_ros.errors import DataError, ProfileError
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train.config import Data
from vla_prune_ros.train.dataset import save
from vla_prune_ros.train.sources.base import open_source


@pytest.fixture
def folder(tmp_path, six_episodes):
    # Episodes 0 to 5 (seed // 6 = 0) are held out, the later ones are not.
    for number, episode in enumerate(six_episodes):
        save(episode, tmp_path / f'{6 + number}.npz')
    save(six_episodes[0], tmp_path / '2.npz')
    return tmp_path


def opened(folder, **options):
    return open_source(Data(format='two_cubes', path=folder, options=options), LIBERO)


def test_samples_are_the_recorded_frames(folder, six_episodes):
    source = opened(folder)
    assert len(source) == sum(map(len, six_episodes))
    # Files are read in the order of their names: 10, 11, 6, 7, ...
    order = [six_episodes[i] for i in (4, 5, 0, 1, 2, 3)]
    sample, episode = source[4], order[1]
    assert sample.prepared and sample.instruction == TASKS[episode.task].instruction
    assert source.instruction(4) == sample.instruction
    for camera, view in zip(LIBERO.cameras, episode.views[2:4], strict=True):
        assert np.array_equal(sample.images[camera], simplejpeg.decode_jpeg(view, 'RGB'))
    assert np.array_equal(sample.chunk, episode.chunk[1])
    assert np.array_equal(sample.valid, episode.valid[1])
    assert np.array_equal(sample.state, episode.state[1])


def test_held_out_episodes_are_a_split_of_their_own(folder, six_episodes):
    source = opened(folder, split='validation')
    assert len(source) == len(six_episodes[0])
    actions, states = source.numbers()
    assert np.array_equal(actions, six_episodes[0].chunk[six_episodes[0].valid])
    assert np.array_equal(states, six_episodes[0].state)


def test_what_cannot_be_read_is_said(folder, tmp_path):
    with pytest.raises(ProfileError, match="split: 'all'"):
        opened(folder, split='all')
    with pytest.raises(DataError, match='holds no samples'):
        opened(tmp_path / 'nothing')
    with pytest.raises(ProfileError, match='two_cubes .*colour'):
        opened(folder, colour='red')
