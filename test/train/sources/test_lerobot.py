"""LeRobot datasets of versions 2.0, 2.1 and 3.0, written by ``lerobot_writer``: expected numbers
are those that it wrote, and every picture tells which frame of which episode it is."""

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_prune_ros.errors import DataError, ProfileError, VlaPruneError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.sources.lerobot import LeRobot, ParquetImages, Videos

pytest.importorskip('pyarrow', reason='the train extra is not installed')
pytest.importorskip('av', reason='the train extra is not installed')

import lerobot_writer as writer

Spec = writer.Spec
FRONT, HAND = 'observation.images.front', 'observation.images.hand'
CAMERAS = {'primary': FRONT}
ONE = replace(LIBERO, cameras=('primary',), chunk=3)
MIXED = {'embedded': (HAND,), 'filmed': (FRONT,)}


@pytest.mark.parametrize('version', ['v2.0', 'v2.1', 'v3.0'])
def test_samples_are_what_was_written(tmp_path: Path, version: str) -> None:
    spec = Spec(version=version, **MIXED)
    profile = replace(LIBERO, chunk=3)
    source = LeRobot(
        writer.write(tmp_path / 'd', spec), profile, cameras={'wrist': HAND, **CAMERAS}
    )
    assert len(source) == sum(spec.lengths)
    places = [(e, f) for e, length in enumerate(spec.lengths) for f in range(length)]
    order = np.random.default_rng(0).permutation(len(places))
    for index in order:
        episode, frame = places[index]
        sample, length = source[int(index)], spec.lengths[episode]
        assert list(sample.images) == ['primary', 'wrist']
        expected = writer.picture(writer.number(episode, frame))
        np.testing.assert_array_equal(sample.images['wrist'], expected)
        front = sample.images['primary']
        assert front.shape == expected.shape and front.dtype == np.uint8
        assert writer.read_number(front) == writer.number(episode, frame)
        assert np.abs(front.astype(int) - expected).mean() < 8
        actions = writer.actions(spec, episode)
        rows = np.minimum(frame + np.arange(3), length - 1)
        np.testing.assert_array_equal(sample.chunk, actions[rows].astype(np.float64))
        np.testing.assert_array_equal(sample.valid, frame + np.arange(3) < length)
        np.testing.assert_array_equal(sample.state, writer.states(spec, episode)[frame])
        assert sample.chunk.dtype == sample.state.dtype == np.float64
        words = writer.TASKS[1 - episode % 2]
        assert sample.instruction == source.instruction(int(index)) == words


def test_numbers_are_those_of_all_frames(tmp_path: Path) -> None:
    spec = Spec(version='v3.0')
    source = LeRobot(writer.write(tmp_path / 'd', spec), ONE, cameras=CAMERAS, whole_chunks=True)
    assert len(source) == sum(length - 2 for length in spec.lengths)
    actions, states = source.numbers()
    for found, of in ((actions, writer.actions), (states, writer.states)):
        np.testing.assert_array_equal(found, np.concatenate([of(spec, e) for e in range(3)]))


def test_a_copy_for_another_process_opens_its_own_files(tmp_path: Path) -> None:
    root = writer.write(tmp_path / 'd', Spec(**MIXED))
    source = LeRobot(root, replace(LIBERO, chunk=1), cameras={'wrist': HAND, **CAMERAS})
    assert writer.read_number(source[7].images['primary']) == writer.number(1, 0)
    copy = pickle.loads(pickle.dumps(source))
    for each in (source, copy, source):
        for camera in ('primary', 'wrist'):
            assert writer.read_number(each[8].images[camera]) == writer.number(1, 1)


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_chosen_episodes(tmp_path: Path, version: str) -> None:
    spec = Spec(version=version, embedded=(HAND,))
    root = writer.write(tmp_path / 'd', spec)
    profile = replace(LIBERO, chunk=1)
    source = LeRobot(root, profile, cameras={**CAMERAS, 'wrist': HAND}, episodes=[2, 1])
    assert len(source) == spec.lengths[1] + spec.lengths[2]
    for index, place in ((0, (1, 0)), (4, (1, 4)), (5, (2, 0)), (10, (2, 5))):
        for camera in ('primary', 'wrist'):
            assert writer.read_number(source[index].images[camera]) == writer.number(*place)
    with pytest.raises(DataError, match='episode 7'):
        LeRobot(root, ONE, cameras=CAMERAS, episodes=[0, 7])


@pytest.mark.parametrize(
    ('gripper', 'turned'),
    [('open_high', lambda g: g), ('open_low', lambda g: 1 - g), ('libero', lambda g: 1 - g)],
)
def test_gripper_of_every_hand_is_turned(tmp_path: Path, gripper: str, turned: Any) -> None:
    profile = replace(ALOHA, cameras=('primary',), chunk=2, control_period_s=0.05)
    spec = Spec(action=14, state=14)
    root = writer.write(tmp_path / 'd', spec)
    found = LeRobot(root, profile, cameras=CAMERAS, gripper=gripper)[1].chunk
    expected = writer.actions(spec, 0)[1:3].astype(np.float64)
    for hand in (6, 13):
        expected[:, hand] = turned(expected[:, hand])
    np.testing.assert_array_equal(found, expected)


