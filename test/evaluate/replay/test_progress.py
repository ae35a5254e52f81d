"""What a replay says while it runs, on a terminal and in a log. Answers are written by hand."""

import io
from functools import partial

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay import progress as replay_progress
from vla_prune_ros.evaluate.replay.progress import ReplayProgress
from vla_prune_ros.evaluate.replay.records import Instant, Recording, ReplayedQuery
from vla_prune_ros.evaluate.replay.store import ReplayJob, ReplayStore, method_key
from vla_prune_ros.runtime.progress import Progress


def recording(topics, queries=3):
    instants = tuple(Instant(0, n, n, 'go', {}) for n in range(queries))
    return Recording('', topics, True, {}, (0, 2_500_000_000), instants, (), {}, (), '', (), ())


def jobs(folder, bags, methods=('dense',)):
    return [
        ReplayJob(folder / bag, folder / bag, method_key({'bag': bag}, method), method)
        for bag in bags
        for method in (Method(name, name, folder, '') for name in methods)
    ]


def answer(job, count):
    answers = ReplayStore(job.folder).answers(job.key)
    answers.begin([ReplayedQuery(n, 0, n, None) for n in range(count)])


@pytest.fixture
def log():
    return io.StringIO()


def test_a_guess_is_printed_once_for_bags_that_are_alike(log):
    long = '/a/very/long/name/of/a/topic'
    with ReplayProgress(Console(file=log, width=40)) as progress:
        progress.reading(4)
        for name in ('a', 'b'):
            progress.scanned(name, recording({'front': long}), '')
        progress.scanned('c', None, 'no bag')
        progress.scanned('d', recording({'front': '/other'}, 1), '')
    text = log.getvalue()
    assert text.count(f'front = {long}') == text.count('front = /other') == 1
    assert 'b: 2.5 s, 3 queries' in text and 'c: no bag' in text and 'd: 2.5 s, 1 query' in text


def test_the_answers_that_are_written_down_are_counted(log, tmp_path, monkeypatch):
    """Of three jobs one is done, one is under way, and one has answers of other settings only."""
    done, half, stale = jobs(tmp_path, 'abc')
    monkeypatch.setattr(replay_progress, 'Progress', partial(Progress, every_s=0.0))
    with ReplayProgress(Console(file=log, width=100)) as progress:
        progress.reading(3)
        progress.begin([(done, 4), (half, 4), (stale, 4)])
        answer(half, 3)
        answer(ReplayJob(stale.bag, stale.folder, {**stale.key, 'setting': 'other'}), 4)
        progress.ended(done)
    assert '7/12  b dense 3/4\n' in log.getvalue() and 'c dense' not in log.getvalue()
