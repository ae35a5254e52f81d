"""One method on one bag: what the node would have answered, query by query, in the node's order.

Only time is the bag's: an answer takes none, and the refresh between queries is never cut short.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...bags.events import BAG_READER
from ...bags.reader import Bag
from ...errors import DataError
from ...records import ActionChunk
from ...runtime.session import InferenceRequest, PolicySession
from ..methods import Method, MethodPolicies
from .scan import ReplaySetting, open_replay
from .store import JobWorker, ReplayedQuery, ReplayJob, ReplayOutcome

if TYPE_CHECKING:
    from ...engine.policy import Policy


class MethodReplay:
    """:raises ProfileError: a parameter is not usable."""

    def __init__(self, policy: 'Policy', setting: ReplaySetting) -> None:
        self._policy, self._setting = policy, setting
        self._session()  # refuses what is not usable

    def answers(
        self, bag: Bag, before: Sequence[ReplayedQuery] = (), memory: bytes | None = None
    ) -> Iterator[ReplayedQuery]:
        """The queries of a bag, in order; the policy forgets what was before.

        :param before: answers that are known from an interrupted run; they are not given again.
        :param memory: of the policy behind the last of them.
        :raises DataError: the bag lacks a stream.
        """
        self._policy.reset()
        if memory is not None:
            self._policy.restore(memory)
        topics, _ = self._setting.topics_of(bag)
        session, number = self._session(), 0
        for event in open_replay(bag, topics, self._setting, session).events():
            known = number < len(before)
            is_frame = event.refusal is None and event.stream in session.profile.cameras
            if is_frame and not known:
                session.watch(event.stream, event.message)
            if event.request is None:
                continue
            if known:
                session.replayed(event.request, self._chunk(before[number]))
            else:
                yield self._ask(session, event.request, number)
            number += 1

    def _session(self) -> PolicySession:
        setting = self._setting
        return PolicySession(self._policy, setting.robot, BAG_READER, period_s=setting.period_s)

    def _ask(
        self, session: PolicySession, request: InferenceRequest, number: int
    ) -> ReplayedQuery:
        result = session.infer(request)
        actions = refresh_ms = None
        if result.chunk is not None:
            session.published(request, result.chunk)
            actions = np.column_stack([result.chunk.deltas, result.chunk.gripper])
            refresh_ms = session.refresh() if self._setting.refresh else None
        refusal, inference = result.refusal, result.inference
        return ReplayedQuery(
            number=number,
            epoch=request.epoch,
            stamp_ns=request.stamp_ns,
            actions=actions,
            refusal='' if refusal is None else f'{refusal.reason}: {refusal}',
            kept={} if inference is None else inference.kept,
            # Here it is the refresh behind this query: there is time for each.
            record=replace(result.record, refresh_ms=refresh_ms),
        )

    def _chunk(self, query: ReplayedQuery) -> ActionChunk | None:
        if query.actions is None:
            return None
        return ActionChunk(
            stamp_ns=query.stamp_ns,
            dt_s=self._policy.profile.control_period_s,
            deltas=query.actions[:, :6],
            gripper=query.actions[:, 6],
            frame_id=self._setting.robot.frame_id,
        )


MEMORY_EVERY_S = 30.0  # so much work at most is done again where a run is interrupted


class ReplayWorker(JobWorker):
    _policies: MethodPolicies | None = None

    def _outcome(self, job: ReplayJob) -> ReplayOutcome:
        done = job.answers.done()
        return ReplayOutcome(job, answers=self._replay(job) if done is None else done)

    def _replay(self, job: ReplayJob) -> list[ReplayedQuery]:
        policy, answers = self._policy(job.method), job.answers
        queries, memory = answers.so_far()
        if memory is not None:
            try:
                policy.restore(memory)
            except DataError:  # of other code: in a checkout, the version does not tell
                queries, memory = [], None
        answers.begin(queries)
        replay, before = MethodReplay(policy, self._setting), tuple(queries)
        saved = time.monotonic()
        with Bag(job.bag) as bag:
            for query in replay.answers(bag, before, memory):
                queries.append(query)
                answers.append(query)
                if time.monotonic() - saved >= MEMORY_EVERY_S:
                    with suppress(DataError):  # a method of the user's own: its bag begins anew
                        answers.remember(len(queries), policy.memory())
                    saved = time.monotonic()
        answers.end()
        return queries

    def _policy(self, method: Method) -> 'Policy':
        import torch

        if self._policies is None:
            setting = self._setting
            torch.set_num_threads(setting.threads)
            self._policies = MethodPolicies(setting.profile, setting.device, setting.dtype)
        return self._policies.get(method)