def test_stride_takes_every_second_action(tmp_path: Path) -> None:
    spec = Spec(action=14, state=14, fps=50)
    root = writer.write(tmp_path / 'd', spec)
    profile = replace(ALOHA, cameras=('primary',), chunk=3)
    source = LeRobot(root, profile, cameras=CAMERAS, stride=2)
    sample = source[2]
    np.testing.assert_array_equal(sample.chunk, writer.actions(spec, 0)[[2, 4, 6]])
    assert sample.valid.all() and source[3].valid.tolist() == [True, True, False]
    assert writer.read_number(sample.images['primary']) == writer.number(0, 2)
    with pytest.raises(DataError, match='50 .* 0.04 s.*stride: 2'):
        LeRobot(root, profile, cameras=CAMERAS)


def test_a_rate_that_is_written_wrong(tmp_path: Path) -> None:
    root = writer.write(tmp_path / 'd', Spec(fps=10))
    with pytest.raises(DataError, match="'libero'.*control_period_s: 0.1"):
        LeRobot(root, ONE, cameras=CAMERAS)
    source = LeRobot(root, ONE, cameras=CAMERAS, fps=20)
    assert writer.read_number(source[9].images['primary']) == writer.number(1, 2)


CODECS = {
    'h264 with frames out of order': ('libx264', {'g': '12', 'bf': '3', 'crf': '20'}),
    'h264, one key frame': ('libx264', {'g': '250', 'bf': '2', 'crf': '20'}),
    'h264, open groups': ('libx264', {'g': '9', 'bf': '3', 'x264-params': 'open-gop=1'}),
    'av1 as lerobot writes it': ('libsvtav1', {'g': '2', 'crf': '30'}),
}


@pytest.mark.parametrize('codec', CODECS.values(), ids=CODECS.keys())
def test_every_frame_is_found_in_any_order(tmp_path: Path, codec: Any) -> None:
    spec = Spec('v3.0', lengths=(40, 30), files=((0, 1),), codec=codec)
    file = writer.write(tmp_path / 'd', spec) / 'videos' / FRONT / 'chunk-000' / 'file-000.mp4'
    places = [(e, f) for e, length in enumerate(spec.lengths) for f in range(length)]
    videos = Videos(spec.fps)
    forth = list(range(len(places)))
    mixed = np.random.default_rng(1).permutation(len(places)).tolist()
    for index in [*forth, *mixed, *reversed(forth), 3, 3]:
        view = videos.read(file, index / spec.fps + 1e-4)
        assert writer.read_number(view) == writer.number(*places[index])
    for time_s in (len(places) / spec.fps, 100.0):
        with pytest.raises(DataError, match='file-000.mp4'):
            videos.read(file, time_s)
    assert writer.read_number(videos.read(file, 0.0)) == writer.number(0, 0)


def test_files_are_closed_and_opened_again(tmp_path: Path) -> None:
    spec = Spec()
    root = writer.write(tmp_path / 'd', spec)
    videos = Videos(spec.fps, kept_files=1)
    for episode in (0, 1, 2, 1, 0):
        file = root / 'videos' / 'chunk-000' / FRONT / f'episode_{episode:06d}.mp4'
        assert writer.read_number(videos.read(file, 0.1)) == writer.number(episode, 2)


def test_embedded_images_in_bounded_memory(tmp_path: Path) -> None:
    spec = Spec(embedded=(FRONT, HAND), filmed=())
    root = writer.write(tmp_path / 'd', spec)
    images = ParquetImages(keep_bytes=1)
    for episode, frame in ((0, 0), (2, 5), (0, 3), (0, 0), (1, 1)):
        for feature, views in ((FRONT, 0), (HAND, 1)):
            expected = writer.picture(writer.number(episode, frame, views))
            np.testing.assert_array_equal(
                images.read(feature, table_of(root, episode), *divmod(frame, spec.row_group)),
                expected,
            )
    assert len(images.groups) == 1


def test_pictures_beside_the_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = writer.write(tmp_path / 'd', Spec(lengths=(2,), embedded=(FRONT,), filmed=()))
    file = root / 'data' / 'chunk-000' / 'episode_000000.parquet'
    table = pq.read_table(file)
    entries = table.column(FRONT).to_pylist()
    for frame, entry in enumerate(entries):
        (root / f'{frame}.png').write_bytes(entry['bytes'])
        entry.update(bytes=None, path=f'{frame}.png')
    column = pa.array(entries, pa.struct({'bytes': pa.binary(), 'path': pa.string()}))
    pq.write_table(table.drop_columns([FRONT]).append_column(FRONT, column), file)
    source = LeRobot(root, replace(ONE, chunk=1), cameras=CAMERAS)
    assert writer.read_number(source[1].images['primary']) == writer.number(0, 1)


