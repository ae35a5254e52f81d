"""What all queries of a replay have in common, and the topics of a bag."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...bags.reader import Bag
from ...bags.topics import Topics, guess_topics, load_topics
from ...bags.trajectory import Reading, ReadingOptions, choose_reading
from ...profiles import Profile, load_profile
from ...runtime.params import SessionParams


@dataclass(frozen=True)
class ReplaySetting:
    """Everything but bags and methods.

    :param robot: parameters of ``vla_policy``, as its node has them.
    :param topics: YAML file of :func:`~vla_prune_ros.bags.topics.load_topics`; empty: each
        bag's are guessed.
    :param actions: stream that says what was done: ``'twist'``, ``'pose_target'``, ``'ee_pose'``
        or ``'none'``; ``'auto'``: commands, else measured poses.
    :param gripper_closed: position of the recorded gripper when closed; ``gripper_open``: open.
        None for 0 and 1 of commands, 0 and 0.04 m of a finger.
    :param period_s: see :class:`~vla_prune_ros.runtime.session.Observer`.
    :param clock: see :class:`~vla_prune_ros.bags.events.Replay`.
    :param refresh: a dense pass after each query, as the node does it in spare time.
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
        """Refuse what can be refused without a bag.

        :raises ProfileError: a parameter of the robot is not usable.
        :raises DataError: the topics file cannot be read.
        """
        self.robot.check(self.load_profile())
        if self.topics:
            load_topics(Path(self.topics))

    def topics_of(self, bag: Bag) -> tuple[Topics, bool]:
        """Topics of a bag, and whether they were guessed.

        :raises DataError: the file cannot be read.
        """
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
        if not motion:
            return None
        options = ReadingOptions(
            gripper_closed=self.gripper_closed, gripper_open=self.gripper_open
        )
        return choose_reading(topics, motion, options)

    def text(self) -> str:
        """All of it on one line: two replays with the same text ask the same."""
        return json.dumps(asdict(self), sort_keys=True)
