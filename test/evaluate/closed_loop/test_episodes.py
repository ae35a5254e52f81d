"""Episodes on disk: what is written is there after any end, and nothing is mixed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.closed_loop.episodes import (
    EpisodeKey,
    EpisodeQuery,
    EpisodeResult,
    EpisodeStore,
)
from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.options import Setting

HERE = {'torch': '2.13.0', 'mujoco': '3.3.7'}
DENSE = Method('dense', 'dense', Path('weights'), 'aaaa')
OWN = Method('fastv:64@tuned', 'fastv:64', Path('tuned'), 'bbbb')
SETTING = Setting(threads=1, max_steps=40)
UNKNOWN = '{"method": "dense", "queries": [{"speed": 1}], "refresh_ms": []}'


def episode(seed, success=True):
    query = EpisodeQuery(
        step=0, mode='dense', visual_tokens=512, total_ms=4.5, stages_ms={'vision': 1.25}
    )
    return EpisodeResult(
        'two_cubes', 'pick_red', seed, 'pick up the red cube', success, 31, '', 0.5, 512, 'pose',
        (query, replace(query, step=8, motion_m_s=0.1)), (2.5,),
    )  # fmt: skip


def key(seed, method='dense'):
    return EpisodeKey(method, 'pick_red', seed)


def opened(folder, setting=SETTING, here=HERE):
    return EpisodeStore(folder, setting, here)


@pytest.fixture
def folder(tmp_path):
    """With episodes 0 and 1 of ``dense``."""
    with opened(tmp_path / 'out') as store:
        for seed in (0, 1):
            store.append(DENSE, key(seed), episode(seed), HERE)
    return tmp_path / 'out'


def test_what_was_written_is_read_back(folder):
    with opened(folder) as store:
        assert store.episodes((DENSE,), 'aaaa') == {key(0): episode(0), key(1): episode(1)}
        assert store.episodes((OWN,), 'aaaa') == {}
    lines = (folder / 'episodes.jsonl').read_text().splitlines()
    assert [json.loads(line)['seed'] for line in lines] == [0, 1]


def test_an_episode_is_on_disk_while_the_run_goes_on_and_the_last_of_a_key_counts(folder):
    with opened(folder) as store:
        store.append(DENSE, key(0), episode(0, success=False), HERE)
        assert len((folder / 'episodes.jsonl').read_text().splitlines()) == 3
        assert store.episodes((DENSE,), 'aaaa')[key(0)].success is False


@pytest.mark.parametrize('cut', [1, 20, 200])
def test_a_torn_last_line_is_cut_off_and_the_next_one_is_whole(folder, cut):
    path = folder / 'episodes.jsonl'
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(folder) as store:
        assert set(store.episodes((DENSE,), 'aaaa')) == {key(0)}
        store.append(DENSE, key(5), episode(5), HERE)
    with opened(folder) as store:
        assert set(store.episodes((DENSE,), 'aaaa')) == {key(0), key(5)}


def test_nothing_but_a_torn_line(tmp_path):
    (tmp_path / 'episodes.jsonl').write_text('{"method": "den')
    with opened(tmp_path) as store:
        assert store.episodes((DENSE,), 'aaaa') == {}
    assert (tmp_path / 'episodes.jsonl').read_text() == ''


@pytest.mark.parametrize(
    'change', [{'instruction': 'other'}, {'refresh': False}, {'max_steps': None}], ids=str
)
def test_another_setting_is_another_episode(folder, change):
    with opened(folder, replace(SETTING, **change)) as store:
        assert store.episodes((DENSE,), 'aaaa') == {}
        store.append(DENSE, key(0), episode(0, success=False), HERE)
    with opened(folder) as store:
        assert store.episodes((DENSE,), 'aaaa')[key(0)].success is True


def test_other_weights_and_method_files_are_refused(folder):
    uniform = Method('uniform:64', 'uniform:64', Path('weights'), 'cccc')
    mine = Method('mine.yaml', 'mine.yaml', Path('weights'), 'aaaa+1111')
    with opened(folder) as store:
        for method in (replace(DENSE, fingerprint='cccc'), uniform):
            with pytest.raises(VlaPruneError, match="of 'dense' with another checkpoint.*--out"):
                store.episodes((method,), 'cccc')
        store.append(mine, key(0, mine.name), episode(0), HERE)
        assert len(store.episodes((mine, DENSE), 'aaaa')) == 3
        with pytest.raises(VlaPruneError, match='method file'):
            store.episodes((replace(mine, fingerprint='aaaa+2222'),), 'aaaa')


def test_weights_of_its_own_are_a_methods_own_business(folder):
    with opened(folder) as store:
        store.append(OWN, key(0, OWN.name), episode(0), HERE)
        assert set(store.episodes((DENSE, OWN), 'aaaa')) == {key(0), key(1), key(0, OWN.name)}
        assert set(store.episodes((DENSE,), 'aaaa')) == {key(0), key(1)}
        with pytest.raises(VlaPruneError, match='fastv:64@tuned'):
            store.episodes((replace(OWN, fingerprint='dddd'),), 'aaaa')


def test_other_versions_are_refused_by_name(folder):
    newer = {'torch': '2.13.0', 'mujoco': '3.4.0'}
    with (
        opened(folder, here=newer) as store,
        pytest.raises(VlaPruneError, match=r'made with mujoco 3.3.7 \(here 3.4.0\)'),
    ):
        store.episodes((DENSE,), 'aaaa')
    with opened(folder) as store:
        with pytest.raises(VlaPruneError, match='mujoco 3.4.0'):  # of a worker elsewhere
            store.append(DENSE, key(9), episode(9), newer)
        assert key(9) not in store.episodes((DENSE,), 'aaaa')


def test_one_run_at_a_time(folder):
    with opened(folder), pytest.raises(VlaPruneError, match='in use by another run'):
        opened(folder)
    opened(folder).__exit__(None, None, None)


@pytest.mark.parametrize('line', ['nonsense', '[1, 2]', '{"method": "dense"}', UNKNOWN])
def test_a_line_of_something_else_is_named(folder, line):
    path = folder / 'episodes.jsonl'
    path.write_text(line + '\n' + path.read_text())
    with pytest.raises(VlaPruneError, match='in line 1; delete that line'):
        opened(folder)
