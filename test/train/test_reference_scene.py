"""From the scripted expert to a checkpoint in the simulator.

A network of a few thousand numbers and four steps of training: what it does is no matter.
"""

from unittest.mock import Mock

import pytest

from vla_prune_ros import load_policy
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train import collect, reference
from vla_prune_ros.train.collect import FIRST_CHECK
from vla_prune_ros.train.dataset import load, save
from vla_prune_ros.train.reference import Plan, Recipe, train_reference

FIRST = 1_000_074  # six seeds to train on, and one that is held out


def small(steps, **options):
    return Recipe(steps, batch=1, part=1, warm_up=1, **options)


@pytest.fixture
def jobs(monkeypatch, scene):
    """Numbers of jobs. The first one runs in a process; later ones here: each process would take
    seconds to start."""
    elsewhere, seen = collect.in_processes, []

    def run(work, jobs, workers):
        seen.append(len(jobs))
        here = (work(*job) for job in jobs)
        return elsewhere(work, jobs, workers) if len(seen) == 1 else here

    monkeypatch.setattr(collect, 'in_processes', run)
    monkeypatch.setattr(collect, '_scene', lambda: scene)
    return seen


@pytest.mark.slow
def test_from_the_expert_to_a_checkpoint(jobs, tiny_net, six_episodes, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, 'FIRST_DEMONSTRATION', FIRST)
    monkeypatch.setattr(reference, 'ReferenceNet', lambda rows, seed: tiny_net(seed))
    work, out = tmp_path / 'work', tmp_path / 'out'
    for seed in range(FIRST + 1, FIRST + 7):  # as if recorded before
        save(six_episodes[seed % 6], work / 'demonstrations' / f'{seed}.npz')
    plan = Plan(work, 7, small(1, towers_only=True), small(2), (1,), small(1), 1, workers=1)
    about = train_reference(plan, out, Mock())
    assert len(load(work / 'demonstrations' / f'{FIRST}.npz')) > 8
    assert len(list((work / 'corrections-1').iterdir())) == 1
    checks = [entry['success'] for entry in about['history'] if 'success' in entry]
    assert [list(found) for found in checks] == [[list(TASKS)[FIRST_CHECK % 6]]] * 2
    assert jobs == [1, 1, 1, 1]
    assert load_policy(out).untrained is False
