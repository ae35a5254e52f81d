"""What a replay keeps on disk: names, keys, and files that were torn at any byte.

Expected values: the answers as they were given; torn files are cut here at every length.
"""

import numpy as np
import pytest

from vla_prune_ros.bags.reader import Place
from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay.records import Instant, Recording, ReplayedQuery
from vla_prune_ros.evaluate.replay.settings import ReplaySetting
from vla_prune_ros.evaluate.replay.store import ReplayStore, bag_key, bag_name, method_key
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


@pytest.fixture
def answers(tmp_path):
    return ReplayStore(tmp_path / 'bag').answers(KEY)


def same(found, given):
    assert [q.to_json() for q in found] == [q.to_json() for q in given]
    return True


def test_names_of_bags_are_short_and_differ(tmp_path, monkeypatch):
    names = {bag_name(tmp_path / p) for p in ('a/run.mcap', 'b/run.mcap', 'a/run', 'a/run.bag')}
    assert len(names) == 4 and all(name.startswith('run-') for name in names)
    monkeypatch.chdir(tmp_path)
    assert bag_name(tmp_path / 'a' / '..' / 'b') == bag_name(tmp_path / 'b')


def test_a_key_follows_files_topics_setting_and_versions(tmp_path):
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
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    dense = Method('dense', 'dense', tmp_path, 'f1')
    mine = method_key(keys[0], dense)
    assert mine != method_key(keys[0], Method('dense', 'dense', tmp_path, 'f2'))
    with pytest.raises(FileNotFoundError):
        bag_key(tmp_path / 'gone', setting, versions)


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


def test_another_key_finds_nothing(answers, tmp_path):
    answers.begin(QUERIES)
    answers.remember(2, b'memory')
    answers.end()
    answers.remember(2, b'memory')
    other = ReplayStore(tmp_path / 'bag').answers({**KEY, 'versions': {'numpy': '2'}})
    assert (other.done(), other.so_far(), other.count()) == (None, ([], None), 0)
    other.begin([])
    assert answers.done() is None


def test_a_file_that_was_torn_anywhere_gives_whole_answers_or_none(answers):
    answers.begin(QUERIES)
    answers.remember(2, b'memory')
    whole = answers.path.read_bytes()
    starts = [whole.index(b'{"number": %d' % n) for n in range(3)]
    for size in range(len(whole)):
        answers.path.write_bytes(whole[:size])
        found, memory = answers.so_far()
        known = size >= starts[2] - 1  # the second line is whole without its end
        assert same(found, QUERIES[:2] if known else []) and memory == (
            b'memory' if known else None
        )
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
    given = Recording(
        path='bags/a',
        topics={'primary': '/cam'},
        guessed=True,
        there={'/cam': ('sensor_msgs/msg/Image', 7)},
        span_ns=(1, 2),
        instants=(
            Instant(0, 10**18, 10**18 + 1, 'lift', places, np.array([0.1, 0.2, 1 / 3])),
            Instant(1, 10**18 + 5, 10**18 + 6, 'put', places),
        ),
        lost=('cut',),
        losses={'skew': 2},
        problems=(('unstamped', '/cam'),),
        source='twist',
        actions=numbers,
        valid=np.array([[True, False, True], [False, False, True]]),
    )
    store = ReplayStore(tmp_path / 'bag')
    assert store.recording(KEY) is None
    store.put_recording(KEY, given)
    found = store.recording(KEY)
    assert found.actions.tobytes() == numbers.tobytes()
    assert found.valid.tolist() == given.valid.tolist()
    assert found.instants[0].position.tobytes() == given.instants[0].position.tobytes()
    assert found.instants[1].position is None
    assert [i.images for i in found.instants] == [places, places]
    for name in ('path', 'topics', 'guessed', 'there', 'span_ns', 'lost', 'losses', 'problems'):
        assert getattr(found, name) == getattr(given, name)
    assert store.recording({**KEY, 'bag': []}) is None
    (file,) = (tmp_path / 'bag').iterdir()
    whole = file.read_bytes()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        assert store.recording(KEY) is None


def test_without_an_instant_there_is_a_recording_too(tmp_path):
    nothing = np.zeros((0, 8, 7)), np.zeros((0, 8), bool)
    given = Recording('', {}, False, {}, (0, 0), (), (), {}, (), '', *nothing)
    store = ReplayStore(tmp_path / 'bag')
    store.put_recording(KEY, given)
    found = store.recording(KEY)
    assert (found.actions.shape, found.valid.shape) == ((0, 8, 7), (0, 8))
