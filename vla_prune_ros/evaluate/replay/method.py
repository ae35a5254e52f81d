"""One method on one bag: what the node would have answered, query by query, in the node's order.

The node's parts do the work: pairing, state, motion source, policy, guard. Only time is the
bag's: an answer takes none, and the look between queries (``Policy.refresh``) is never cut short.

Methods on bags, in a worker process or in this one.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...bags.events import Due, Event
from ...bags.observation import JOINTS, POSE, Frame, observe, picture
from ...bags.reader import Bag
from ...errors import ActionRefused, DataError, InputRefused, VlaPruneError
from ...profiles import Profile
from ...records import ActionChunk, Inference, MotionHint
from ...runtime.frozen_frames import FrozenDetector
from ...runtime.guard import Guard
from ...runtime.messages import read_joints, read_pose
from ...runtime.motion import LISTENS
from ...runtime.pairing import Pair
from ..methods import Method, MethodPolicies
from .records import ReplayedQuery
from .scan import open_replay
from .settings import ReplaySetting
from .store import Answers, ReplayJob, ReplayOutcome, ReplayStore

if TYPE_CHECKING:
    from ...engine.policy import Policy


class MethodReplay:
    """A policy that hears bags.

    :param policy: with the method; it is reset before each bag.
    :raises ProfileError: a limit or the motion source is not usable.
    """

    def __init__(self, policy: 'Policy', setting: ReplaySetting) -> None:
        self._policy, self._setting, self._robot = policy, setting, setting.robot
        self._profile: Profile = policy.profile
        self._wiring = setting.robot.wiring()
        self._guard = Guard(setting.robot.limits())
        self._motion = setting.robot.motion()
        self._frozen = FrozenDetector(setting.robot.frozen_frames)
        proprio = policy.statistics.proprio
        self._reference = np.zeros(3) if proprio is None else proprio.mean[3:6]

    def answers(
        self, bag: Bag, before: Sequence[ReplayedQuery] = (), memory: bytes | None = None
    ) -> Iterator[ReplayedQuery]:
        """The queries of a bag, in order.

        Between two of them the policy remembers what :meth:`memory` stores.

        :param before: answers that are known from an interrupted run; they are not given again.
        :param memory: the policy's memory behind the last of them.
        :raises DataError: the bag lacks a stream.
        """
        self._policy.reset()
        if memory is not None:
            self._policy.restore(memory)
        topics, _ = self._setting.topics_of(bag)
        listens = LISTENS[self._robot.motion_source]
        replay = open_replay(bag, topics, self._setting)
        due = Due(self._profile, self._wiring, self._setting.period_s)
        self._motion.reset()
        self._frozen.reset()
        epoch, policy_epoch, number = 0, -1, 0
        for event in replay.events():
            if event.epoch != epoch:
                epoch = event.epoch
                self._motion.reset()
            if event.refusal is not None:
                continue
            self._hear(event, listens)
            known = number < len(before)
            if event.stream in self._profile.cameras and not known and policy_epoch == epoch:
                self._show(event)
            pair = event.pair
            if pair is None or not due(epoch, pair.stamp_ns):
                continue
            if policy_epoch != epoch:  # the first query of an epoch finds an empty memory
                policy_epoch = epoch
                self._frozen.reset()
                if not known:
                    self._policy.reset()
            query = before[number] if known else None
            if query is None:
                query = self._ask(Frame(pair, replay.instruction, epoch), number)
                yield query
            else:
                self._is_frozen(pair)
            self._publish(query)
            number += 1

    def memory(self) -> bytes:
        """See :meth:`~vla_prune_ros.engine.policy.Policy.memory`.

        :raises DataError: the method's memory cannot be stored.
        """
        return self._policy.memory()

    def _hear(self, event: Event, listens: Sequence[str]) -> None:
        """Feed the motion source; what it cannot use makes the motion unknown, there."""
        if event.stream not in listens:
            return
        message = event.message
        try:
            if event.stream == POSE:
                self._motion.on_pose(message.stamp_ns, *message.read(read_pose))
            if event.stream == JOINTS:
                self._motion.on_joints(message.stamp_ns, *message.read(read_joints))
        except InputRefused:
            return

    def _show(self, event: Event) -> None:
        message = event.message
        later = partial(picture, event.stream, message, self._wiring)
        self._policy.watch(event.stream, message.stamp_ns, later)

    def _ask(self, frame: Frame, number: int) -> ReplayedQuery:
        pair = frame.pair
        motion = self._motion.at(pair.stamp_ns)
        at = number, frame.epoch, pair.stamp_ns
        try:
            frozen = self._is_frozen(pair)
            if frozen:
                raise InputRefused('frozen', frozen, 'restart its driver, or raise frozen_frames')
            seen = observe(frame, self._profile, self._wiring, self._reference)
            inference = self._policy.infer(seen, motion)
        except InputRefused as refusal:
            return ReplayedQuery(*at, None, f'{refusal.reason}: {refusal}', motion=motion)
        return self._checked(at, inference, motion)

    def _checked(
        self, at: tuple[int, int, int], inference: Inference, motion: MotionHint | None
    ) -> ReplayedQuery:
        what = inference.mode, inference.kept, inference.timings_ms
        try:
            actions = self._profile.to_si(inference.actions)
            deltas, gripper, _ = self._guard.check(actions, self._profile.action_names)
        except ActionRefused as refusal:
            return ReplayedQuery(*at, None, f'{refusal.reason}: {refusal}', *what, None, motion)
        refresh_ms = self._policy.refresh() if self._setting.refresh else None
        chunk = np.column_stack([deltas, gripper])
        return ReplayedQuery(*at, chunk, '', *what, refresh_ms, motion)

    def _publish(self, query: ReplayedQuery) -> None:
        """The chunk that is commanded from now on, for a source that goes by it."""
        if query.actions is not None:
            dt_s = self._profile.control_period_s
            steps, gripper = query.actions[:, :6], query.actions[:, 6]
            self._motion.on_chunk(
                ActionChunk(query.stamp_ns, dt_s, steps, gripper, self._robot.frame_id)
            )

    def _is_frozen(self, pair: Pair) -> str:
        """What to say of a camera that repeats itself; empty where none does."""
        said = ''
        for camera in self._profile.cameras:
            try:
                data = pair.items[camera].message().data
            except InputRefused:
                continue
            repeats = self._frozen.update(camera, data)
            if self._frozen.frozen(camera):
                said = said or f'camera {camera!r} sent {repeats + 1} identical frames'
        return said


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
            return ReplayOutcome(job, wrong=(error.what, error.remedy))

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
