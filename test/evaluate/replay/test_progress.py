"""What a replay says while it runs, on a terminal and in a log. Answers are written by hand."""

import io

import pytest
from rich.console import Console

from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay.progress import ReplayProgress
from vla_prune_ros.evaluate.replay.records import Instant, Recording, ReplayedQuery
from vla_prune_ros.evaluate.replay.store import ReplayJob, ReplayStore, method_key


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
    with ReplayProgress(Console(file=log, width=40)) as progress:
        progress.reading(4)
        for name in ('a', 'b'):
            progress.scanned(name, recording({'front': '/a/very/long/name/of/a/topic'}), '')
        progress.scanned('c', None, 'no bag')
        progress.scanned('d', recording({'front': '/other'}, 1), '')
    assert log.getvalue().splitlines()[:6] == [
        'a: 2.5 s, 3 queries',
        '  topics, guessed by type and name: front = /a/very/long/name/of/a/topic',
        'b: 2.5 s, 3 queries',
        'c: no bag',
        'd: 2.5 s, 1 query',
        '  topics, guessed by type and name: front = /other',
    ]


def test_bars_count_the_answers_that_are_written_down(log, tmp_path):
    """Of three jobs one is done, one is under way, and one has answers of other settings only."""
    done, half, stale = jobs(tmp_path, 'abc')
    with ReplayProgress(Console(file=log, width=100)) as progress:
        progress.reading(3)
        progress.begin([(done, 4), (half, 4), (stale, 4)])
        answer(half, 3)
        answer(ReplayJob(stale.bag, stale.folder, {**stale.key, 'setting': 'other'}), 4)
        progress.ended(done)
    bars = [line.split() for line in log.getvalue().splitlines()]
    ends = [(line[0] if len(line) < 5 else line[-5], line[-2]) for line in bars if line]
    assert [count for _, count in ends] == ['4/4', '3/4', '0/4', '7/12']


def test_of_many_jobs_those_that_run_are_shown(log, tmp_path):
    many = jobs(tmp_path, 'abcdefg', ('dense', 'specprune'))
    with ReplayProgress(Console(file=log, width=100)) as progress:
        progress.reading(7)
        progress.begin([(job, 2) for job in many])
        for job in many[:3]:
            progress.ended(job)
        answer(many[3], 1)
    lines = [line for line in log.getvalue().splitlines() if line.strip()]
    assert len(lines) == 2
    assert 'b specprune' in lines[0] and '1/2' in lines[0]
    assert 'all' in lines[1] and '7/28' in lines[1]


def test_nothing_is_printed_where_nothing_began(log):
    with pytest.raises(ValueError), ReplayProgress(Console(file=log)):
        raise ValueError
    assert log.getvalue() == ''
