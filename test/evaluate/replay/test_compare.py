"""How far chunks are apart, against a loop over the steps that uses ``math`` alone."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.evaluate.replay import metrics
from vla_prune_ros.evaluate.replay.metrics import ChunkSeries

AXES = ('delta_x', 'delta_y', 'delta_z', 'delta_rx', 'delta_ry', 'delta_rz')
K = 8
DEG = math.pi / 180


def sides(here, there, valid):
    """Two sides of one bag; a step that is not to be compared is unknown on the first side or on
    the second."""
    stamps = [200_000_000 * i for i in range(len(here))]
    even = np.arange(valid.shape[1]) % 2 == 0
    return tuple(
        ChunkSeries(stamps, [0] * len(stamps), actions=actions, known=known, dt_s=0.05)
        for actions, known in ((here, valid | even), (there, valid | ~even))
    )


# --- a twin without numpy ---------------------------------------------------------------------


def quantile(values, share):
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def spread(values):
    return {
        'mean': math.fsum(values) / len(values),
        'p50': quantile(values, 0.5),
        'p95': quantile(values, 0.95),
        'max': max(values),
    }


def quaternion(vector):
    """w, x, y, z of a rotation vector."""
    angle = math.hypot(*vector)
    factor = 0.5 if angle == 0 else math.sin(angle / 2) / angle
    return math.cos(angle / 2), *(factor * v for v in vector)


def angle_deg(a, b):
    """Of the rotation between two: |a - b| and |a + b| are 2 sin and 2 cos of a quarter of it."""
    a, b = quaternion(a), quaternion(b)
    apart = math.hypot(*(x - y for x, y in zip(a, b, strict=True)))
    other = math.hypot(*(x + y for x, y in zip(a, b, strict=True)))
    return 4 * math.atan2(min(apart, other), max(apart, other)) / DEG


def twin(here, there, valid):
    """Everything that ``compare`` says, step by step."""
    pairs, ends = [], []
    for chunk_here, chunk_there, known in zip(here, there, valid, strict=True):
        pairs += [p for p, k in zip(zip(chunk_here, chunk_there, strict=True), known, strict=True)
                  if k]  # fmt: skip
        if all(known):
            sums = [
                sum(a[axis] - b[axis] for a, b in zip(chunk_here, chunk_there, strict=True))
                for axis in range(3)
            ]
            ends.append(1e3 * math.hypot(*sums))
    if not pairs:
        return None
    units = [1e3] * 3 + [1 / DEG] * 3
    bands = [0.2] * 3 + [0.1] * 3
    axes, signs = {}, {}
    for i, name in enumerate(AXES):
        apart = [units[i] * (a[i] - b[i]) for a, b in pairs]
        axes[name] = {
            'mean_abs': math.fsum(map(abs, apart)) / len(apart),
            'bias': math.fsum(apart) / len(apart),
        }
        going = [
            (a[i] > 0) == (b[i] > 0)
            for a, b in pairs
            if units[i] * abs(a[i]) > bands[i] and units[i] * abs(b[i]) > bands[i]
        ]
        signs[name] = sum(going) / len(going) if going else None
    return {
        'steps': len(pairs),
        'translation_mm': spread([1e3 * math.dist(a[:3], b[:3]) for a, b in pairs]),
        'rotation_deg': spread([angle_deg(a[3:6], b[3:6]) for a, b in pairs]),
        'end_mm': spread(ends) if ends else None,
        'axes': axes,
        'sign_agreement': signs,
        'gripper_agreement': sum((a[6] >= 0.5) == (b[6] >= 0.5) for a, b in pairs) / len(pairs),
    }


def same(found, expected, path=''):
    """Numbers to 1e-9, the rest exactly."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for name in expected:
            same(found[name], expected[name], f'{path}/{name}')
    elif isinstance(expected, float):
        assert isinstance(found, float) and found == pytest.approx(expected, abs=1e-6), path
    else:
        assert found == expected and type(found) is type(expected), path


small = st.floats(-0.05, 0.05) | st.floats(-4e-4, 4e-4)  # about the dead band of 0.2 mm as well
angle = st.floats(-7.0, 7.0) | st.floats(-4e-3, 4e-3)  # beyond a turn, and about 0.1 degrees
gripper = st.floats(0.0, 1.0)
step = st.tuples(small, small, small, angle, angle, angle, gripper)


@st.composite
def bags(draw):
    """Up to three bags of up to four chunks of three steps."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(0, 4))
        both = [
            np.array(draw(st.lists(step, min_size=3 * count, max_size=3 * count)), float).reshape(
                count, 3, 7
            )
            for _ in range(2)
        ]
        known = draw(st.lists(st.booleans(), min_size=3 * count, max_size=3 * count))
        out.append((*both, np.array(known, bool).reshape(count, 3)))
    return out


@settings(max_examples=120, deadline=None)
@given(bags())
def test_all_figures_are_those_of_a_loop_over_the_steps_of_all_bags(parts):
    everything = [
        [chunk for side in of for chunk in side.tolist()] for of in zip(*parts, strict=True)
    ]
    expected = twin(*everything)
    found = metrics.compare([sides(*part) for part in parts])
    if expected is None:
        assert found is None
    else:
        found = asdict(found)
        found.pop('flips')  # test_execution.py
        same(found, expected)


def test_the_error_of_a_chunk_is_the_mean_of_its_known_steps():
    """1, 2, ... 8 mm: all of them 4.5, the first two 1.5; rotation and gripper do not count."""
    here, valid = np.ones((3, K, 7)), np.zeros((3, K), bool)
    here[..., :3] = 0
    here[..., 1] = -np.arange(1, 9) * 1e-3
    valid[0], valid[1, :2] = True, True
    found = metrics.step_error_mm(*sides(here, np.zeros((3, K, 7)), valid))
    assert found == [pytest.approx(4.5), pytest.approx(1.5), None]
