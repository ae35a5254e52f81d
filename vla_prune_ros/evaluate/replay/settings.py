"""How a robot is wired and what its arm may do: the parameters of ``vla_policy`` that a replay
needs, from the file that the node is started with.

What all queries of a replay have in common, and the topics of a bag.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from ...bags.observation import Wiring
from ...bags.reader import Bag
from ...bags.topics import Topics, guess_topics, load_topics
from ...bags.trajectory import Reading, choose_reading
from ...errors import ProfileError
from ...profiles import Profile, load_profile, validate_profile
from ...runtime.guard import Limits
from ...runtime.motion import MotionSource, build_motion
from ...runtime.state import GripperJoints

NODE = 'vla_policy'
_STEPPING = ('free', 'synchronous')


@dataclass(frozen=True)
class ReplayRobot(Wiring):
    """Parameters of ``vla_policy`` of the same names; theirs are the defaults, and
    docs/interface.md explains each."""

    instruction: str = ''
    frame_id: str = 'base_link'
    motion_source: str = 'pose'
    urdf: str = ''
    ee_link: str = ''
    base_link: str = ''
    reach_m: float = 0.0
    arm_joints: tuple[str, ...] = ()
    frozen_frames: int = 0
    max_step_m: float = 0.06
    max_step_rad: float = 0.35
    speed_scale: float = 1.0

    def check(self, profile: Profile) -> None:
        """Refuse what the node refuses before it sees a message.

        :raises ProfileError: a parameter is not usable, or does not fit the profile.
        """
        self.limits()
        GripperJoints(self.gripper_joints, self.gripper_signs)
        validate_profile(profile, self.rotate_180, self.pose_offset_m)
        if self.stepping not in _STEPPING:
            raise ProfileError(f'stepping is {self.stepping!r}', f'use {" or ".join(_STEPPING)}')

    def wiring(self) -> Wiring:
        """What pairing and decoding need."""
        named = asdict(self)
        return Wiring(**{f.name: named[f.name] for f in fields(Wiring)})

    def limits(self) -> Limits:
        """What the guard needs.

        :raises ProfileError: a limit is not usable.
        """
        return Limits(self.max_step_m, self.max_step_rad, speed_scale=self.speed_scale)

    def motion(self) -> MotionSource:
        """A new source of the end effector's speed.

        :raises ProfileError: the source lacks a parameter, or one is not usable.
        """
        return build_motion(
            self.motion_source,
            urdf=self.urdf,
            tip=self.ee_link,
            base=self.base_link,
            reach_m=self.reach_m,
            joints=self.arm_joints,
            gripper_joints=self.gripper_joints,
        )


def load_robot(path: 'str | Path') -> ReplayRobot:
    """From a ROS parameter file; parameters that a replay does not need are left aside.

    :raises ProfileError: it cannot be read, has none for the node, or a value of another type.
    """
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(
            f'parameter file {path} cannot be read ({str(error).splitlines()[0]})',
            'check the path and that it is YAML',
        ) from None
    found: dict[str, Any] = {}
    for name, entry in (data if isinstance(data, dict) else {}).items():
        parameters = entry.get('ros__parameters') if isinstance(entry, dict) else None
        if str(name).rsplit('/', 1)[-1] in (NODE, '**') and isinstance(parameters, dict):
            found |= parameters
    if not found:
        raise ProfileError(
            f'parameter file {path} has no parameters of {NODE}',
            f'give a file with {NODE}: ros__parameters: ..., as config/robot.yaml',
        )
    return ReplayRobot(**_typed(found, path))


def save_robot(path: 'str | Path', robot: ReplayRobot, **more: Any) -> None:
    """Write a ROS parameter file for ``vla_policy``.

    :param more: parameters beside those of the record.
    """
    values = {**asdict(robot), **more}
    plain = {k: list(v) or [''] if isinstance(v, tuple) else v for k, v in values.items()}
    text = yaml.safe_dump({f'/**/{NODE}': {'ros__parameters': plain}}, sort_keys=False)
    Path(path).write_text(text, encoding='utf-8')


def _typed(found: Mapping[str, Any], path: 'str | Path') -> dict[str, Any]:
    """Values as the record has them: lists as tuples without the empty words that ROS needs."""
    out = {}
    for f in fields(ReplayRobot):
        if f.name not in found:
            continue
        value, kinds = found[f.name], get_args(f.type)
        if kinds and isinstance(value, list):
            value = tuple(_number(v, kinds[0]) for v in value if v != '')
            good = all(type(v) is kinds[0] for v in value)
        else:
            value = _number(value, f.type)
            good = type(value) is f.type
        if not good:
            words = f'list of {kinds[0].__name__}' if kinds else f.type.__name__
            raise ProfileError(
                f'parameter file {path}: {f.name} is {found[f.name]!r}', f'give a {words}'
            )
        out[f.name] = value
    return out


def _number(value: Any, kind: type) -> Any:
    """Whole numbers are numbers too."""
    return float(value) if kind is float and type(value) is int else value


@dataclass(frozen=True)
class ReplaySetting:
    """Everything but bags and methods.

    :param topics: YAML file of :func:`~vla_prune_ros.bags.topics.load_topics`; empty: each
        bag's are guessed.
    :param actions: stream that says what was done: ``'twist'``, ``'pose_target'``, ``'ee_pose'``
        or ``'none'``; ``'auto'``: commands, else measured poses.
    :param gripper_closed: position of the recorded gripper when closed; ``gripper_open``: open.
        None for 0 and 1 of commands, 0 and 0.04 m of a finger.
    :param period_s: see :class:`~vla_prune_ros.bags.events.Due`.
    :param clock: see :class:`~vla_prune_ros.bags.events.Replay`.
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
        ends = {'gripper_closed': self.gripper_closed, 'gripper_open': self.gripper_open}
        return choose_reading(topics, motion, **ends)

    def text(self) -> str:
        """All of it on one line: two replays with the same text ask the same."""
        return json.dumps(asdict(self), sort_keys=True)
