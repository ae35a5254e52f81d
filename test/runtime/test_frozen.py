"""Expected counts follow from the definition: consecutive frames with the very same bytes."""

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.runtime.frozen_frames import FrozenFrames

SIZE = 20_000


@settings(deadline=None)
@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_change_of_any_byte_is_seen(at: int, by: int) -> None:
    frame = np.zeros(SIZE, np.uint8)
    detector = FrozenFrames(1)
    detector.update('primary', frame)
    frame[at] += by
    assert detector.update('primary', frame) == 0
    assert detector.update('primary', frame) == 1


def test_counts_per_camera_and_recovers() -> None:
    detector = FrozenFrames(2)
    still, other = bytes(9000), array('B', [1] * 9000)
    assert [detector.update('wrist', still) for _ in range(3)] == [0, 1, 2]
    detector.update('primary', other)
    assert detector.is_frozen('wrist') and not detector.is_frozen('primary')
    assert detector.update('wrist', other) == 0
    assert not detector.is_frozen('wrist')


def test_another_length_is_another_frame() -> None:
    detector = FrozenFrames(1)
    detector.update('primary', bytes(10))
    assert detector.update('primary', bytes(11)) == 0


def test_does_not_keep_the_buffer_of_the_caller() -> None:
    """A simulator that draws into one buffer must not look frozen."""
    buffer = array('B', bytes(SIZE))
    detector = FrozenFrames(1)
    detector.update('primary', buffer)
    buffer[-1] = 1
    assert detector.update('primary', buffer) == 0


def test_zero_never_freezes_and_reset_forgets() -> None:
    never, detector = FrozenFrames(0), FrozenFrames(1)
    for _ in range(5):
        never.update('primary', bytes(10))
        detector.update('primary', bytes(10))
    assert not never.is_frozen('primary') and detector.is_frozen('primary')
    detector.reset()
    assert not detector.is_frozen('primary') and detector.update('primary', bytes(10)) == 0


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ProfileError, match='frozen'):
        FrozenFrames(-1)
