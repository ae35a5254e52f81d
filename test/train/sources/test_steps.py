"""Samples and chunks of several episodes, against a twin that walks through them frame by frame,
and the gripper conventions by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import DataError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.sources.base import GRIPPERS, Steps, gripper_columns, require_finite


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.booleans(),
)
def test_chunks_as_a_walk_through_the_episodes(
    lengths: list[int], chunk: int, stride: int, whole: bool
) -> None:
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
        assert steps.locate(index) == (episode, step)
        found, labels = steps.chunk(index)
        assert (found.tolist(), labels.tolist()) == (rows, valid)
    for outside in (-1, len(expected)):
        with pytest.raises(IndexError):
            steps.locate(outside)


def test_gripper_conventions() -> None:
    given_values = np.array([-1.0, 0.0, 0.25, 1.0])
    assert GRIPPERS['open_high'](given_values).tolist() == [-1.0, 0.0, 0.25, 1.0]
    assert GRIPPERS['open_low'](given_values).tolist() == [2.0, 1.0, 0.75, 0.0]
    assert GRIPPERS['libero'](given_values).tolist() == [1.0, 1.0, 0.75, 0.0]
    assert gripper_columns(LIBERO) == [6]
    assert gripper_columns(ALOHA) == [6, 13]


def test_the_first_frame_that_is_not_finite_is_named() -> None:
    values = np.zeros((4, 2))
    require_finite(values, 'episode 3')
    values[2:, 1] = np.inf
    with pytest.raises(DataError, match=r'episode 3, frame 2: a number is not finite'):
        require_finite(values, 'episode 3')
