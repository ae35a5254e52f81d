"""LIBERO's demonstration files, written here as LIBERO's ``create_dataset.py`` and openvla-oft's
``regenerate_libero_dataset.py`` do: expected numbers are those that were written, the rules for
no-ops and for the gripper are spelled out again, one step at a time."""

import json
import pickle
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import DataError, VlaPruneError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.sources.libero_hdf5 import LiberoHdf5, instruction_of, kept_steps

h5py = pytest.importorskip('h5py', reason='the train extra is not installed')

SIZE = 16
SHORT = replace(LIBERO, chunk=3)
SINGLE = replace(LIBERO, chunk=1)
TASK = 'put_the_bowl_on_the_stove_demo.hdf5'
same = np.testing.assert_array_equal


def moving(steps, gripper=-1.0, seed=0):
    """Actions (steps, 7) none of which is a no-op."""
    actions = np.random.default_rng(seed).uniform(0.1, 0.9, (steps, 7))
    actions[:, 6] = gripper
    return actions


def write_demo(group, actions, seen_after, seed):
    """Observation ``t`` is of instant ``t``, or ``t + 1`` where it was taken after the action."""
    rng = np.random.default_rng(seed)
    steps, late = len(actions), int(seen_after)
    joints = np.cumsum(rng.uniform(0.01, 0.05, (steps + 1, 7)), axis=0)
    pose = rng.uniform(-1, 1, (steps + 1, 8))
    images = rng.integers(0, 256, (2, steps + 1, SIZE, SIZE, 3), np.uint8)
    seen = slice(late, late + steps)
    obs = group.create_group('obs')
    group['actions'] = actions
    group['states'] = np.hstack((np.zeros((steps, 1)), joints[:steps], np.zeros((steps, 40))))
    obs['joint_states'] = joints[seen]
    obs['ee_states'] = pose[seen, :6]
    obs['ee_pos'] = pose[seen, :3]
    obs['ee_ori'] = pose[seen, 3:6]
    obs['gripper_states'] = pose[seen, 6:]
    obs['agentview_rgb'] = images[0, seen]
    obs['eye_in_hand_rgb'] = images[1, seen]


def write_file(path, demos, seen_after=False):
    """A file as LIBERO writes it, with its own words for the task."""
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        problem = {'problem_name': 'libero_tabletop', 'language_instruction': 'Put it there'}
        data.attrs['problem_info'] = json.dumps(problem)
        data.attrs['macros_image_convention'] = 'opengl'
        for number, actions in enumerate(demos):
            write_demo(data.create_group(f'demo_{number}'), actions, seen_after, seed=number)
    return path


@pytest.fixture
def file(tmp_path):
    """Two demonstrations of 5 and 4 steps, seen before the action."""
    return write_file(tmp_path / TASK, [moving(5), moving(4, gripper=1.0, seed=1)])


def raw(file, demo, key):
    """What was written."""
    with h5py.File(file) as opened:
        return opened[f'data/demo_{demo}/{key}'][()]


def test_samples_are_the_frames_that_were_written(file):
    source = LiberoHdf5(file, SHORT)
    assert len(source) == 3 + 2  # openvla-oft: the last K - 1 frames are no samples
    sample = source[4]  # second frame of the second demonstration
    for camera, key in (('primary', 'agentview_rgb'), ('wrist', 'eye_in_hand_rgb')):
        image = raw(file, 1, f'obs/{key}')[1]
        assert sample.images[camera].dtype == np.uint8
        for row in (0, 5, SIZE - 1):
            same(sample.images[camera][row], image[SIZE - 1 - row, ::-1])
    state = [raw(file, 1, f'obs/{key}')[1] for key in ('ee_states', 'gripper_states')]
    same(sample.state, np.concatenate(state))
    same(sample.chunk[:, :6], raw(file, 1, 'actions')[1:4, :6])
    same(sample.chunk[:, 6], 0.0)  # +1 in the file: closed
    same(source[0].chunk[:, 6], 1.0)  # -1 in the file: open
    assert sample.valid.all() and not sample.prepared
    actions, states = source.numbers()  # of all steps
    assert actions.shape == (9, 7) and states.shape == (9, 8)
    assert actions.dtype == states.dtype == np.float64
    same(actions[5:, :6], raw(file, 1, 'actions')[:, :6])
    same(states[:5, :3], raw(file, 0, 'obs/ee_pos'))
    without = LiberoHdf5(file, replace(SHORT, proprio_dim=0, proprio_kind='none'))
    assert without[0].state is None and without.numbers()[1] is None


def test_a_copy_for_another_process_opens_its_own_files(file):
    source = LiberoHdf5(file, SHORT)
    before = source[3].images['wrist']
    same(pickle.loads(pickle.dumps(source))[3].images['wrist'], before)
    same(source[3].images['wrist'], before)


def test_every_frame_is_a_sample_where_that_is_wanted(file):
    source = LiberoHdf5(file, SHORT, whole_chunks=False)
    assert len(source) == 5 + 4
    same(source[4].valid, [True, False, False])
    same(source[4].chunk, np.repeat(source[4].chunk[:1], 3, axis=0))


def test_gripper_is_clipped_as_in_the_published_training(tmp_path):
    actions = moving(5)
    actions[:, 6] = [-1.0, -0.4, 0.0, 0.3, 1.0]
    source = LiberoHdf5(write_file(tmp_path / TASK, [actions]), SHORT)
    np.testing.assert_allclose(source.numbers()[0][:, 6], [1.0, 1.0, 1.0, 0.7, 0.0])


