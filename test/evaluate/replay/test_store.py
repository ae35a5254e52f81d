"""What a replay keeps on disk: records, names, keys, and files that were torn at any byte."""

import json

import numpy as np
import pytest
import replay_result as sample
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.bags.reader import Place
from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay.scan import ReplaySetting
from vla_prune_ros.evaluate.replay.store import (
    Answers,
    Instant,
    ReplayedQuery,
    ReplayJob,
    bag_key,
    bag_name,
    dumps,
    load_recording,
    loads,
    save_recording,
)
from vla_prune_ros.records import InferenceRecord

QUERIES = [
    ReplayedQuery(
        n,
        0,
        1000 + n,
        np.full((2, 7), n / 3),
        kept={'a': np.eye(3)[n] > 0},
        record=InferenceRecord(mode='fine'),
    )
    for n in range(3)
]
KEY = {'bag': [['a', 1, 2]], 'method': 'dense'}

# --- records ----------------------------------------------------------------------------------

floats = st.floats(allow_nan=False, allow_subnormal=True)
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
    stamp_ns=st.integers(0, 2**63 - 1),
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
    ),
)


@settings(max_examples=150, deadline=None)
@given(queries)
def test_a_query_survives_to_the_last_bit(query):
    found = loads(dumps(query), ReplayedQuery)
    for name in ('number', 'epoch', 'stamp_ns', 'refusal'):
        assert getattr(found, name) == getattr(query, name)
    assert repr(found.record) == repr(query.record)  # where -0.0 is not 0.0
    if query.actions is None:
        assert found.actions is None
    else:
        assert found.actions.dtype == np.float64 and found.actions.shape == query.actions.shape
        assert found.actions.tobytes() == query.actions.tobytes()
    assert list(found.kept) == list(query.kept)
    for camera, mask in query.kept.items():
        assert found.kept[camera].dtype == bool
        assert found.kept[camera].tolist() == mask.tolist()


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: data.pop('number'),
        lambda data: data['record'].update(speed=1.0),
        lambda data: data['actions'].update(data='ff'),
        lambda data: data['actions'].update(data='no'),
        lambda data: data.pop('__record__'),
        lambda data: data.update(__record__='Recording'),
    ],
)
def test_what_is_no_query_is_none(damage):
    data = json.loads(dumps(QUERIES[0]))
    assert loads(json.dumps(data).encode(), ReplayedQuery) is not None
    damage(data)
    assert loads(json.dumps(data).encode(), ReplayedQuery) is None
    assert loads(b'[1, 2]', ReplayedQuery) is None


# --- keys -------------------------------------------------------------------------------------


def test_names_of_bags_are_short_and_differ(tmp_path, monkeypatch):
    names = {bag_name(tmp_path / p) for p in ('a/run.mcap', 'b/run.mcap', 'a/run', 'a/run.bag')}
    assert len(names) == 4 and all(name.startswith('run-') for name in names)
    monkeypatch.chdir(tmp_path)
    assert bag_name(tmp_path / 'a' / '..' / 'b') == bag_name(tmp_path / 'b')


def test_a_key_follows_files_topics_setting_versions_and_method(tmp_path):
    bag = tmp_path / 'bag'
    bag.mkdir()
    file, topics = bag / 'a.mcap', tmp_path / 'topics.yaml'
    file.write_bytes(b'one')
    topics.write_text('twist: /a')
    setting, versions = ReplaySetting(topics=str(topics)), {'numpy': '1'}
    keys = [bag_key(bag, setting, versions)]
    assert bag_key(bag, setting, versions) == keys[0]
    keys.append(bag_key(bag, ReplaySetting(topics=str(topics), period_s=1.0), versions))
    keys.append(bag_key(bag, setting, {'numpy': '2'}))
    file.write_bytes(b'three')
    keys.append(bag_key(bag, setting, versions))
    topics.write_text('twist: /b')
    keys.append(bag_key(bag, setting, versions))
    job = ReplayJob(bag, tmp_path, keys[0])
    keys += [job.of(Method('dense', 'dense', tmp_path, f)).key for f in ('f1', 'f2')]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    with pytest.raises(FileNotFoundError):
        bag_key(tmp_path / 'gone', setting, versions)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def answers(tmp_path):
    return Answers(tmp_path / 'bag', KEY)


