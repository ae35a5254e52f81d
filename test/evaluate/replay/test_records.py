"""Answers as lines of JSON. What went in is the expectation, compared bit by bit; the packed
masks of the hand-made example are written out."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.evaluate.replay.records import ReplayedQuery
from vla_prune_ros.records import InferenceRecord

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
    kept=st.dictionaries(st.text(), masks, max_size=3),
    record=st.builds(
        InferenceRecord,
        mode=st.sampled_from(['', 'dense', 'coarse', 'fine']),
        visual_tokens=st.none() | st.integers(0, 512),
        stages_ms=st.dictionaries(st.text(), floats, max_size=3),
        refresh_ms=st.none() | floats,
        motion=st.text(),
        motion_m_s=st.none() | floats,
    ),
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
    for name in ('number', 'epoch', 'stamp_ns', 'refusal'):
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
    assert found.record == query.record
    assert list(found.record.stages_ms) == list(query.record.stages_ms)
    for name, value in query.record.stages_ms.items():
        assert bits(found.record.stages_ms[name]) == bits(value)


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: data.pop('record'),
        lambda data: data.update(number='one'),
        lambda data: data.update(actions=[[1.0], [1.0, 2.0]]),
        lambda data: data.update(kept={'primary': [9, 'ff']}),
        lambda data: data.update(kept={'primary': [3, 'no']}),
        lambda data: data.update(kept={'primary': [3]}),
        lambda data: data.update(record={'speed': 1.0}),
    ],
)
def test_what_is_no_query_is_refused(damage):
    data = ReplayedQuery(1, 1, 1, np.zeros((8, 7)), kept={'primary': np.ones(9, bool)}).to_json()
    damage(data)
    with pytest.raises((KeyError, TypeError, ValueError)):
        ReplayedQuery.from_json(data)
