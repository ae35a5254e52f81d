"""``vla-prune evaluate`` with episodes that need no simulator: what happens between processes."""

import sys
import time

from vla_prune_ros import cli
from vla_prune_ros.evaluate.closed_loop import run
from vla_prune_ros.evaluate.closed_loop.episodes import EpisodeQuery, EpisodeResult
from vla_prune_ros.evaluate.closed_loop.worker import Outcome
from vla_prune_ros.evaluate.machine import versions


class QuickWorker:
    def __init__(self, setting):
        pass

    def run(self, job):
        time.sleep(0.1)
        query = EpisodeQuery(step=0, mode='dense', visual_tokens=512, total_ms=1.0)
        result = EpisodeResult(
            'two_cubes', job.key.task, job.key.seed, 'wave', True, visual_all=512, queries=(query,)
        )
        return Outcome(job, result, versions())

    def close(self):
        pass


if __name__ == '__main__':
    run.EpisodeWorker = QuickWorker
    sys.exit(cli.main())