def test_noops_are_left_out_with_their_images(tmp_path):
    actions = moving(4)
    actions[[0, 2], :6] = 0.0
    path = write_file(tmp_path / TASK, [actions])
    for sample, step in zip(LiberoHdf5(path, SINGLE), (1, 3), strict=True):
        same(sample.images['primary'], np.rot90(raw(path, 0, 'obs/agentview_rgb')[step], 2))
        same(sample.state[:3], raw(path, 0, 'obs/ee_pos')[step])
        same(sample.chunk[0, :6], actions[step, :6])


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 9e-5, 2e-4]), st.sampled_from([-1.0, 1.0]))))
def test_noops_as_the_published_rule_one_by_one(steps):
    actions = [[size, 0, 0, 0, 0, 0, gripper] for size, gripper in steps]
    expected, before = [], None
    for number, (size, gripper) in enumerate(steps):
        if size >= 1e-4 or before not in (None, gripper):
            expected.append(number)
            before = gripper
    assert kept_steps(np.array(actions).reshape(-1, 7)).tolist() == expected


def test_what_was_seen_after_an_action_gets_the_next_one(tmp_path):
    actions = moving(6)
    path = write_file(tmp_path / TASK, [actions], seen_after=True)
    source = LiberoHdf5(path, SHORT)
    assert len(source) == 6 - 1 - 2
    image = raw(path, 0, 'obs/agentview_rgb')[1]
    same(source[1].images['primary'], np.rot90(image, 2))
    same(source[1].chunk[:, :6], actions[2:5, :6])
    same(source[1].state[:3], raw(path, 0, 'obs/ee_pos')[1])
    actions[[0, 2], :6] = 0.0  # no-ops: 0 at the start, 2 with the gripper unchanged
    path = write_file(tmp_path / 'late_demo.hdf5', [actions], seen_after=True)
    same(LiberoHdf5(path, SINGLE).numbers()[0][:, :6], actions[[1, 3, 4, 5], :6])


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        (TASK, 'put the bowl on the stove'),
        ('KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5', 'close the top drawer'),
        ('mine.hdf5', 'Put it there'),
    ],
)
def test_instruction_is_what_published_policies_were_told(tmp_path, name, words):
    source = LiberoHdf5(write_file(tmp_path / name, [moving(3)]), SHORT)
    assert source.instruction(0) == source[0].instruction == words


@pytest.mark.libero
@pytest.mark.skipif(find_spec('bddl') is None, reason='bddl is not installed')
def test_instructions_of_all_suites_are_those_of_the_benchmark(tmp_path):
    from vla_prune_ros.sim.libero.assets import configure
    from vla_prune_ros.sim.libero.suites import SUITES, suite_tasks

    configure()
    tasks = [task for suite in SUITES for task in suite_tasks(suite, ())]
    assert len(tasks) >= 40
    for task in tasks:
        assert instruction_of(tmp_path / f'{task.name}_demo.hdf5', None) == task.instruction


def test_a_folder_is_read_file_by_file_and_demo_by_number(tmp_path):
    write_file(tmp_path / 'b_demo.hdf5', [moving(3, seed=i) for i in range(12)])
    write_file(tmp_path / 'a_demo.hdf5', [moving(3, seed=20)])
    source = LiberoHdf5(tmp_path, SHORT)
    assert [source.instruction(i) for i in range(3)] == ['a', 'b', 'b']
    for demo in (2, 10):
        same(source[1 + demo].chunk[:, :6], moving(3, seed=demo)[:, :6])


def without(key):
    return lambda data: data.file.__delitem__(key)


def nan(data):
    data['demo_1/actions'][2, 0] = np.nan


def opencv(data):
    data.attrs['macros_image_convention'] = 'opencv'


def shorter(data):
    images = data['demo_1/obs/agentview_rgb'][:-1]
    del data['demo_1/obs/agentview_rgb']
    data['demo_1/obs/agentview_rgb'] = images


@pytest.mark.parametrize(
    ('spoil', 'says'),
    [
        (without('data/demo_1/obs/agentview_rgb'), 'demo_1.*obs/agentview_rgb'),
        (without('data/demo_0/obs/ee_ori'), 'obs/ee_ori.*obs/ee_pos'),
        (without('data'), 'data/demo_0'),
        (nan, 'demo_1, frame 2'),
        (opencv, "'opencv'"),
        (shorter, r'demo_1 .*\[3, 4\]'),
    ],
)
def test_a_file_that_cannot_be_used_is_named(file, spoil, says):
    with h5py.File(file, 'r+') as opened:
        spoil(opened['data'])
    with pytest.raises(DataError, match=says) as caught:
        LiberoHdf5(file, SHORT)
    assert str(file) in str(caught.value)


def test_a_broken_or_missing_file_is_named(file):
    for spoil in (lambda: file.write_bytes(b'no'), file.unlink):
        spoil()
        with pytest.raises(DataError, match=str(file)):
            LiberoHdf5(file, SHORT)


@pytest.mark.parametrize(
    ('profile', 'says'),
    [
        (ALOHA, 'action_kind'),
        (replace(SHORT, control_period_s=0.1), 'control_period_s'),
        (replace(SHORT, proprio_dim=7), 'proprio_dim'),
        (replace(SHORT, cameras=('primary', 'left')), "'left'"),
        (replace(SHORT, chunk=6), '6 steps'),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(file, profile, says):
    with pytest.raises(DataError, match=says):
        LiberoHdf5(file, profile)


def test_a_missing_library_is_named_with_its_extra(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(VlaPruneError, match=r'h5py .*vla_prune_ros\[train\]'):
        LiberoHdf5(file, SHORT)
