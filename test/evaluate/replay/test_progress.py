"""What a replay says while it runs, on a terminal and in a log. Answers are written by hand."""

import io
from functools import partial

import pytest
import replay_result as sample
from rich.console import Console

from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay import run as replay
from vla_prune_ros.evaluate.replay.run import ReplayProgress
from vla_prune_ros.evaluate.replay.store import Instant, ReplayedQuery, ReplayJob
from vla_prune_ros.runtime.progress import Progress


def recording(topics, queries=3):
    instants = [Instant(0, n, n, 'go', {}) for n in range(queries)]
    span_ns = 0, 2_500_000_000
    return sample.recording(instants, topics=topics, guessed=True, span_ns=span_ns)


def jobs(folder, bags):
    dense = Method('dense', 'dense', folder, '')
    return [ReplayJob(folder / bag, folder / bag, {'bag': bag}).of(dense) for bag in bags]


def answer(job, count):
    job.answers.begin([ReplayedQuery(n, 0, n, None) for n in range(count)])


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
    monkeypatch.setattr(replay, 'Progress', partial(Progress, every_s=0.0))
    with ReplayProgress(Console(file=log, width=100)) as progress:
        progress.reading(3)
        progress.begin([(done, 4), (half, 4), (stale, 4)])
        answer(half, 3)
        answer(ReplayJob(stale.bag, stale.folder, {**stale.key, 'setting': 'other'}), 4)
        progress.ended(done)
    assert '7/12  b dense 3/4\n' in log.getvalue() and 'c dense' not in log.getvalue()
