"""The reference policy that comes along: its files, and that it does what it is told.

docs/results.md has its success over many seeds; six episodes here notice a policy that lost its
skill, not one that lost a point.
"""

import json

import pytest

from vla_prune_ros import load_policy
from vla_prune_ros.evaluate.check import CheckOptions, check_checkpoint
from vla_prune_ros.evaluate.closed_loop.rollout import run_episode, swapped
from vla_prune_ros.model.hub import reference_folder
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train.collect import FIRST_CORRECTION, FIRST_DEMONSTRATION

LARGEST_BYTES = 16 * 2**20


@pytest.fixture(scope='module')
def policy():
    return load_policy('reference')


def test_it_is_small_trained_and_described(policy):
    folder = reference_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST_BYTES
    note = json.loads((folder / 'vla_prune.json').read_text(encoding='utf-8'))
    assert note['trained'] is True and policy.untrained is False
    assert note['task_names'] == list(TASKS)
    card = (folder / 'README.md').read_text(encoding='utf-8')
    for named in (str(FIRST_DEMONSTRATION), str(FIRST_CORRECTION), 'vla-prune train reference'):
        assert named in card
    assert (folder / 'curves.png').is_file() and '](curves.png)' in card


def test_it_passes_every_probe_of_a_checkpoint():
    result = check_checkpoint(CheckOptions('reference'), lambda text: None)
    assert result.ok, result


@pytest.fixture(scope='module')
def scene(renderer):
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(tasks=tuple(TASKS))
    yield scene
    scene.close()


@pytest.mark.slow
def test_it_solves_its_tasks(policy, scene):
    runs = [run_episode(policy, scene, seed) for seed in range(6)]
    assert [run.task for run in runs] == list(TASKS)
    assert sum(run.success for run in runs) >= 5
    assert not any(run.wrong_object == 'lifted' for run in runs)


def test_it_follows_its_instruction(policy, scene):
    for seed in (0, 1):  # pick up the red cube, pick up the green one
        scene.reset(seed)
        run = run_episode(policy, scene, seed, instruction=swapped(scene.instruction))
        assert (run.success, run.wrong_object) == (False, 'lifted')
