"""One pass over a bag, without a policy: when it would be asked, what was done, what is wrong.

No torch here: processes that scan bags start in a fraction of a second.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...bags.events import BAG_READER, Event, Replay
from ...bags.reader import Bag
from ...bags.topics import STREAMS, Topics, guess_topics, load_topics
from ...bags.trajectory import Reading, ReadingOptions, Trajectory, choose_reading
from ...errors import DataError, InputRefused
from ...profiles import Profile, load_profile
from ...runtime.messages import read_valid_pose
from ...runtime.params import SessionParams
from ...runtime.session import POSE, InferenceRequest, Observer
from . import store
from .store import Instant, JobWorker, Recording, ReplayJob, ReplayOutcome

_BACKWARD = ('time_jump', 'out_of_order')


@dataclass(frozen=True)
class ReplaySetting:
    """What all queries of a replay have in common; the command says what the options mean.

    :param robot: parameters of ``vla_policy``, as its node has them.
    :param threads: of torch, in each process.
    """

    profile: str = 'libero'
    device: str = 'cpu'
    dtype: str = 'float32'
    robot: SessionParams = field(default_factory=SessionParams)
    topics: str = ''
    actions: str = 'auto'
    gripper_closed: float | None = None
    gripper_open: float | None = None
    period_s: float | None = None
    clock: str = 'auto'
    refresh: bool = True
    threads: int = 1

    def load_profile(self) -> Profile:
        return load_profile(self.profile)

    def check(self) -> None:
        """:raises VlaPruneError: robot or topics file are not usable."""
        self.robot.check(self.load_profile())
        if self.topics:
            load_topics(Path(self.topics))

    def topics_of(self, bag: Bag) -> tuple[Topics, bool]:
        """And whether they were guessed."""
        if self.topics:
            return load_topics(Path(self.topics)), False
        return guess_topics(bag, self.load_profile()), True

    @property
    def sources(self) -> tuple[str, ...]:
        """Streams that may say what was done, the first that is there counts."""
        return ('twist', 'pose_target', 'ee_pose') if self.actions == 'auto' else (self.actions,)

    def reading(self, topics: Topics) -> Reading | None:
        """How what was done is read; None where it is not recorded, or not to be read.

        :raises ProfileError: the gripper is closed where it is open.
        """
        motion = next((s for s in self.sources if getattr(topics, s, '')), '')
        opening = {'gripper_closed': self.gripper_closed, 'gripper_open': self.gripper_open}
        return choose_reading(topics, motion, ReadingOptions(**opening)) if motion else None


def scan(path: 'str | Path', setting: ReplaySetting) -> Recording:
    """Read a bag from its first message to its last, images undecoded.

    :raises DataError: it cannot be read, or a stream that the profile needs has no topic.
    :raises ProfileError: see :meth:`ReplaySetting.reading`.
    """
    with Bag(path) as bag:
        try:
            return _Scan(bag, setting).run()
        except DataError as error:
            if not bag.lost:
                raise
            raise DataError(f'{error.what} ({"; ".join(bag.lost)})', error.remedy) from None


def open_replay(bag: Bag, topics: Topics, setting: ReplaySetting, observer: Observer) -> Replay:
    """The bag as the node receives it.

    All streams pass: a pause of them is a jump of time, and every pass over a bag, a player's as
    well, must find the same ones.
    """
    return Replay(bag, topics, observer, tuple(STREAMS), setting.clock)


class _Scan:
    def __init__(self, bag: Bag, setting: ReplaySetting) -> None:
        self._bag, self._setting = bag, setting
        self._profile = setting.load_profile()
        self._topics, self._guessed = setting.topics_of(bag)
        reading = self._reading = setting.reading(self._topics)
        self._observer = Observer(
            self._profile, setting.robot, BAG_READER, period_s=setting.period_s
        )
        self._replay = open_replay(bag, self._topics, setting, self._observer)
        finger = setting.robot.gripper_joints[0]
        self._trajectory = None if reading is None else Trajectory(reading, finger)
        self._instants: list[Instant] = []
        self._span: list[int] = []
        self._refused: Counter[str] = Counter()
        self._example: dict[str, str] = {}
        self._stale: Counter[str] = Counter()
        self._wait = ''

    def run(self) -> Recording:
        streams = self._topics.of((*self._topics.images, *STREAMS))
        for event in self._replay.events():
            self._take(event)
        actions, valid = self._actions()
        return Recording(
            topics={stream: topic for topic, stream in streams.items()},
            guessed=self._guessed,
            there=self._bag.topics,
            span_ns=(self._span[0], self._span[-1]) if self._span else (0, 0),
            instants=tuple(self._instants),
            losses=dict(self._observer.pairing.losses + self._stale),
            problems=tuple(self._problems(bool(valid.any()))),
            source='' if self._reading is None or not valid.any() else self._reading.motion,
            actions=actions,
            valid=valid,
        )

    def _take(self, event: Event) -> None:
        now_ns = event.message.receipt_ns
        self._span = [self._span[0] if self._span else now_ns, now_ns]
        if event.refusal is not None:
            self._refuse(event.refusal)
        if event.wait is not None:  # as a rule for the other cameras of the instant
            self._wait = event.wait.detail
            self._stale[event.wait.reason] += event.wait.reason.startswith('stale')
        if self._trajectory is not None:
            try:
                self._trajectory.note(event)
            except InputRefused as refusal:
                self._refuse(refusal)
        if event.request is not None:
            self._observer.begin(event.request)
            self._instants.append(self._instant(event.request, now_ns))

    def _instant(self, request: InferenceRequest, receipt_ns: int) -> Instant:
        items = request.pair.items
        position = None
        if POSE in items:
            with suppress(InputRefused):
                position = items[POSE].read(read_valid_pose)[0]
        return Instant(
            epoch=request.epoch,
            stamp_ns=request.stamp_ns,
            receipt_ns=receipt_ns,
            instruction=request.instruction,
            images={camera: items[camera].place for camera in self._profile.cameras},
            position=position,
        )

    def _refuse(self, refusal: InputRefused) -> None:
        self._refused[refusal.reason] += 1
        self._example.setdefault(refusal.reason, str(refusal))

    def _actions(self) -> tuple[np.ndarray, np.ndarray]:
        """What was done from each instant on, in SI units."""
        count, chunk = len(self._instants), self._profile.chunk
        actions, valid = np.zeros((count, chunk, 7)), np.zeros((count, chunk), bool)
        if self._trajectory is None:
            return actions, valid
        for epoch in {i.epoch for i in self._instants}:
            numbers = [n for n, i in enumerate(self._instants) if i.epoch == epoch]
            stamps = [self._instants[n].stamp_ns for n in numbers]
            labels = self._trajectory.labels(epoch, stamps, self._profile)
            for number, stamp_ns in zip(numbers, stamps, strict=True):
                steps, valid[number] = labels.steps(stamp_ns, 0, chunk)
                actions[number] = self._profile.to_si(steps)
        return actions, valid

    def _problems(self, acted: bool) -> list[tuple[str, str]]:
        losses = self._observer.pairing.losses
        out = [('lost', text) for text in self._bag.lost]
        out += [
            ('unstamped', f'{topic}: header stamps are zero; the time of receipt is used')
            for topic in sorted(self._bag.unstamped)
        ]
        backward = {name: losses[name] for name in _BACKWARD if losses[name]}
        if backward:
            out.append(('backward_stamps', f'time does not go on steadily: {_times(backward)}'))
        out += [
            ('unusable', f'{count} messages were refused: {self._example[reason]}')
            for reason, count in sorted(self._refused.items())
            if reason not in _BACKWARD
        ]
        if not self._observer.instruction:
            out.append(('no_instruction', 'the bag names no task; give --instruction'))
            return out  # at no instant there is something to compare
        if not self._instants:
            why = self._wait or _times(losses)
            never = 'no query would have been asked, its images never pair'
            out.append(('no_queries', f'{never}: {why}'))
        if not acted and self._setting.actions != 'none':
            out.append(('no_actions', self._no_actions()))
        return out

    def _no_actions(self) -> str:
        if self._reading is None:
            *more, last = self._setting.sources
            named = f'{", ".join(more)} or {last}' if more else last
            return f'no recorded actions: no topic is named for {named}'
        left = _times(self._trajectory.left_out)
        return (
            f'no recorded actions: {self._reading.motion} and {self._reading.gripper} say nothing '
            f'about the time of the queries' + (f' ({left})' if left else '')
        )


def _times(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{count} x {name}' for name, count in counts.items())


class ScanWorker(JobWorker):
    def _outcome(self, job: ReplayJob) -> ReplayOutcome:
        found = store.load_recording(job.folder, job.key)
        if found is None:
            found = scan(job.bag, self._setting)
            store.save_recording(job.folder, job.key, found)
        return ReplayOutcome(job, recording=found)
