"""Samples and chunks against a twin that walks through the episodes frame by frame; units
and formats by numbers made here."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import DataError
from vla_prune_ros.model.normalization import Bounds, Statistics
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.train.config import Data
from vla_prune_ros.train.sources import rosbag
from vla_prune_ros.train.sources.base import (
    FORMATS,
    Steps,
    open_source,
    require_units,
)

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(deadline=None)
@given(lengths, st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_chunks_as_a_walk_through_the_episodes(lengths, chunk, stride, whole):
    expected, begin = [], 0
    for episode, length in enumerate(lengths):
        for start in range(length):
            frames = [start + k * stride for k in range(chunk)]
            valid = [frame < length for frame in frames]
            if all(valid) or not whole:
                rows = [begin + (f if f < length else length - 1) for f in frames]
                expected.append((episode, begin + start, rows, valid))
        begin += length
    steps = Steps(lengths, chunk, stride, whole)
    assert len(steps) == len(expected)
    for index, (episode, step, rows, valid) in enumerate(expected):
        *place, found, labels = steps.locate(index)
        assert place == [episode, step]
        assert (found.tolist(), labels.tolist()) == (rows, valid)
    for outside in (-1, len(expected)):
        with pytest.raises(IndexError):
            steps.locate(outside)


def test_other_units_and_widths_and_absent_states_are_refused():
    mask, one = np.array([True, True, False]), np.ones(2)
    bounds = Bounds(np.array([-1.0, 0.2, 0.0]), np.array([1.0, 0.4, 1.0]), mask, np.zeros(3))
    known = Statistics('a', bounds, Bounds(-one, one, np.ones(2, bool), np.zeros(2)))
    rng = np.random.default_rng(0)
    actions = rng.uniform([-1, 0.2, 0], [1, 0.4, 1], (100, 3))
    states = rng.uniform(-1, 1, (100, 2))

    def check(actions, states, known=known):
        require_units(SimpleNamespace(numbers=lambda: (actions, states)), 'mine', known)

    check(actions, states)
    check(actions, None, Statistics('a', bounds, None))
    for numbers, what in (
        ((actions * [1, 1, 100], states), 'number 2'),  # a gripper in per cent
        ((actions, np.degrees(states)), 'states: number'),
        ((actions[:, :2], states), '2 numbers.* 3'),
        ((actions, None), 'no states'),
    ):
        with pytest.raises(DataError, match=what):
            check(*numbers)
    actions[:5, 0] = 50.0  # five of a hundred may be far off
    check(actions, states)
    actions[5, 0] = 50.0
    with pytest.raises(DataError, match='mine: actions: number 0'):
        check(actions, states)


def test_every_format_of_the_settings_has_a_source():
    assert set(FORMATS) == set(Data.model_fields['format'].annotation.__args__)


@pytest.mark.parametrize('given', [None, [0, 0, 1]])
def test_a_bag_takes_the_branch_of_its_poses_from_the_checkpoint(monkeypatch, tmp_path, given):
    seen = {}

    def make(path, profile, **options):
        seen.update(options, path=path)
        return [1]

    monkeypatch.setattr(rosbag, 'Rosbag', make)
    mean = np.arange(8.0)
    bounds = Bounds(mean - 1, mean + 1, np.ones(8, bool), mean)
    options = {'actions': 'commands'} | ({'rotation_reference': given} if given else {})
    data = Data(format='rosbag', path=tmp_path, options=options)
    open_source(data, LIBERO, Statistics('a', bounds, bounds))
    assert seen['rotation_reference'] == (given or [3.0, 4.0, 5.0])
    assert (seen['actions'], seen['path']) == ('commands', tmp_path)
