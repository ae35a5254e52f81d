"""Answers as lines of JSON. What went in is the expectation, compared bit by bit; the packed
masks of the hand-made example are written out."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.evaluate.replay.records import ReplayedQuery
from vla_prune_ros.records import MotionHint

floats = st.floats(allow_nan=False, allow_subnormal=True)
stamps = st.integers(0, 2**63 - 1)
masks = st.lists(st.booleans(), max_size=300).map(lambda bits: np.array(bits, bool))
chunks = st.integers(1, 9).flatmap(
    lambda k: st.lists(floats, min_size=7 * k, max_size=7 * k).map(
        lambda values: np.array(values).reshape(k, 7)
    )
)
queries = st.builds(
    ReplayedQuery,
    number=st.integers(0, 10**6),
    epoch=st.integers(0, 10**6),
    stamp_ns=stamps,
    actions=st.none() | chunks,
    refusal=st.text(),
    mode=st.sampled_from(['', 'dense', 'coarse', 'fine']),
    kept=st.dictionaries(st.text(), masks, max_size=3),
    timings_ms=st.dictionaries(st.text(), floats, max_size=3),
    refresh_ms=st.none() | floats,
    motion=st.none() | st.builds(MotionHint, floats, floats, floats, st.text()),
)


def bits(value):
    """A number's eight bytes: -0.0 is not 0.0 there."""
    return struct.pack('<d', value)


def through_json(query):
    return ReplayedQuery.from_json(json.loads(json.dumps(query.to_json())))


@settings(max_examples=150, deadline=None)
@given(queries)
def test_a_query_survives_to_the_last_bit(query):
    found = through_json(query)
    for name in ('number', 'epoch', 'stamp_ns', 'refusal', 'mode'):
        assert getattr(found, name) == getattr(query, name)
    if query.actions is None:
        assert found.actions is None
    else:
        assert found.actions.dtype == np.float64 and found.actions.shape == query.actions.shape
        assert found.actions.tobytes() == query.actions.tobytes()
    assert list(found.kept) == list(query.kept)
    for camera, mask in query.kept.items():
        assert found.kept[camera].dtype == bool
        assert found.kept[camera].tolist() == mask.tolist()
    assert found.visual_tokens == sum(sum(mask.tolist()) for mask in query.kept.values())
    assert list(found.timings_ms) == list(query.timings_ms)
    for name, value in query.timings_ms.items():
        assert bits(found.timings_ms[name]) == bits(value)
    if query.refresh_ms is None:
        assert found.refresh_ms is None
    else:
        assert bits(found.refresh_ms) == bits(query.refresh_ms)
    if query.motion is None:
        assert found.motion is None
    else:
        assert found.motion.source == query.motion.source
        for name in ('linear_m_s', 'angular_rad_s', 'vertical_m_s'):
            assert bits(getattr(found.motion, name)) == bits(getattr(query.motion, name))


@pytest.mark.parametrize('value', [-0.0, 5e-324, -2.2250738585072014e-308, 0.1 + 0.2, 1e308])
def test_numbers_that_text_often_loses(value):
    query = ReplayedQuery(0, 0, 2**53 + 1, np.full((8, 7), value), refresh_ms=value)
    found = through_json(query)
    assert found.actions.tobytes() == query.actions.tobytes()
    assert (bits(found.refresh_ms), found.stamp_ns) == (bits(value), 2**53 + 1)


def test_the_fields_by_hand():
    """Masks are packed from the left: 1 0 1 is 101 and five zeros, hexadecimal a0; nine ones are
    ff and 80."""
    kept = {'primary': np.array([True, False, True]), 'wrist': np.ones(9, bool)}
    motion = MotionHint(0.25, 0.5, -0.125, 'pose')
    query = ReplayedQuery(3, 1, 17, np.eye(1, 7), '', 'fine', kept, {'total': 4.5}, 2.5, motion)
    assert query.visual_tokens == 11
    assert query.to_json() == {
        'number': 3,
        'epoch': 1,
        'stamp_ns': 17,
        'actions': [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]],
        'refusal': '',
        'mode': 'fine',
        'kept': {'primary': [3, 'a0'], 'wrist': [9, 'ff80']},
        'timings_ms': {'total': 4.5},
        'refresh_ms': 2.5,
        'motion': {
            'linear_m_s': 0.25,
            'angular_rad_s': 0.5,
            'vertical_m_s': -0.125,
            'source': 'pose',
        },
    }


def test_a_refused_query_has_no_tokens():
    query = through_json(ReplayedQuery(5, 2, 9, None, 'corrupt: no image'))
    assert (query.actions, query.refusal, query.mode, query.visual_tokens) == (
        None,
        'corrupt: no image',
        '',
        0,
    )


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: data.pop('motion'),
        lambda data: data.update(number='one'),
        lambda data: data.update(actions=[[1.0], [1.0, 2.0]]),
        lambda data: data.update(kept={'primary': [9, 'ff']}),
        lambda data: data.update(kept={'primary': [3, 'no']}),
        lambda data: data.update(kept={'primary': [3]}),
        lambda data: data.update(motion={'speed': 1.0}),
    ],
)
def test_what_is_no_query_is_refused(damage):
    data = ReplayedQuery(1, 1, 1, np.zeros((8, 7)), kept={'primary': np.ones(9, bool)}).to_json()
    damage(data)
    with pytest.raises((KeyError, TypeError, ValueError)):
        ReplayedQuery.from_json(data)
