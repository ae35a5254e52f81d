"""Whole replays by the micro checkpoint, bit for bit those of one process without interruption; a
query is counted where the policy is asked."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import arm_recording as arm
import bag_writer

from vla_prune_ros.engine.policy import Policy
from vla_prune_ros.evaluate.replay import method as replay_worker
from vla_prune_ros.evaluate.replay.run import ReplayOptions, run_replay
from vla_prune_ros.evaluate.replay.scan import ReplaySetting
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.pruning.state import pack, unpack
from vla_prune_ros.runtime.params import SessionParams

ROOT = Path(__file__).resolve().parents[3]
METHODS = ('dense', 'specprune')
QUERIES = {'a': 4, 'b': 6, 'c': 3}
TIMES = {'machine', 'command', 'workers', 'ray'}


class Watch:
    """Notes what it is told."""

    def __init__(self):
        self.said, self.jobs = [], []

    def reading(self, bags):
        self.said.append(bags)

    def scanned(self, name, recording, problem):
        self.said.append(problem or len(recording.instants))

    def begin(self, jobs):
        self.jobs = list(jobs)

    def ended(self, job):
        self.said.append(job.method.name)


def figures(value):
    """A result without what a clock or another number of workers changes."""
    if isinstance(value, dict):
        timed = TIMES | {k for k in value if k.endswith('_ms') and k != 'offset_ms'}
        return {k: figures(v) for k, v in value.items() if k not in timed}
    return [figures(v) for v in value] if isinstance(value, list | tuple) else value


def same(first, second):
    """Whether two runs gave the same answers, to the last bit."""
    assert [b.path for b in first.bags] == [b.path for b in second.bags]
    for mine, other in zip(first.bags, second.bags, strict=True):
        assert list(mine.answers) == list(other.answers)
        for method in mine.answers:
            for a, b in zip(mine.answers[method], other.answers[method], strict=True):
                np.testing.assert_array_equal(a.actions, b.actions)
                assert (a.number, a.epoch, a.stamp_ns) == (b.number, b.epoch, b.stamp_ns)
                assert (a.refusal, a.record.mode) == (b.refusal, b.record.mode)
                assert a.record.motion_m_s == b.record.motion_m_s
                for camera, mask in b.kept.items():
                    np.testing.assert_array_equal(a.kept[camera], mask)
    return figures(first.result.to_json()) == figures(second.result.to_json())


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'micro', 'micro')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Three bags, of different storage and length."""
    root = tmp_path_factory.mktemp('bags')
    for seed, (name, queries) in enumerate(QUERIES.items()):
        storage = 'sqlite3' if name == 'b' else 'mcap'
        arm.write(root / name, storage, queries=queries, seed=seed)
    return root


@pytest.fixture(scope='module')
def options(checkpoint, folder):
    def make(out, **changes):
        bags = tuple(folder / name for name in QUERIES)
        return replace(ReplayOptions(bags, checkpoint, METHODS, out), **changes)

    return make


@pytest.fixture(scope='module')
def plain(options, tmp_path_factory):
    """One process, no interruption."""
    return run_replay(options(tmp_path_factory.mktemp('plain')), Watch())


@pytest.fixture
def asked(monkeypatch):
    """Method of every query that a policy of this process was asked; ``stop`` ends the run like
    Ctrl-C when so many were."""
    seen = SimpleNamespace(queries=[], stop=None)
    infer = Policy.infer

    def counting(self, observation, motion=None):
        if observation.instruction == arm.INSTRUCTION:  # and not to warm up
            if len(seen.queries) == seen.stop:
                raise KeyboardInterrupt
            seen.queries.append(self.pruner.name)
        return infer(self, observation, motion)

    monkeypatch.setattr(Policy, 'infer', counting)
    return seen


def counts(queries):
    return tuple(queries.count(method) for method in METHODS)


def test_every_method_is_asked_at_every_instant_of_every_bag(plain):
    result = plain.result.to_json()
    assert result['ok'] and not result['problems'] and result['untrained']
    assert [row['queries'] for row in result['rows']] == [13, 13]
    assert [bag['queries'] for bag in result['bags']] == list(QUERIES.values())
    pruned = result['rows'][1]
    assert pruned['modes']['dense'] == 3 and set(pruned['modes']) == {'dense', 'coarse', 'fine'}
    assert pruned['visual_tokens'] < 512
    json.dumps(result, allow_nan=False)  # which browsers read


