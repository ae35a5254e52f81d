"""Methods on bags, in a worker process or in this one."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import DataError, VlaPruneError
from ..runtime.bag import Bag
from .methods import Method, MethodPolicies
from .replay_job import ReplayJob, ReplayOutcome
from .replay_method import MethodReplay
from .replay_records import ReplayedQuery
from .replay_setting import ReplaySetting
from .replay_store import Answers, ReplayStore

if TYPE_CHECKING:
    from ..engine.policy import Policy

MEMORY_EVERY_S = 30.0
"""So much work is done again at most where a run is interrupted."""


class ReplayWorker:
    """Policies of one process.

    :param setting: what all jobs have in common.
    """

    def __init__(self, setting: ReplaySetting) -> None:
        self._setting = setting
        self._policies: MethodPolicies | None = None

    def run(self, job: ReplayJob) -> ReplayOutcome:
        """Do a job with a method, or take what an earlier run has done of it."""
        try:
            return ReplayOutcome(job, answers=tuple(self._replay(job, job.method)))
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.mend))

    def close(self) -> None:
        """Nothing is held open."""

    def _replay(self, job: ReplayJob, method: Method) -> Sequence[ReplayedQuery]:
        answers = ReplayStore(job.folder).answers(job.key)
        done = answers.done()
        if done is not None:
            return done
        policy = self._policy(method)
        before, memory = answers.so_far()
        if memory is not None and not _restores(policy, memory):
            before, memory = [], None
        answers.begin(before)
        replay = MethodReplay(policy, self._setting)
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

    def _policy(self, method: Method) -> 'Policy':
        import torch

        if self._policies is None:
            torch.set_num_threads(self._setting.threads)
            setting = self._setting
            self._policies = MethodPolicies(setting.profile, setting.device, setting.dtype)
        return self._policies.get(method)


def _restores(policy: 'Policy', memory: bytes) -> bool:
    """Whether the memory is one of this very code; of a checkout, the version does not tell."""
    try:
        policy.restore(memory)
    except Exception:  # whatever pickle raises where a class has changed
        return False
    return True
