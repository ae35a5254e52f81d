"""Sources by name: what is handed on, and what is refused."""

import numpy as np
import pytest

from vla_prune_ros.errors import DataError
from vla_prune_ros.model.normalization import Bounds, Statistics
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.train.config import Data
from vla_prune_ros.train.sources import rosbag
from vla_prune_ros.train.sources.base import FORMATS, open_source


@pytest.fixture
def opened(monkeypatch):
    """What a bag source was made with."""
    seen = {}

    def make(path, profile, **options):
        seen.update(options, path=path, profile=profile)
        return [1]

    monkeypatch.setattr(rosbag, 'Rosbag', make)
    return seen


def statistics():
    mean = np.arange(8.0)
    bounds = Bounds(mean - 1, mean + 1, np.ones(8, bool), mean)
    return Statistics('a', bounds, bounds)


def test_every_format_of_the_settings_has_a_source():
    assert set(FORMATS) == set(Data.model_fields['format'].annotation.__args__)


def test_a_bag_takes_the_branch_of_its_poses_from_the_checkpoint(opened, tmp_path):
    data = Data(format='rosbag', path=tmp_path, options={'actions': 'commands'})
    open_source(data, LIBERO, statistics())
    assert opened['rotation_reference'] == [3.0, 4.0, 5.0]
    assert (opened['actions'], opened['path']) == ('commands', tmp_path)
    given = Data(format='rosbag', path=tmp_path, options={'rotation_reference': [0, 0, 1]})
    open_source(given, LIBERO, statistics())
    assert opened['rotation_reference'] == [0, 0, 1]


def test_an_empty_source_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(rosbag, 'Rosbag', lambda *_, **__: [])
    with pytest.raises(DataError, match='holds no samples'):
        open_source(Data(format='rosbag', path=tmp_path), LIBERO)
