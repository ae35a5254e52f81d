"""LeRobot datasets of versions 2.0, 2.1 and 3.0, written by ``lerobot_writer``: expected numbers
are those that it wrote, and every image tells which frame of which episode it is."""

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest

from vla_prune_ros.errors import DataError, ProfileError, VlaPruneError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.sources.lerobot import LeRobot, ParquetImages, Videos

pytest.importorskip('pyarrow', reason='the train extra is not installed')
pytest.importorskip('av', reason='the train extra is not installed')

import lerobot_writer as writer

Spec, number, shown = writer.Spec, writer.number, writer.read_number
FRONT, HAND = 'observation.images.front', 'observation.images.hand'
CAMERAS = {'primary': FRONT}
BOTH = {'wrist': HAND, **CAMERAS}
ONE = replace(LIBERO, cameras=('primary',), chunk=3)
TWO_HANDS = replace(ALOHA, cameras=('primary',), chunk=3)
MIXED = {'embedded': (HAND,), 'filmed': (FRONT,)}
same = np.testing.assert_array_equal


@pytest.fixture
def write(tmp_path):
    return lambda **spec: writer.write(tmp_path / 'd', Spec(**spec))


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A dataset that no test changes."""
    return writer.write(tmp_path_factory.mktemp('plain') / 'd', Spec())


@pytest.mark.parametrize('version', ['v2.0', 'v2.1', 'v3.0'])
def test_samples_are_what_was_written(write, version):
    spec = Spec(version=version, **MIXED)
    source = LeRobot(write(version=version, **MIXED), replace(LIBERO, chunk=3), cameras=BOTH)
    assert len(source) == sum(spec.lengths)
    places = [(e, f) for e, length in enumerate(spec.lengths) for f in range(length)]
    for index in np.random.default_rng(0).permutation(len(places)):
        episode, frame = places[index]
        sample, length = source[int(index)], spec.lengths[episode]
        assert list(sample.images) == ['primary', 'wrist']
        expected = writer.picture(number(episode, frame))
        same(sample.images['wrist'], expected)
        front = sample.images['primary']
        assert front.shape == expected.shape and front.dtype == np.uint8
        assert shown(front) == number(episode, frame)
        assert np.abs(front.astype(int) - expected).mean() < 8
        rows = np.minimum(frame + np.arange(3), length - 1)
        same(sample.chunk, writer.actions(spec, episode)[rows].astype(np.float64))
        same(sample.valid, frame + np.arange(3) < length)
        same(sample.state, writer.states(spec, episode)[frame])
        assert sample.chunk.dtype == sample.state.dtype == np.float64
        instruction = writer.TASKS[1 - episode % 2]
        assert sample.instruction == source.instruction(int(index)) == instruction
    for found, of in zip(source.numbers(), (writer.actions, writer.states), strict=True):
        same(found, np.concatenate([of(spec, e) for e in range(3)]))


def test_whole_chunks_and_no_state(plain):
    profile = replace(ONE, proprio_dim=0, proprio_kind='none')
    source = LeRobot(plain, profile, cameras=CAMERAS, whole_chunks=True)
    assert len(source) == sum(length - 2 for length in Spec().lengths)
    assert source[0].state is None and source.numbers()[1] is None


def test_a_copy_for_another_process_opens_its_own_files(write):
    source = LeRobot(write(**MIXED), replace(LIBERO, chunk=1), cameras=BOTH)
    assert shown(source[7].images['primary']) == number(1, 0)
    copy = pickle.loads(pickle.dumps(source))
    for each in (source, copy, source):
        assert {shown(image) for image in each[8].images.values()} == {number(1, 1)}


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_chosen_episodes(write, version):
    root = write(version=version, embedded=(HAND,))
    source = LeRobot(root, replace(LIBERO, chunk=1), cameras=BOTH, episodes=[2, 1])
    assert len(source) == Spec().lengths[1] + Spec().lengths[2]
    for index, place in ((0, (1, 0)), (4, (1, 4)), (5, (2, 0)), (10, (2, 5))):
        assert {shown(image) for image in source[index].images.values()} == {number(*place)}
    with pytest.raises(DataError, match='episode 7'):
        LeRobot(root, ONE, cameras=CAMERAS, episodes=[0, 7])


@pytest.mark.parametrize('gripper', ['open_high', 'open_low', 'libero'])
def test_gripper_of_every_hand_is_turned(write, gripper):
    profile = replace(TWO_HANDS, control_period_s=0.05)
    source = LeRobot(write(action=14, state=14), profile, cameras=CAMERAS, gripper=gripper)
    expected = writer.actions(Spec(action=14), 0)[1:4].astype(np.float64)
    if gripper != 'open_high':
        expected[:, [6, 13]] = 1 - expected[:, [6, 13]]
    same(source[1].chunk, expected)


def test_stride_takes_every_second_action(write):
    root = write(action=14, state=14, fps=50)
    source = LeRobot(root, TWO_HANDS, cameras=CAMERAS, stride=2)
    sample = source[2]
    same(sample.chunk, writer.actions(Spec(action=14), 0)[[2, 4, 6]])
    assert sample.valid.all() and source[3].valid.tolist() == [True, True, False]
    assert shown(sample.images['primary']) == number(0, 2)
    with pytest.raises(DataError, match='50 .* 0.04 s.*stride: 2'):
        LeRobot(root, TWO_HANDS, cameras=CAMERAS)


def test_a_rate_that_is_written_wrong(write):
    root = write(fps=10)
    with pytest.raises(DataError, match="'libero'.*control_period_s: 0.1"):
        LeRobot(root, ONE, cameras=CAMERAS)
    source = LeRobot(root, ONE, cameras=CAMERAS, fps=20)
    assert shown(source[9].images['primary']) == number(1, 2)


CODECS = {
    'h264 with frames out of order': ('libx264', {'g': '12', 'bf': '3', 'crf': '20'}),
    'h264, one key frame': ('libx264', {'g': '250', 'bf': '2', 'crf': '20'}),
    'h264, open groups': ('libx264', {'g': '9', 'bf': '3', 'x264-params': 'open-gop=1'}),
    'av1 as lerobot writes it': ('libsvtav1', {'g': '2', 'crf': '30'}),
}


@pytest.mark.parametrize('codec', CODECS.values(), ids=CODECS.keys())
def test_every_frame_is_found_in_any_order(write, codec):
    spec = Spec('v3.0', lengths=(40, 30), files=((0, 1),), codec=codec)
    root = write(version='v3.0', lengths=spec.lengths, files=spec.files, codec=codec)
    file = root / 'videos' / FRONT / 'chunk-000' / 'file-000.mp4'
    places = [(e, f) for e, length in enumerate(spec.lengths) for f in range(length)]
    videos = Videos(spec.fps)
    forth = list(range(len(places)))
    mixed = np.random.default_rng(1).permutation(len(places)).tolist()
    for index in [*forth, *mixed, *reversed(forth), 3, 3]:
        assert shown(videos.read(file, index / spec.fps + 1e-4)) == number(*places[index])
    for time_s in (len(places) / spec.fps, 100.0):
        with pytest.raises(DataError, match='file-000.mp4'):
            videos.read(file, time_s)
    assert shown(videos.read(file, 0.0)) == number(0, 0)


def video_of(root, episode=1):
    return root / 'videos' / 'chunk-000' / FRONT / f'episode_{episode:06d}.mp4'


def table_of(root, episode=1):
    return root / 'data' / 'chunk-000' / f'episode_{episode:06d}.parquet'


def test_files_are_closed_and_opened_again(plain):
    videos = Videos(Spec().fps, kept_files=1)
    for episode in (0, 1, 2, 1, 0):
        assert shown(videos.read(video_of(plain, episode), 0.1)) == number(episode, 2)


def test_embedded_images_in_bounded_memory(write):
    root = write(embedded=(FRONT, HAND), filmed=())
    images = ParquetImages(keep_bytes=1)
    for episode, frame in ((0, 0), (2, 5), (0, 3), (0, 0), (1, 1)):
        place = table_of(root, episode), *divmod(frame, Spec().row_group)
        for camera, feature in enumerate((FRONT, HAND)):
            expected = writer.picture(number(episode, frame, camera))
            same(images.read(feature, *place), expected)
    assert len(images.groups) == 1


def test_images_beside_the_table(write):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = write(lengths=(2,), embedded=(FRONT,), filmed=())
    table = pq.read_table(table_of(root, 0))
    entries = table.column(FRONT).to_pylist()
    for frame, entry in enumerate(entries):
        (root / f'{frame}.png').write_bytes(entry['bytes'])
        entry.update(bytes=None, path=f'{frame}.png')
    column = pa.array(entries, pa.struct({'bytes': pa.binary(), 'path': pa.string()}))
    pq.write_table(table.drop_columns([FRONT]).append_column(FRONT, column), table_of(root, 0))
    source = LeRobot(root, replace(ONE, chunk=1), cameras=CAMERAS)
    assert shown(source[1].images['primary']) == number(0, 1)


def edit_info(root, **values):
    file = root / 'meta' / 'info.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def narrow(root):
    features = json.loads((root / 'meta' / 'info.json').read_text())['features']
    features['action'] = {'dtype': 'float32', 'shape': [6], 'names': None}
    edit_info(root, features=features)


def twice(root):
    table_of(root).with_name('copy.parquet').write_bytes(table_of(root).read_bytes())


SPOILED = {
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
    'width': (narrow, "'action'.* 6 .*'libero'.* 7"),
}


@pytest.mark.parametrize(('spoil', 'says'), SPOILED.values(), ids=SPOILED.keys())
def test_a_dataset_that_cannot_be_used_is_named(write, spoil, says):
    root = write()
    spoil(root)
    with pytest.raises(DataError, match=says) as caught:
        LeRobot(root, ONE, cameras=CAMERAS)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ('options', 'error', 'says'),
    [
        ({'cameras': {'primary': 'front'}}, DataError, rf"'front'.*{FRONT}"),
        ({'action': 'actions'}, DataError, r"'actions'.*action, .*obs"),
        ({'state': FRONT}, DataError, f'numbers.*{FRONT!r}'),
        ({'state': 'action'}, DataError, "'action'.* 7 .*'libero'.* 8"),
        ({'episodes': []}, DataError, 'episode'),
        ({'cameras': {'wrist': FRONT}}, ProfileError, "cameras.*'primary'"),
        ({'gripper': 'up'}, ProfileError, r"gripper: 'up' .*libero.*open_high.*open_low"),
        ({'stride': 0}, ProfileError, 'stride: 0'),
        ({'stride': 2}, ProfileError, "stride.*'delta_pose'"),
    ],
)
def test_options_that_do_not_fit_are_refused(plain, options, error, says):
    with pytest.raises(error, match=says):
        LeRobot(plain, ONE, **{'cameras': CAMERAS, **options})


def test_images_that_break_later_are_named(write):
    root = write()
    source = LeRobot(root, ONE, cameras=CAMERAS)
    video_of(root, 0).write_bytes(b'no video')
    with pytest.raises(DataError, match='episode_000000.mp4'):
        source[0]
    assert shown(source[8].images['primary']) == number(1, 1)


@pytest.mark.parametrize('module', ['pyarrow.parquet', 'av'])
def test_a_missing_library_is_named_with_its_extra(plain, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(VlaPruneError, match=r'vla_prune_ros\[train\]'):
        LeRobot(plain, ONE, cameras=CAMERAS)