def test_the_order_of_bags_changes_no_figure(options, plain, tmp_path):
    given = options(tmp_path)
    turned = run_replay(replace(given, bags=given.bags[::-1]), Watch()).result
    assert figures(turned.to_json()['rows']) == figures(plain.result.to_json()['rows'])
    assert figures(turned.to_json()['bags']) == figures(plain.result.to_json()['bags'][::-1])


@pytest.mark.slow
def test_processes_change_no_figure(options, plain, folder, tmp_path):
    """And a folder stands for its bags."""
    assert same(run_replay(options(tmp_path, bags=(folder,), workers=2), Watch()), plain)


@pytest.mark.slow
@pytest.mark.skipif(find_spec('ray') is None, reason='ray is not installed')
def test_a_ray_cluster_changes_no_figure(options, plain, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # of the actors
    monkeypatch.setenv('RAY_AUTH_MODE', 'disabled')  # else it keeps a token in the home folder
    assert same(run_replay(options(tmp_path, workers=2, ray='local'), Watch()), plain)


def test_what_is_done_is_not_asked_again(options, plain, tmp_path, asked):
    first = run_replay(options(tmp_path), Watch())
    assert counts(asked.queries) == (13, 13)
    watch = Watch()
    again = run_replay(options(tmp_path), watch)
    assert len(asked.queries) == 26
    assert watch.said == [3, *QUERIES.values(), *METHODS * 3]
    assert [(job.method.name, n) for job, n in watch.jobs[:3]] == [
        ('dense', 4), ('specprune', 4), ('dense', 6)
    ]  # fmt: skip
    assert same(again, plain) and again.result.rows == first.result.rows  # times too


def interrupt(options, asked, monkeypatch, after, every=1):
    """Begin a run, and end it when it has asked so much, with the memory stored after every so
    many answers of a method."""
    ticks = itertools.count(step=1.0)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))  # once when begun, at every answer, and
    monkeypatch.setattr(replay_worker, 'time', clock)  # when stored
    monkeypatch.setattr(replay_worker, 'MEMORY_EVERY_S', float(every))
    asked.stop = after
    with pytest.raises(KeyboardInterrupt):
        run_replay(options, Watch())
    asked.stop, asked.queries = None, []


def stored(options, ending):
    """Files of the method that was interrupted."""
    return list(options.out.glob(f'bags/*/*{ending}'))


@pytest.mark.parametrize(('after', 'again'), [(2, (13, 13)), (7, (9, 10))])
def test_an_interrupted_run_goes_on(options, plain, tmp_path, asked, monkeypatch, after, again):
    """The memory is stored after every third answer. Interrupted before there is one; and after 4
    answers of dense and 3 of specprune."""
    interrupt(options(tmp_path), asked, monkeypatch, after, 3)
    assert same(run_replay(options(tmp_path), Watch()), plain)
    assert counts(asked.queries) == again
    assert stored(options(tmp_path), '.memory') == []


