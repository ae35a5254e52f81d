"""The whole way from demonstrations to a checkpoint, and what a second run leaves as it is.

Tiny network, a handful of steps, episodes drawn at random; ``test_reference_scene.py`` records
them in the simulator.
"""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from vla_prune_ros import load_policy
from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeResult
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train import reference
from vla_prune_ros.train.dataset import save
from vla_prune_ros.train.reference import Plan, Recipe, successes, train_reference

FIRST = 1_000_074  # two rounds of the six tasks: the second one is held out
NAMES = list(TASKS)


class Progress:
    """Interrupts the run at a stage and number."""

    def __init__(self, end=None):
        self._end = end

    def stage(self, name, total):
        self._name = name

    def at(self, done, text=''):
        if (self._name, done) == self._end:
            raise KeyboardInterrupt


def plan_for(work):
    small = {'batch': 1, 'part': 1, 'warm_up': 1}
    return Plan(
        work,
        demonstrations=12,
        towers=Recipe(1, towers_only=True, **small),
        first=Recipe(2, **small),
        corrections=(12,),
        further=Recipe(1, **small),
        checks=6,
        workers=1,
    )


def result(task, success, wrong=''):
    return EpisodeResult('two_cubes', task, 0, '', success, 9, wrong, 0.1, 512, 'pose', (), ())


@pytest.fixture(scope='module')
def drawn(tiny_net, episode):
    """What was recorded and measured, and with which checkpoint."""
    log = []

    def collect(wanted, workers, done):
        for n, seed in enumerate(wanted.missing(), start=1):
            if wanted.checkpoint is not None:
                assert (wanted.checkpoint / 'config.json').is_file()
            log.append((wanted.folder.name, seed, wanted.checkpoint and wanted.checkpoint.name))
            save(episode(NAMES[seed % 6], 1, seed), wanted.folder / f'{seed}.npz')
            done(n)

    def measure(checkpoint, seeds, workers, done):
        log.append(('measure', len(seeds), checkpoint.name))
        assert load_policy(checkpoint).untrained is False
        return [result(NAMES[seed % 6], seed % 2 == 0) for seed in seeds]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, 'FIRST_DEMONSTRATION', FIRST)
        patch.setattr(reference, 'ReferenceNet', lambda rows, seed: tiny_net(seed))
        patch.setattr(reference, 'collect', collect)
        patch.setattr(reference, 'measure', measure)
        yield log


def assert_same_weights(one, other):
    one, other = (load_policy(folder).model.state_dict() for folder in (one, other))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture(scope='module')
def finished(drawn, tmp_path_factory):
    """(work folder, checkpoint, history, log) of a run from beginning to end."""
    folder = tmp_path_factory.mktemp('finished')
    about = train_reference(plan_for(folder / 'work'), folder / 'out', Progress())
    return folder / 'work', folder / 'out', about, list(drawn)


def test_the_result_is_a_checkpoint_with_its_history(finished):
    _, out, about, _ = finished
    policy = load_policy(out)
    assert not policy.untrained and policy.describe()['film']
    assert [p.name for p in out.glob('action_head*')] == ['action_head--4_checkpoint.pt']
    note = json.loads((out / 'vla_prune.json').read_text())
    assert note['trained'] is True and note['task_names'] == NAMES
    assert note['history'] == json.loads(json.dumps(about['history']))
    trained = [e for e in about['history'] if 'validation' in e]
    # Twelve episodes of one frame each, six of them held out; then six more of twelve corrections.
    stages = [('towers', 6, 1), ('imitation', 6, 2), ('round-1', 12, 1)]
    assert [(e['stage'], e['samples'], e['steps']) for e in trained] == stages
    assert all(e['validation'] for e in trained)
    checks = [e for e in about['history'] if 'success' in e]
    assert [e['stage'] for e in checks] == ['imitation', 'round-1']
    assert checks[0]['success']['pick_red'] == '1/1, wrong 0'
    assert str(out.parent) not in (out / 'vla_prune.json').read_text()  # no path of this machine


def test_a_second_run_records_trains_and_measures_nothing(finished, drawn, monkeypatch):
    work, out, _, _ = finished
    drawn.clear()
    monkeypatch.setattr(reference, 'backward', None)
    again = out.parent / 'again'
    train_reference(plan_for(work), again, Progress())
    assert drawn == []
    assert_same_weights(again, out)


@pytest.mark.slow
def test_a_run_that_is_interrupted_thrice_ends_with_the_same_weights(finished, drawn, tmp_path):
    _, out, _, log = finished
    drawn.clear()
    plan = plan_for(tmp_path / 'interrupted')
    ends = ('training imitation', 1), ('recording corrections-1', 4), ('training round-1', 1)
    for end in ends:
        with pytest.raises(KeyboardInterrupt):
            train_reference(plan, tmp_path / 'other', Progress(end))
    train_reference(plan, tmp_path / 'other', Progress())
    assert drawn == log  # nothing was recorded or measured twice
    assert_same_weights(tmp_path / 'other', out)


@pytest.mark.parametrize(
    'change',
    [
        {'first': Recipe(4, batch=1, part=1, warm_up=1)},
        {'seed': 1},
        {'demonstrations': 18},
        {'corrections': (6,)},
        {'checks': 12},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_folder_of_another_plan_is_refused_and_left_alone(finished, change):
    work, out, _, _ = finished
    name, before = next(iter(change)), sorted((p, p.stat().st_mtime_ns) for p in work.rglob('*'))
    with pytest.raises(CheckpointError, match=f'was begun with {name} .* another --work folder'):
        train_reference(replace(plan_for(work), **change), out.parent / 'elsewhere', Progress())
    assert not (out.parent / 'elsewhere').exists()
    assert sorted((p, p.stat().st_mtime_ns) for p in work.rglob('*')) == before


def test_rounds_may_be_added_to_a_finished_folder(finished, drawn, tmp_path):
    work, _, _, _ = finished
    shutil.copytree(work, tmp_path / 'work')
    drawn.clear()
    plan = replace(plan_for(tmp_path / 'work'), corrections=(12, 6))
    train_reference(plan, tmp_path / 'out', Progress())
    second = [('corrections-2', 2_200_000 + n, 'round-1') for n in range(6)]
    assert drawn == [*second, ('measure', 6, 'round-2')]


def test_successes_are_counted_by_task():
    results = [
        result('pick_red', True),
        result('pick_red', False, 'lifted'),
        result('pick_red', False, 'pushed'),
        result('place_red_left', True, 'pushed'),
    ]
    assert successes(results) == {'pick_red': '1/3, wrong 2', 'place_red_left': '1/1'}
