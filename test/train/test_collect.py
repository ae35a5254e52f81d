"""What is recorded, what is not recorded again, and in which files."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.sim.scene import SceneState
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train import collect as module
from vla_prune_ros.train.collect import (
    FIRST_CHECK,
    FIRST_CORRECTION,
    FIRST_DEMONSTRATION,
    Collection,
    collect,
    episodes,
    in_processes,
    seeds_of,
)
from vla_prune_ros.train.dataset import load


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Jobs one after another, the last one first: results may come in any order."""

    def in_this_process(work, jobs, workers):
        return (work(*job) for job in reversed(jobs))

    monkeypatch.setattr(module, 'in_processes', in_this_process)


def test_seeds_of_data_checks_and_evaluation_do_not_meet():
    starts = sorted([FIRST_DEMONSTRATION, FIRST_CORRECTION, FIRST_CHECK])
    assert np.diff([100_000, *starts]).min() >= 900_000  # evaluation counts from 0


def test_a_seed_is_missing_until_it_gave_an_episode_or_failed(tmp_path):
    for name in ('7.npz', '10.npz', '8.failed', '9.123.part', 'notes.txt', '12.npz'):
        (tmp_path / name).touch()
    assert Collection(tmp_path, range(6, 12)).missing() == [6, 9, 11]
    assert Collection(tmp_path / 'nowhere', [3, 1]).missing() == [3, 1]
    assert [p.name for p in episodes(tmp_path, range(6, 12))] == ['7.npz', '10.npz']  # by number


class StillScene:
    """Knows which episode it was reset to."""

    def reset(self, seed):
        self.seed = seed

    def state(self):
        joints = ('finger_1', 'finger_2')
        return SceneState(np.zeros(3), np.array([0, 0, 0, 1.0]), joints, np.zeros(2), np.zeros(2))


def test_failures_are_remembered_and_episodes_written(tmp_path, monkeypatch, episode):
    scene, disturbances = StillScene(), {}
    monkeypatch.setattr(module, '_scene', lambda: scene)

    def demonstrate(recorder):
        assert recorder.scene is scene
        disturbances[scene.seed] = recorder.rng.random()
        return None if scene.seed % 2 else episode(seed=scene.seed)

    monkeypatch.setattr(module, 'demonstrate', demonstrate)
    wanted = Collection(tmp_path, range(20, 24))
    collect(wanted, 1, print)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ['20.npz', '21.failed', '22.npz', '23.failed']
    np.testing.assert_array_equal(load(tmp_path / '22.npz').state, episode(seed=22).state)
    assert len(set(disturbances.values())) == 4  # every seed is disturbed in its own way
    before, disturbances = disturbances, {}
    collect(wanted, 1, print)
    assert disturbances == {}
    (tmp_path / '21.failed').unlink()
    collect(wanted, 1, print)
    assert disturbances == {21: before[21]}


def test_a_checkpoint_is_corrected_in_the_scenes_units(tmp_path, monkeypatch, episode):
    """The policy says 0 closed, 1 open; the scene takes +1 and -1."""
    scene, asked = StillScene(), []
    answer = np.zeros((8, 7))
    answer[:, 0], answer[:4, 6] = 0.25, 1.0

    def infer(observation):
        asked.append(observation)
        return SimpleNamespace(actions=answer)

    scene.images = lambda: {'primary': np.zeros((4, 4, 3), np.uint8)}
    scene.instruction = 'pick up the red cube'
    policy = SimpleNamespace(
        infer=infer,
        profile=replace(LIBERO, cameras=('primary',)),
        statistics=SimpleNamespace(proprio=None),
        reset=lambda: asked.append('reset'),
    )
    loaded = []
    monkeypatch.setattr(module, '_scene', lambda: scene)
    monkeypatch.setattr(module, '_policy', lambda *how: loaded.append(how) or policy)

    def correct(recorder, policy):
        got = policy(scene)
        np.testing.assert_array_equal(got[:, 6], [-1.0] * 4 + [1.0] * 4)
        np.testing.assert_array_equal(got[:, :6], answer[:, :6])
        return episode()

    monkeypatch.setattr(module, 'correct', correct)
    collect(Collection(tmp_path, [6], tmp_path / 'checkpoint', 'uniform:40'), 1, print)
    assert [p.name for p in tmp_path.iterdir()] == ['6.npz']
    assert loaded == [(tmp_path / 'checkpoint', 'uniform:40')]
    assert asked[0] == 'reset'  # nothing is remembered from the episode before
    assert [o.instruction for o in asked[1:]] == ['pick up the red cube']


def test_seeds_of_some_tasks_are_the_next_ones_that_have_them():
    names = list(TASKS)
    seeds = seeds_of([names[1], names[4]], 2_000_003, 5)
    want = [s for s in range(2_000_003, 2_000_033) if names[s % 6] in (names[1], names[4])]
    assert seeds == want[:5]
    assert seeds_of(names, 12, 7) == list(range(12, 19))


def test_children_have_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    jobs = [('OMP_NUM_THREADS',), ('MKL_NUM_THREADS',), ('NO_SUCH_VARIABLE',)]
    found = list(in_processes(os.getenv, jobs, 1))
    assert sorted(map(str, found)) == ['1', '1', 'None']
    with pytest.raises(ValueError, match='math domain|nonnegative'):
        list(in_processes(math.sqrt, [(-1.0,)], 1))
    assert os.environ['OMP_NUM_THREADS'] == '2' and 'MKL_NUM_THREADS' not in os.environ
