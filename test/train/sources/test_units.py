"""Data in other units than the checkpoint's are refused; what training saw passes.

Expected: made numbers within and without the limits, counted by hand.
"""

import numpy as np
import pytest

from vla_prune_ros.errors import DataError
from vla_prune_ros.model.normalization import Bounds, Statistics
from vla_prune_ros.train.sources.base import require_units

MASK = np.array([True, True, False])
ACTION = Bounds(np.array([-1.0, 0.2, 0.0]), np.array([1.0, 0.4, 1.0]), MASK, np.zeros(3))
STATE = Bounds(np.array([-1.0, -1.0]), np.array([1.0, 1.0]), np.ones(2, bool), np.zeros(2))
KNOWN = Statistics('a', ACTION, STATE)


class Numbers:
    """A source of which only the numbers are asked."""

    def __init__(self, actions, states):
        self._numbers = actions, states

    def numbers(self):
        return self._numbers


def made(rng, scale=1.0):
    actions = rng.uniform([-1, 0.2, 0], [1, 0.4, 1], (100, 3)) * scale
    return actions, rng.uniform(-1, 1, (100, 2))


def test_what_training_saw_passes():
    actions, states = made(np.random.default_rng(0))
    require_units(Numbers(actions, states), 'mine', KNOWN)
    actions[:5, 0] = 50.0  # five of a hundred may be far off
    require_units(Numbers(actions, states), 'mine', KNOWN)
    actions[5, 0] = 50.0
    with pytest.raises(DataError, match='mine: actions: number 0 runs from .* from -1 to 1'):
        require_units(Numbers(actions, states), 'mine', KNOWN)


def test_a_gripper_in_per_cent_and_a_state_in_degrees_are_refused():
    actions, states = made(np.random.default_rng(1))
    percent = actions * [1, 1, 100]
    with pytest.raises(DataError, match='number 2 runs .* from 0 to 1; bring the data'):
        require_units(Numbers(percent, states), 'mine', KNOWN)
    with pytest.raises(DataError, match='states: number'):
        require_units(Numbers(actions, np.degrees(states)), 'mine', KNOWN)


def test_other_widths_and_absent_states_are_refused():
    actions, states = made(np.random.default_rng(2))
    with pytest.raises(DataError, match='actions have 2 numbers, the checkpoint 3'):
        require_units(Numbers(actions[:, :2], states), 'mine', KNOWN)
    with pytest.raises(DataError, match='no states'):
        require_units(Numbers(actions, None), 'mine', KNOWN)
    require_units(Numbers(actions, None), 'mine', Statistics('a', ACTION, None))
