"""LIBERO's demonstration files, written here as LIBERO's ``create_dataset.py`` and openvla-oft's
``regenerate_libero_dataset.py`` do: expected numbers are those that were written, the rules for
no-ops and for the gripper are spelled out again, one step at a time."""

import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import DataError, VlaPruneError
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.train.sources.libero_hdf5 import LiberoHdf5, kept_steps

h5py = pytest.importorskip('h5py', reason='the train extra is not installed')

SIZE = 16
SHORT = replace(LIBERO, chunk=3)
STILL = [0.0] * 6
TASK = 'put_the_bowl_on_the_stove_demo.hdf5'


def moving(steps: int, gripper: float = -1.0, seed: int = 0) -> np.ndarray:
    """Actions (steps, 7) none of which is a no-op."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(0.1, 0.9, (steps, 7))
    actions[:, 6] = gripper
    return actions


def write_demo(data: Any, name: str, actions: np.ndarray, seen_after: bool, seed: int) -> Any:
    """One demonstration; observation ``t`` is of instant ``t``, or ``t + 1`` where it was taken
    after the action. Returns the group."""
    rng = np.random.default_rng(seed)
    steps, late = len(actions), int(seen_after)
    joints = np.cumsum(rng.uniform(0.01, 0.05, (steps + 1, 7)), axis=0)
    pose = rng.uniform(-1, 1, (steps + 1, 8))
    pictures = rng.integers(0, 256, (2, steps + 1, SIZE, SIZE, 3), np.uint8)
    seen = slice(late, late + steps)
    group = data.create_group(name)
    obs = group.create_group('obs')
    group['actions'] = actions
    group['states'] = np.hstack((np.zeros((steps, 1)), joints[:steps], np.zeros((steps, 40))))
    group['robot_states'] = np.zeros((steps, 9))
    group['rewards'] = group['dones'] = np.eye(steps, dtype=np.uint8)[-1]
    obs['joint_states'] = joints[seen]
    obs['ee_states'] = pose[seen, :6]
    obs['ee_pos'] = pose[seen, :3]
    obs['ee_ori'] = pose[seen, 3:6]
    obs['gripper_states'] = pose[seen, 6:]
    obs['agentview_rgb'] = pictures[0, seen]
    obs['eye_in_hand_rgb'] = pictures[1, seen]
    group.attrs['num_samples'] = steps
    return group


def write_file(path: Path, demos: list[np.ndarray], seen_after: bool = False) -> Path:
    """A file as LIBERO writes it, with its own words for the task."""
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        problem = {'problem_name': 'libero_tabletop', 'language_instruction': 'Put it there'}
        data.attrs['problem_info'] = json.dumps(problem)
        data.attrs['macros_image_convention'] = 'opengl'
        for number, actions in enumerate(demos):
            write_demo(data, f'demo_{number}', actions, seen_after, seed=number)
    return path


@pytest.fixture()
def file(tmp_path: Path) -> Path:
    """Two demonstrations of 5 and 4 steps, seen before the action."""
    return write_file(tmp_path / TASK, [moving(5), moving(4, gripper=1.0, seed=1)])


def raw(file: Path, demo: int, key: str) -> np.ndarray:
    """What was written."""
    with h5py.File(file) as opened:
        return opened[f'data/demo_{demo}/{key}'][()]


def test_samples_are_the_frames_that_were_written(file: Path) -> None:
    source = LiberoHdf5(file, SHORT)
    assert len(source) == 3 + 2  # openvla-oft: the last K - 1 frames are no samples
    sample = source[4]  # second frame of the second demonstration
    for camera, key in (('primary', 'agentview_rgb'), ('wrist', 'eye_in_hand_rgb')):
        picture = raw(file, 1, f'obs/{key}')[1]
        assert sample.images[camera].dtype == np.uint8
        for row in (0, 5, SIZE - 1):
            mirrored = picture[SIZE - 1 - row, ::-1]
            np.testing.assert_array_equal(sample.images[camera][row], mirrored)
    state = [raw(file, 1, f'obs/{key}')[1] for key in ('ee_states', 'gripper_states')]
    np.testing.assert_array_equal(sample.state, np.concatenate(state))
    np.testing.assert_array_equal(sample.chunk[:, :6], raw(file, 1, 'actions')[1:4, :6])
    np.testing.assert_array_equal(sample.chunk[:, 6], 0.0)  # +1 in the file: closed
    np.testing.assert_array_equal(source[0].chunk[:, 6], 1.0)  # -1 in the file: open
    assert sample.valid.all() and not sample.prepared
    assert list(sample.images) == ['primary', 'wrist']


def test_a_copy_for_another_process_opens_its_own_files(file: Path) -> None:
    source = LiberoHdf5(file, SHORT)
    before = source[3]
    copy = pickle.loads(pickle.dumps(source))[3]
    np.testing.assert_array_equal(copy.images['wrist'], before.images['wrist'])
    np.testing.assert_array_equal(copy.chunk, before.chunk)
    np.testing.assert_array_equal(source[3].images['wrist'], before.images['wrist'])


def test_every_frame_is_a_sample_where_that_is_wanted(file: Path) -> None:
    source = LiberoHdf5(file, SHORT, whole_chunks=False)
    assert len(source) == 5 + 4
    last = source[4]
    np.testing.assert_array_equal(last.valid, [True, False, False])
    np.testing.assert_array_equal(last.chunk, np.repeat(last.chunk[:1], 3, axis=0))
    np.testing.assert_array_equal(source[3].valid, [True, True, False])
    with pytest.raises(IndexError):
        source[9]


def test_statistics_are_of_all_steps(file: Path) -> None:
    actions, states = LiberoHdf5(file, SHORT).numbers()
    assert actions.shape == (9, 7) and states is not None and states.shape == (9, 8)
    assert actions.dtype == states.dtype == np.float64
    np.testing.assert_array_equal(actions[5:, :6], raw(file, 1, 'actions')[:, :6])
    np.testing.assert_array_equal(states[:5, :3], raw(file, 0, 'obs/ee_pos'))


def test_no_state_where_the_profile_takes_none(file: Path) -> None:
    source = LiberoHdf5(file, replace(SHORT, proprio_dim=0, proprio_kind='none'))
    assert source[0].state is None and source.numbers()[1] is None


def test_gripper_is_clipped_as_in_the_published_training(tmp_path: Path) -> None:
    actions = moving(5)
    actions[:, 6] = [-1.0, -0.4, 0.0, 0.3, 1.0]
    source = LiberoHdf5(write_file(tmp_path / TASK, [actions]), SHORT)
    np.testing.assert_allclose(source.numbers()[0][:, 6], [1.0, 1.0, 1.0, 0.7, 0.0])


def test_noops_are_left_out_with_their_pictures(tmp_path: Path) -> None:
    go = moving(1)[0, :6].tolist()
    actions = np.array(
        [
            [*STILL, -1],  # 0: still at the start: left out whatever the gripper does
            [*go, -1],  # 1
            [*STILL, -1],  # 2: still, gripper as in 1: left out
            [*STILL, 1],  # 3: closes
            [*STILL, 1],  # 4: left out
            [9e-5, 0, 0, 0, 0, 0, 1],  # 5: below the threshold: left out
            [2e-4, 0, 0, 0, 0, 0, 1],  # 6
            [*STILL, -1],  # 7: opens
        ]
    )
    path = write_file(tmp_path / TASK, [actions])
    source = LiberoHdf5(path, replace(LIBERO, chunk=1))
    kept = [1, 3, 6, 7]
    assert len(source) == len(kept)
    for sample, step in zip(source, kept, strict=True):
        picture = raw(path, 0, 'obs/agentview_rgb')[step]
        np.testing.assert_array_equal(sample.images['primary'], np.rot90(picture, 2))
        np.testing.assert_array_equal(sample.state[:3], raw(path, 0, 'obs/ee_pos')[step])
        np.testing.assert_array_equal(sample.chunk[0, :6], actions[step, :6])


def is_noop(action: list[float], previous: list[float] | None) -> bool:
    """The published rule for one action, from its description."""
    still = sum(value**2 for value in action[:6]) ** 0.5 < 1e-4
    return still and (previous is None or action[6] == previous[6])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([-1.0, 1.0])), max_size=30))
def test_noops_as_the_published_rule_one_by_one(steps: list[tuple[bool, float]]) -> None:
    actions = [[0.3 if move else 0.0, 0, 0, 0, 0, 0, gripper] for move, gripper in steps]
    expected, previous = [], None
    for number, action in enumerate(actions):
        if not is_noop(action, previous):
            expected.append(number)
            previous = action
    assert kept_steps(np.array(actions).reshape(-1, 7)).tolist() == expected


def test_what_was_seen_after_an_action_gets_the_next_one(tmp_path: Path) -> None:
    actions = moving(6)
    path = write_file(tmp_path / TASK, [actions], seen_after=True)
    source = LiberoHdf5(path, SHORT)
    assert len(source) == 6 - 1 - 2
    picture = raw(path, 0, 'obs/agentview_rgb')[1]
    np.testing.assert_array_equal(source[1].images['primary'], np.rot90(picture, 2))
    np.testing.assert_array_equal(source[1].chunk[:, :6], actions[2:5, :6])
    np.testing.assert_array_equal(source[1].state[:3], raw(path, 0, 'obs/ee_pos')[1])


def test_noops_and_late_pictures_together(tmp_path: Path) -> None:
    actions = moving(5)
    actions[[0, 2], :6] = 0.0  # no-ops: 0 at the start, 2 with the gripper unchanged
    path = write_file(tmp_path / TASK, [actions], seen_after=True)
    actions_left = LiberoHdf5(path, replace(LIBERO, chunk=1)).numbers()[0]
    np.testing.assert_array_equal(actions_left[:, :6], actions[[1, 3, 4], :6])


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        (TASK, 'put the bowl on the stove'),
        ('KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5', 'close the top drawer'),
        ('mine.hdf5', 'Put it there'),
    ],
)
def test_instruction_is_what_published_policies_were_told(
    tmp_path: Path, name: str, words: str
) -> None:
    source = LiberoHdf5(write_file(tmp_path / name, [moving(3)]), SHORT)
    assert source.instruction(0) == source[0].instruction == words


@pytest.mark.libero
@pytest.mark.skipif(find_spec('bddl') is None, reason='bddl is not installed')
def test_instructions_of_all_suites_are_those_of_the_benchmark(tmp_path: Path) -> None:
    from vla_prune_ros.sim.libero.assets import configure
    from vla_prune_ros.sim.libero.suites import SUITES, suite_tasks
    from vla_prune_ros.train.sources.libero_hdf5 import instruction_of

    configure()
    tasks = [task for suite in SUITES for task in suite_tasks(suite, ())]
    assert len(tasks) >= 40
    for task in tasks:
        assert instruction_of(tmp_path / f'{task.name}_demo.hdf5', None) == task.instruction


def test_a_folder_is_read_file_by_file_and_demo_by_number(tmp_path: Path) -> None:
    write_file(tmp_path / 'b_demo.hdf5', [moving(3, seed=i) for i in range(12)])
    write_file(tmp_path / 'a_demo.hdf5', [moving(3, seed=20)])
    source = LiberoHdf5(tmp_path, SHORT)
    assert [source.instruction(i) for i in range(3)] == ['a', 'b', 'b']
    for demo in (2, 10):
        np.testing.assert_array_equal(source[1 + demo].chunk[:, :6], moving(3, seed=demo)[:, :6])


def broken(path: Path, key: str) -> None:
    with h5py.File(path, 'r+') as file:
        del file[key]


def nan(path: Path) -> None:
    with h5py.File(path, 'r+') as file:
        file['data/demo_1/actions'][2, 0] = np.nan


def opencv(path: Path) -> None:
    with h5py.File(path, 'r+') as file:
        file['data'].attrs['macros_image_convention'] = 'opencv'


def shorter(path: Path) -> None:
    with h5py.File(path, 'r+') as file:
        pictures = file['data/demo_1/obs/agentview_rgb'][:-1]
        del file['data/demo_1/obs/agentview_rgb']
        file['data/demo_1/obs/agentview_rgb'] = pictures


@pytest.mark.parametrize(
    ('spoil', 'says'),
    [
        (lambda p: broken(p, 'data/demo_1/obs/agentview_rgb'), 'demo_1.*obs/agentview_rgb'),
        (lambda p: broken(p, 'data/demo_0/obs/ee_ori'), 'obs/ee_ori.*obs/ee_pos'),
        (lambda p: broken(p, 'data'), 'data/demo_0'),
        (nan, 'demo_1, frame 2'),
        (opencv, "'opencv'"),
        (shorter, r'demo_1 .*\[3, 4\]'),
        (lambda p: p.write_bytes(b'no'), None),
        (lambda p: p.unlink(), None),
    ],
)
def test_a_file_that_cannot_be_used_is_named(file: Path, spoil: Any, says: str | None) -> None:
    spoil(file)
    with pytest.raises(DataError, match=says) as caught:
        LiberoHdf5(file, SHORT)
    assert str(file) in str(caught.value)


def unfit() -> Iterator[tuple[Any, str]]:
    """Profiles that LIBERO's demonstrations cannot train."""
    yield ALOHA, 'action_kind'
    yield replace(SHORT, control_period_s=0.1), 'control_period_s'
    yield replace(SHORT, proprio_dim=7), 'proprio_dim'
    yield replace(SHORT, cameras=('primary', 'left')), "'left'"
    yield replace(SHORT, chunk=6), '6 steps'


@pytest.mark.parametrize(('profile', 'says'), list(unfit()))
def test_a_profile_that_does_not_fit_is_refused(file: Path, profile: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        LiberoHdf5(file, profile)


def test_a_missing_library_is_named_with_its_extra(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(VlaPruneError, match=r'h5py .*vla_prune_ros\[train\]'):
        LiberoHdf5(file, SHORT)
