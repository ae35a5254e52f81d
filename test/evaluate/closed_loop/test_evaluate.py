"""A whole evaluation, on the scripted line and with the micro checkpoint in the two-cube scene."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import quick_worker

from vla_prune_ros import cli
from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.closed_loop import run as closed_loop
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeKey
from vla_prune_ros.evaluate.closed_loop.rollout import run_episode
from vla_prune_ros.evaluate.closed_loop.run import plan_jobs, run_evaluate, stored, task_names
from vla_prune_ros.evaluate.closed_loop.worker import EpisodeWorker, Outcome
from vla_prune_ros.evaluate.machine import versions
from vla_prune_ros.evaluate.methods import parse_methods
from vla_prune_ros.evaluate.options import EvaluateOptions
from vla_prune_ros.evaluate.pool import run_jobs
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.sim.two_cubes import PICK_TASKS, TASKS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'micro', 'micro')


@pytest.fixture
def options(checkpoint, tmp_path):
    return EvaluateOptions(
        checkpoint=checkpoint,
        methods=('dense', 'uniform:64'),
        tasks=('pick_red', 'pick_green'),
        episodes=3,
        first_seed=10,
        out=tmp_path / 'out',
        max_steps=16,
    )


class Line:
    """Stands in for the worker: episodes on the line, solved by dense on even seeds only."""

    def __init__(self, scene, policy):
        self._scene, self._policy = scene, policy
        self.ran, self.fail = [], set()

    def __call__(self, kind, jobs, setting, workers, ray):
        for job in jobs:
            self.ran.append(job.key)
            yield Outcome(job, self._run(job), versions())

    def _run(self, job):
        solved = job.key.method == 'dense' and job.key.seed % 2 == 0
        scene = self._scene(goal_m=0.3 if solved else 10.0, task=job.key.task)
        result = run_episode(self._policy(), scene, job.key.seed, 16)
        error = 'OSError: no space' if job.key in self.fail else ''
        return replace(result, error=error, success=result.success and not error)


@pytest.fixture
def line(monkeypatch, line_scene, script_policy):
    runner = Line(line_scene, script_policy)
    monkeypatch.setattr(closed_loop, 'run_jobs', runner)
    return runner


def ignore(key, result):
    """Nobody watches."""


def planned(options, **changes):
    options = replace(options, **changes)
    return plan_jobs(options, parse_methods(options.methods, options.checkpoint), ())


def test_all_methods_run_on_the_same_seeds_in_turn_and_the_first_are_filmed(options):
    jobs = planned(options, videos=1)
    keys = [job.key for job in jobs]
    assert len(keys) == len(set(keys)) == 12
    assert keys[:4] == [
        EpisodeKey(m, 'pick_red', s) for s in (10, 11) for m in ('dense', 'uniform:64')
    ]
    assert [k.task for k in keys] == ['pick_red'] * 6 + ['pick_green'] * 6
    filmed = [job.key for job in jobs if job.video]
    assert len(filmed) == 4 and {key.seed for key in filmed} == {10}


def test_tasks_of_the_two_cubes_by_name():
    assert task_names('two_cubes', ()) == PICK_TASKS
    assert task_names('two_cubes', ['all']) == tuple(TASKS)
    given = ['pick_green', 'stack_red_on_green', 'pick_green']
    assert task_names('two_cubes', given) == ('pick_green', 'stack_red_on_green')
    with pytest.raises(VlaPruneError, match="task 'fly' is unknown; choose from pick_red"):
        task_names('two_cubes', ['pick_red', 'fly'])


def test_tasks_of_a_suite_are_asked_of_its_scene(monkeypatch):
    closed = []

    def suite(simulator, tasks, render):
        assert (simulator, render) == ('libero_spatial', False)
        names = {'0': 'bowl', '1': 'plate'}
        found = tuple(names.get(t, t) for t in tasks or names)
        return SimpleNamespace(task_names=found, close=lambda: closed.append(found))

    monkeypatch.setattr(closed_loop, 'make_scene', suite)
    for given in ((), ['all']):
        assert task_names('libero_spatial', given) == ('bowl', 'plate')
    assert task_names('libero_spatial', ['1', 'plate']) == ('plate',) and len(closed) == 3


def test_rows_hold_what_happened_and_a_second_run_runs_nothing(options, line):
    seen = []
    result = run_evaluate(options, lambda key, result: seen.append(key)).result
    assert seen == line.ran and len(seen) == 12
    rows = {(r.task, r.method): r for r in result.rows}
    assert rows['pick_red', 'dense'].successes == 2  # seeds 10 and 12 of 10, 11, 12
    versus = rows['all', 'uniform:64'].versus_first
    assert (versus.pairs, versus.only_first, versus.only_this) == (6, 4, 0)
    assert versus.p_value == pytest.approx(0.125)
    assert result.ok and result.untrained
    assert result.checkpoints[0]['note']['preset'] == 'micro'
    line.ran.clear()
    again = run_evaluate(options, lambda key, result: seen.append(key)).result
    assert line.ran == [] and len(seen) == 24
    assert again.rows == result.rows == stored(options).result.rows


def test_more_episodes_add_to_what_is_there(options, line):
    run_evaluate(options, ignore)
    line.ran.clear()
    more = replace(options, episodes=4, methods=('dense', 'uniform:64', 'fastv:64'))
    evaluation = run_evaluate(more, ignore)
    assert len(line.ran) == 4 + 2 * 4
    assert {r.episodes for r in evaluation.result.rows} == {4, 8}
    fewer = run_evaluate(replace(options, episodes=2, tasks=('pick_red',)), ignore)
    assert [r.episodes for r in fewer.result.rows] == [2, 2]


def test_what_ended_before_an_interrupt_is_kept(options, line):
    def interrupted(key, result):
        if len(line.ran) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_evaluate(options, interrupted)
    assert len(stored(options).episodes) == 5
    line.ran.clear()
    run_evaluate(options, ignore)
    assert len(line.ran) == 7


def test_an_episode_that_raised_is_shown_and_tried_again(options, line):
    bad = EpisodeKey('dense', 'pick_red', 10)
    line.fail = {bad}
    result = run_evaluate(options, ignore).result
    assert not result.ok and result.errors == ['dense pick_red 10: OSError: no space']
    row = result.rows[0]
    assert (row.successes, row.episodes, row.errors) == (1, 3, 1)
    line.fail, line.ran = set(), []
    result = run_evaluate(options, ignore).result
    assert line.ran == [bad] and result.ok and result.rows[0].successes == 2


def test_a_job_that_cannot_run_stops_the_run_with_its_reason(options, monkeypatch):
    def nothing(kind, jobs, setting, workers, ray):
        yield Outcome(jobs[0], None, versions(), ('no task is named fly', 'choose another'))

    monkeypatch.setattr(closed_loop, 'run_jobs', nothing)
    with pytest.raises(VlaPruneError, match='no task is named fly; choose another'):
        run_evaluate(options, ignore)


def test_without_ray_its_extra_is_named(options, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(VlaPruneError, match=r"pip install 'vla_prune_ros\[ray\]'"):
        next(run_jobs(EpisodeWorker, planned(options), options.setting, 2, 'auto'))


@pytest.fixture
def real_jobs(options, renderer):
    """Of two queries each, the second of which specprune prunes; and how all are to be run."""
    jobs = planned(options, methods=('dense', 'specprune'), tasks=('pick_red',), episodes=2)
    return jobs[:3], replace(options, max_steps=9).setting


def numbers(outcomes):
    """Everything but times, by key."""
    found = {}
    for outcome in outcomes:
        result = outcome.result
        assert result.error == '' and outcome.job.key not in found
        queries = [replace(q, total_ms=0.0, stages_ms={}) for q in result.queries]
        found[outcome.job.key] = replace(result, queries=tuple(queries), refresh_ms=())
    return found


@pytest.mark.slow
def test_order_and_number_of_workers_change_no_number(real_jobs):
    jobs, setting = real_jobs
    in_order = numbers(run_jobs(EpisodeWorker, jobs, setting, 1))
    assert numbers(run_jobs(EpisodeWorker, jobs[::-1], setting, 2)) == in_order
    moved = {e.moved_m for e in in_order.values()}
    assert len(moved) == len(jobs) and min(moved) > 0.0  # no two episodes are the same


@pytest.mark.slow
@pytest.mark.skipif(find_spec('ray') is None, reason='ray is not installed')
def test_a_ray_cluster_gives_the_same_numbers(real_jobs, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # of the actors
    monkeypatch.setenv('RAY_AUTH_MODE', 'disabled')  # else it keeps a token in the home folder
    jobs, setting = real_jobs
    expected = numbers(run_jobs(EpisodeWorker, jobs, setting, 1))
    assert numbers(run_jobs(EpisodeWorker, jobs, setting, 2, 'local')) == expected


@pytest.mark.skipif(find_spec('ray') is None, reason='ray is not installed')
def test_a_cluster_that_is_not_there_is_named(options, monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError('Could not find any running Ray instance.\nmore')

    monkeypatch.setattr(ray, 'init', refuse)
    with pytest.raises(VlaPruneError, match="no Ray cluster at 'auto'.*ray start --head"):
        next(run_jobs(EpisodeWorker, planned(options), options.setting, 1, 'auto'))


def _heed_ctrl_c():
    """A shell lets its background jobs ignore the signal, and so the tests of such a job."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    command = f'evaluate {checkpoint} --methods dense --tasks pick_red --out {out}'.split()
    run = subprocess.Popen(
        [sys.executable, quick_worker.__file__, *command, '--episodes', '999', '--workers', '2'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c,
    )  # fmt: skip
    episodes = out / 'episodes.jsonl'
    deadline = time.monotonic() + 240  # minutes on a busy machine
    while not (episodes.is_file() and episodes.stat().st_size):
        assert run.poll() is None, run.communicate()
        if time.monotonic() > deadline:
            run.kill()
            pytest.fail(f'no episode: {run.communicate()}')
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    printed, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and 'interrupted' in errors and 'Traceback' not in errors
    assert 'Incomplete' in printed
    before = episodes.read_text()
    kept = [json.loads(line)['seed'] for line in before.splitlines()]
    assert kept and (out / 'result.json').is_file()
    monkeypatch.setattr(closed_loop, 'EpisodeWorker', quick_worker.QuickWorker)
    assert cli.main([*command, '--episodes', str(max(kept) + 2)]) == 0
    after = episodes.read_text()
    assert after.startswith(before)
    seeds = sorted(json.loads(line)['seed'] for line in after.splitlines())
    assert seeds == list(range(max(kept) + 2))
