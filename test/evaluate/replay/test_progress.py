"""What a replay says while it runs, on a terminal and in a log. Answers are written by hand."""

import io
from functools import partial

from rich.console import Console

from vla_prune_ros.evaluate.methods import Method
from vla_prune_ros.evaluate.replay import run as replay
from vla_prune_ros.evaluate.replay.run import ReplayProgress
from vla_prune_ros.evaluate.replay.store import ReplayedQuery, ReplayJob
from vla_prune_ros.runtime.progress import Progress


def jobs(folder, bags):
    dense = Method('dense', 'dense', folder, '')
    return [ReplayJob(folder / bag, folder / bag, {'bag': bag}).of(dense) for bag in bags]


def answer(job, count):
    job.answers.begin([ReplayedQuery(n, 0, n, None) for n in range(count)])


def test_the_answers_that_are_written_down_are_counted(tmp_path, monkeypatch):
    """Of three jobs one is done, one is under way, and one has answers of other settings only."""
    log, (done, half, stale) = io.StringIO(), jobs(tmp_path, 'abc')
    monkeypatch.setattr(replay, 'Progress', partial(Progress, every_s=0.0))
    with ReplayProgress(Console(file=log, width=100)) as progress:
        progress.reading(3)
        progress.begin([(done, 4), (half, 4), (stale, 4)])
        answer(half, 3)
        answer(ReplayJob(stale.bag, stale.folder, {**stale.key, 'setting': 'other'}), 4)
        progress.ended(done)
    assert '7/12  b dense 3/4\n' in log.getvalue() and 'c dense' not in log.getvalue()