def edit_info(root: Path, **values: Any) -> None:
    file = root / 'meta' / 'info.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def video_of(root: Path, episode: int = 1) -> Path:
    return root / 'videos' / 'chunk-000' / FRONT / f'episode_{episode:06d}.mp4'


def table_of(root: Path, episode: int = 1) -> Path:
    return root / 'data' / 'chunk-000' / f'episode_{episode:06d}.parquet'


def twice(root: Path) -> None:
    (table_of(root).with_name('copy.parquet')).write_bytes(table_of(root).read_bytes())


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    'no info': (lambda r: (r / 'meta' / 'info.json').unlink(), 'meta/info.json'),
    'old': (lambda r: edit_info(r, codebase_version='v1.6'), "'v1.6'.*v2.0, v2.1, v3.0"),
    'broken info': (lambda r: (r / 'meta' / 'info.json').write_text('{'), 'meta cannot be read'),
    'no tasks': (lambda r: (r / 'meta' / 'tasks.jsonl').unlink(), 'meta cannot be read'),
    'other tasks': (
        lambda r: (r / 'meta' / 'tasks.jsonl').write_text('{"task_index": 5, "task": "a"}'),
        'task 0',
    ),
    'no video': (lambda r: video_of(r).unlink(), 'episode_000001.mp4'),
    'no table': (lambda r: table_of(r).unlink(), 'episode 1.* 5 .* 0 '),
    'twice': (twice, 'episode 1.* 5 .* 10 '),
    'broken table': (lambda r: table_of(r).write_bytes(b'no'), '000001.parquet'),
    'no data': (lambda r: (r / 'data').rename(r / 'dat'), r'data/\*/\*.parquet'),
    'width': (
        lambda r: edit_info(r, features={**features(r), 'action': number_list(6)}),
        "'action'.* 6 .*'libero'.* 7",
    ),
}


def features(root: Path) -> dict[str, Any]:
    return json.loads((root / 'meta' / 'info.json').read_text())['features']


def number_list(width: int) -> dict[str, Any]:
    return {'dtype': 'float32', 'shape': [width], 'names': None}


@pytest.mark.parametrize(('spoil', 'says'), SPOILED.values(), ids=SPOILED.keys())
def test_a_dataset_that_cannot_be_used_is_named(tmp_path: Path, spoil: Any, says: str) -> None:
    root = writer.write(tmp_path / 'd', Spec())
    spoil(root)
    with pytest.raises(DataError, match=says) as caught:
        LeRobot(root, ONE, cameras=CAMERAS)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({'cameras': {'primary': 'front'}}, rf"'front'.*{FRONT}"),
        ({'action': 'actions'}, r"'actions'.*action, .*obs"),
        ({'state': FRONT}, f'numbers.*{FRONT!r}'),
        ({'state': 'action'}, "'action'.* 7 .*'libero'.* 8"),
        ({'episodes': []}, 'episode'),
    ],
)
def test_what_is_not_there_is_listed(tmp_path: Path, arguments: Any, says: str) -> None:
    root = writer.write(tmp_path / 'd', Spec())
    with pytest.raises(DataError, match=says):
        LeRobot(root, ONE, **{'cameras': CAMERAS, **arguments})


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({'cameras': {'wrist': FRONT}}, "cameras.*'primary'"),
        ({'gripper': 'up'}, r"gripper: 'up' .*libero.*open_high.*open_low"),
        ({'stride': 0}, 'stride: 0'),
        ({'stride': 2}, "stride.*'delta_pose'"),
    ],
)
def test_arguments_without_meaning(tmp_path: Path, arguments: Any, says: str) -> None:
    with pytest.raises(ProfileError, match=says):
        LeRobot(tmp_path, ONE, **{'cameras': CAMERAS, **arguments})


def test_pictures_that_break_later_are_named(tmp_path: Path) -> None:
    root = writer.write(tmp_path / 'd', Spec())
    source = LeRobot(root, ONE, cameras=CAMERAS)
    video_of(root, 0).write_bytes(b'no video')
    with pytest.raises(DataError, match='episode_000000.mp4'):
        source[0]
    assert writer.read_number(source[8].images['primary']) == writer.number(1, 1)


def test_no_state_where_the_profile_takes_none(tmp_path: Path) -> None:
    root = writer.write(tmp_path / 'd', Spec())
    source = LeRobot(root, replace(ONE, proprio_dim=0, proprio_kind='none'), cameras=CAMERAS)
    assert source[0].state is None and source.numbers()[1] is None


@pytest.mark.parametrize('module', ['pyarrow.parquet', 'av'])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    root = writer.write(tmp_path / 'd', Spec(version='v3.0'))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(VlaPruneError, match=r'vla_prune_ros\[train\]'):
        LeRobot(root, ONE, cameras=CAMERAS)
