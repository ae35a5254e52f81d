"""What all queries of a replay have in common, and the topics of a bag."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import ProfileError
from ..profiles import Profile, load_profile
from ..runtime.bag import Bag
from ..runtime.bag_topics import Topics, guess_topics, load_topics
from ..runtime.bag_tracks import Reading
from .replay_robot import ReplayRobot

_ENDS = {'gripper': (0.0, 1.0), 'joint_states': (0.0, 0.04)}


@dataclass(frozen=True)
class ReplaySetting:
    """Everything but bags and methods.

    :param topics: YAML file of :func:`~vla_prune_ros.runtime.bag_topics.load_topics`; empty: each
        bag's are guessed.
    :param actions: stream that says what was done: ``'twist'``, ``'pose_target'``, ``'ee_pose'``
        or ``'none'``; ``'auto'``: commands, else measured poses.
    :param gripper_closed: position of the recorded gripper when closed; ``gripper_open``: open.
        None for 0 and 1 of commands, 0 and 0.04 m of a finger.
    :param period_s: see :class:`~vla_prune_ros.runtime.bag_replay.Due`.
    :param clock: see :class:`~vla_prune_ros.runtime.bag_replay.Replay`.
    :param refresh: a dense look after each query, as the node does it in spare time.
    :param threads: of torch, in each process.
    """

    profile: str = 'libero'
    device: str = 'cpu'
    dtype: str = 'float32'
    robot: ReplayRobot = field(default_factory=ReplayRobot)
    topics: str = ''
    actions: str = 'auto'
    gripper_closed: float | None = None
    gripper_open: float | None = None
    period_s: float | None = None
    clock: str = 'auto'
    refresh: bool = True
    threads: int = 1

    def load_profile(self) -> Profile:
        """The robot profile.

        :raises ProfileError: there is none of that name.
        """
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
        grip = 'gripper' if topics.gripper else 'joint_states'
        given = self.gripper_closed, self.gripper_open
        ends = [d if g is None else g for g, d in zip(given, _ENDS[grip], strict=True)]
        if not math.isfinite(ends[1] - ends[0]) or ends[0] == ends[1]:
            raise ProfileError(
                f'the gripper of {grip} is closed at {ends[0]:g} and open at {ends[1]:g}',
                'give the positions --gripper-closed and --gripper-open',
            )
        return Reading(motion, grip, *ends)

    def text(self) -> str:
        """All of it on one line: two replays with the same text ask the same."""
        return json.dumps(asdict(self), sort_keys=True)
