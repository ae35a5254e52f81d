"""Passes over bags and methods on bags, in a worker process or in this one."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, VlaPruneError
from ..runtime.bag import Bag
from .methods import Method, MethodPolicies
from .replay_method import MethodReplay
from .replay_records import Recording, ReplayedQuery
from .replay_scan import scan
from .replay_setting import ReplaySetting
from .replay_store import Answers, Key, ReplayStore

MEMORY_EVERY_S = 30.0
"""So much work is done again at most where a run is interrupted."""


@dataclass(frozen=True)
class ReplayJob:
    """A pass over a bag, or a method on it.

    :param folder: of the bag's results.
    :param key: what the results are of.
    :param method: None for the pass that asks no policy.
    """

    bag: Path
    folder: Path
    key: Key
    method: Method | None = None


@dataclass(frozen=True)
class ReplayOutcome:
    """What became of a job: what it found, or why it found nothing and the mend. An exception
    crosses no process: not every one can be pickled."""

    job: ReplayJob
    recording: Recording | None = None
    answers: tuple[ReplayedQuery, ...] | None = None
    wrong: tuple[str, str] | None = None


class ReplayWorker:
    """Policies of one process.

    :param setting: what all jobs have in common.
    """

    def __init__(self, setting: ReplaySetting) -> None:
        self._setting = setting
        self._policies: MethodPolicies | None = None

    def run(self, job: ReplayJob) -> ReplayOutcome:
        """Do a job, or take what an earlier run has done of it."""
        try:
            if job.method is None:
                return ReplayOutcome(job, recording=self._scan(job))
            return ReplayOutcome(job, answers=tuple(self._replay(job, job.method)))
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.mend))

    def close(self) -> None:
        """Nothing is held open."""

    def _scan(self, job: ReplayJob) -> Recording:
        store = ReplayStore(job.folder)
        found = store.recording(job.key)
        if found is None:
            found = scan(job.bag, self._setting)
            store.put_recording(job.key, found)
        return found

    def _replay(self, job: ReplayJob, method: Method) -> Sequence[ReplayedQuery]:
        answers = ReplayStore(job.folder).answers(job.key)
        done = answers.done()
        if done is not None:
            return done
        before, memory = answers.so_far()
        answers.begin(before)
        replay = MethodReplay(self._policy(method), self._setting)
        queries = list(before)
        saved = time.monotonic()
        with Bag(job.bag) as bag:
            for query in replay.answers(bag, before, memory):
                queries.append(query)
                answers.append(query)
                if time.monotonic() - saved >= MEMORY_EVERY_S:
                    self._remember(replay, answers, len(queries))
                    saved = time.monotonic()
        answers.end()
        return queries

    def _remember(self, replay: MethodReplay, answers: Answers, count: int) -> None:
        with suppress(DataError):  # a method of the user's own: its bag begins anew, no more
            answers.remember(count, replay.memory())

    def _policy(self, method: Method) -> 'object':
        import torch

        if self._policies is None:
            torch.set_num_threads(self._setting.threads)
            setting = self._setting
            self._policies = MethodPolicies(setting.profile, setting.device, setting.dtype)
        return self._policies.get(method)
