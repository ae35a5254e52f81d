"""One pass over a bag, without a policy: when it would be asked, what was done, what is wrong."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...bags.events import BAG_READER, Event, Replay
from ...bags.reader import Bag
from ...bags.topics import STREAMS, Topics
from ...bags.trajectory import Trajectory
from ...errors import DataError, InputRefused
from ...runtime.messages import read_valid_pose
from ...runtime.session import POSE, InferenceRequest, Observer
from .records import Instant, Recording
from .settings import ReplaySetting

_BACKWARD = ('time_jump', 'out_of_order')


def scan(path: 'str | Path', setting: ReplaySetting) -> Recording:
    """Read a bag from its first message to its last, images undecoded.

    :raises DataError: it cannot be read, or a stream that the profile needs has no topic; names
        what there is, and what was lost.
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
    """The bag as the node lives it.

    All streams pass, whoever asks: a pause of those that are heard is a jump of time, and every
    pass over a bag, a player's as well, must find the same ones.

    :raises DataError: see :class:`~vla_prune_ros.bags.events.Replay`.
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
        self._tracks = None if reading is None else Trajectory(reading, finger)
        self._instants: list[Instant] = []
        self._span: list[int] = []
        self._refused: Counter[str] = Counter()
        self._example: dict[str, str] = {}
        self._stale: Counter[str] = Counter()
        self._wait = ''

    def run(self) -> Recording:
        bag, topics = self._bag, self._topics
        streams = topics.of((*topics.images, *STREAMS))
        for event in self._replay.events():
            self._take(event)
        actions, valid = self._actions()
        return Recording(
            path=str(bag.path),
            topics={stream: topic for topic, stream in streams.items()},
            guessed=self._guessed,
            there={name: (t.type, t.count) for name, t in bag.topics.items()},
            span_ns=(self._span[0], self._span[-1]) if self._span else (0, 0),
            instants=tuple(self._instants),
            lost=tuple(bag.lost),
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
        if self._tracks is not None:
            try:
                self._tracks.note(event)
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
        if self._tracks is None:
            return actions, valid
        for epoch in {i.epoch for i in self._instants}:
            numbers = [n for n, i in enumerate(self._instants) if i.epoch == epoch]
            stamps = [self._instants[n].stamp_ns for n in numbers]
            labels = self._tracks.labels(epoch, stamps, self._profile)
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
            words = ', '.join(f'{count} x {name}' for name, count in backward.items())
            out.append(('backward_stamps', f'time does not go on steadily: {words}'))
        out += [
            ('unusable', f'{count} messages were refused: {self._example[reason]}')
            for reason, count in sorted(self._refused.items())
            if reason not in _BACKWARD
        ]
        if not self._observer.instruction:
            out.append(('no_instruction', 'the bag names no task; give --instruction'))
            return out  # at no instant there is something to compare
        if not self._instants:
            why = self._wait or ', '.join(f'{n} x {k}' for k, n in losses.items())
            out.append(
                ('no_queries', f'no query would have been asked, its images never pair: {why}')
            )
        if not acted and self._setting.actions != 'none':
            out.append(('no_actions', self._no_actions()))
        return out

    def _no_actions(self) -> str:
        if self._reading is None:
            *more, last = self._setting.sources
            named = f'{", ".join(more)} or {last}' if more else last
            return f'no recorded actions: no topic is named for {named}'
        left = ', '.join(f'{n} x {k}' for k, n in self._tracks.left_out.items())
        return (
            f'no recorded actions: {self._reading.motion} and {self._reading.gripper} say nothing '
            f'about the time of the queries' + (f' ({left})' if left else '')
        )