def same(found, given):
    return list(map(dumps, found)) == list(map(dumps, given))


def test_answers_are_done_when_the_bag_ended(answers):
    assert answers.done() is None and answers.count() == 0
    answers.begin(QUERIES[:1])
    for query in QUERIES[1:]:
        answers.append(query)
    assert answers.done() is None and answers.count() == 3
    answers.remember(3, b'memory')
    answers.end()
    assert same(answers.done(), QUERIES) and answers.count() == 3
    assert answers.so_far() == ([], None)  # the memory is gone: there is nothing to go on from


def test_another_key_finds_nothing(answers):
    answers.begin(QUERIES)
    answers.end()
    answers.remember(2, b'memory')
    other = Answers(answers.path.parent, {**KEY, 'versions': {'numpy': '2'}})
    assert (other.done(), other.so_far(), other.count()) == (None, ([], None), 0)
    other.begin([])
    assert answers.done() is None


def test_a_file_that_was_torn_anywhere_gives_whole_answers_or_none(answers):
    answers.begin(QUERIES)
    answers.remember(2, b'memory')
    whole = answers.path.read_bytes()
    third = whole.index(b'{"__record__": "ReplayedQuery", "number": 2')
    for size in (*range(0, third - 9, 7), *range(third - 9, third + 9), len(whole) - 1):
        answers.path.write_bytes(whole[:size])
        found, memory = answers.so_far()
        if size >= third - 1:  # the second line is whole without its end
            assert same(found, QUERIES[:2]) and memory == b'memory'
        else:
            assert (found, memory) == ([], None)
        assert answers.done() is None


@pytest.mark.parametrize('data', [b'', b'\x80\x05nonsense', b'[1, 2]', None], ids=repr)
def test_a_memory_that_is_none_is_left(answers, data):
    answers.begin(QUERIES)
    answers.remember(2, b'memory')
    file = answers.path.with_suffix('.memory')
    file.unlink() if data is None else file.write_bytes(data)
    assert answers.so_far() == ([], None)


def test_a_recording_comes_back_to_the_last_bit_under_its_key(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(2, 3, 7)) / 3
    numbers[0, 0, 0], numbers[1, 2, 6] = -0.0, np.nan  # not known there
    places = {'primary': Place('/cam', 10**18 + 1, 2)}
    instants = (
        Instant(0, 10**18, 10**18 + 1, 'lift', places, np.array([0.1, 0.2, 1 / 3])),
        Instant(1, 10**18 + 5, 10**18 + 6, 'put', places),
    )
    given = sample.recording(
        instants,
        topics={'primary': '/cam'},
        guessed=True,
        there={'/cam': ('sensor_msgs/msg/Image', 7)},
        losses={'skew': 2},
        problems=(('unstamped', '/cam'),),
        source='twist',
        actions=numbers,
        valid=np.array([[True, False, True], [False, False, True]]),
    )
    assert load_recording(tmp_path, KEY) is None
    save_recording(tmp_path, KEY, given)
    found = load_recording(tmp_path, KEY)
    assert found.actions.tobytes() == numbers.tobytes()
    assert found.valid.tolist() == given.valid.tolist() and found.losses == given.losses
    assert [i.images for i in found.instants] == [places, places]
    assert dumps(found) == dumps(given)
    assert load_recording(tmp_path, {**KEY, 'bag': []}) is None
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:size])
        assert load_recording(tmp_path, KEY) is None
    save_recording(tmp_path, KEY, sample.recording())
    empty = load_recording(tmp_path, KEY)
    assert (empty.actions.shape, empty.valid.shape) == ((0, 8, 7), (0, 8))