@pytest.mark.parametrize('of', ['other code', 'half'])
def test_a_memory_that_cannot_be_used_is_left(options, plain, tmp_path, asked, monkeypatch, of):
    """In a checkout the version does not tell; the method that was interrupted begins anew."""
    given = options(tmp_path)
    interrupt(given, asked, monkeypatch, 7)
    (memory,) = stored(given, '.memory')
    key, count, packed = memory.read_bytes().split(b'\n', 2)
    if of == 'other code':
        state = unpack(packed)
        state['pruner'].popitem()
        packed = pack(state)
    else:
        packed = packed[: len(packed) // 2]
    memory.write_bytes(b'\n'.join((key, count, packed)))
    assert same(run_replay(given, Watch()), plain)
    assert counts(asked.queries) == (9, 13)


def test_what_changed_is_replayed_anew(options, folder, checkpoint, tmp_path, asked):
    copy, weights = tmp_path / 'bags', shutil.copytree(checkpoint, tmp_path / 'weights')
    for name in 'ac':
        shutil.copytree(folder / name, copy / name)
    given = options(tmp_path / 'out', bags=(copy,), checkpoint=weights)

    def again(**changes):
        asked.queries.clear()
        run_replay(replace(given, **changes), Watch())
        return counts(asked.queries)

    assert again() == (7, 7)
    # Nothing that matters.
    assert again(methods=METHODS[::-1], command='again', bags=(copy / 'c', copy)) == (0, 0)
    assert again(methods=('dense', 'specprune:paper')) == (0, 7)
    shutil.rmtree(copy / 'a')
    arm.write(copy / 'a', queries=4, seed=9)
    assert again() == (4, 4)
    setting = ReplaySetting(robot=SessionParams(rotate_180=('wrist',)))
    assert again(setting=setting) == (7, 7)
    shutil.rmtree(weights)
    make_checkpoint(weights, 'micro', seed=1)
    assert again(setting=setting) == (7, 7)


CHILD = """
import signal, sys
from vla_prune_ros import cli
from vla_prune_ros.engine.policy import Policy
from vla_prune_ros.evaluate.replay import method as replay_worker

left, infer = int(sys.argv[1]), Policy.infer

def pausing(self, observation, motion=None):
    global left
    if observation.instruction != 'warm up':
        left -= 1
        if left < 0:
            print('paused', flush=True)
            signal.pause()
    return infer(self, observation, motion)

Policy.infer = pausing
replay_worker.MEMORY_EVERY_S = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    'signal_',
    [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGINT],
    ids=lambda s: s.name,
)
def test_the_command_goes_on_after_it_was_killed(
    options, plain, folder, checkpoint, tmp_path, asked, signal_
):
    words = f'replay {folder} --checkpoint {checkpoint} --out {tmp_path}'
    run = subprocess.Popen(
        [sys.executable, '-c', CHILD, '12', *words.split()],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said = list(itertools.takewhile(lambda line: line != 'paused\n', run.stdout))
    assert run.poll() is None, (said, run.communicate())
    os.killpg(run.pid, signal_)
    _, wrong = run.communicate(timeout=60)
    assert (run.returncode, wrong) in ((-signal.SIGKILL, ''), (130, 'interrupted\n'))
    assert not (tmp_path / 'report.json').exists()
    assert same(run_replay(options(tmp_path), Watch()), plain)
    assert counts(asked.queries) == (13 - 4 - 4, 13 - 4)


def codes(result):
    return [(p['bag'].rpartition('-')[0], p['code']) for p in result.problems]


def test_bags_that_cannot_be_read_are_named_and_the_others_replayed(options, plain, tmp_path):
    given = options(tmp_path / 'out')
    (tmp_path / 'text.mcap').write_text('no bag at all')
    (tmp_path / 'notes.txt').write_text('nor this')
    blind = [row for row in arm.rows() if row[0] != arm.WRIST]
    bag_writer.write(tmp_path / 'blind', blind)
    bad = tuple(tmp_path / name for name in ('gone', 'text.mcap', 'notes.txt', 'blind'))
    watch = Watch()
    found = run_replay(replace(given, bags=(*bad, *given.bags)), watch).result
    assert not found.ok
    assert codes(found) == [(n, 'unread') for n in ('gone', 'text', 'notes', 'blind')]
    names = 'gone', 'text.mcap', 'notes.txt', 'wrist'
    for problem, name in zip(found.problems, names, strict=True):
        assert name in problem['text'] and problem['text'] in watch.said
    assert figures(found.to_json()['rows']) == figures(plain.result.to_json()['rows'])
    assert [bag.queries for bag in found.bags] == [0, 0, 0, 0, *QUERIES.values()]


def test_a_truncated_bag_is_replayed_as_far_as_it_goes(options, tmp_path):
    """Behind the cut nothing is known; before it the answers are those of the whole bag."""
    given = options(tmp_path / 'out', methods=('specprune',))
    whole = arm.write(tmp_path / 'whole', queries=12, side=128)
    cut = shutil.copytree(whole, tmp_path / 'cut')
    file = (cut / 'whole.mcap').rename(cut / 'cut.mcap')
    (cut / 'metadata.yaml').unlink()
    os.truncate(file, file.stat().st_size * 2 // 3)
    run = run_replay(replace(given, bags=(whole, cut)), Watch())
    assert codes(run.result) == [('cut', 'lost')]
    assert 'cut.mcap is cut' in run.result.problems[0]['text']
    full, part = (bag.answers['specprune'] for bag in run.bags)
    assert len(full) == 12 and 4 <= len(part) <= 9
    for mine, other in zip(part, full, strict=False):
        np.testing.assert_array_equal(mine.actions, other.actions)
        assert (mine.record.mode, mine.stamp_ns) == (other.record.mode, other.stamp_ns)
