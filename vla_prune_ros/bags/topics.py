"""Which topic of a bag is which stream of the policy: named in a file, or guessed by type."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import from_mapping, load_yaml, option
from ..errors import DataError
from ..profiles import Profile
from .reader import (
    IMAGE_TYPES,
    JOINTS_TYPE,
    POSE_TYPE,
    TEXT_TYPE,
    TRAJECTORY_TYPE,
    TWIST_TYPE,
    Bag,
)

# Stream -> message type, beside the cameras; named as the topics of the nodes are.
STREAMS: Mapping[str, str] = {
    'ee_pose': POSE_TYPE,
    'joint_states': JOINTS_TYPE,
    'instruction': TEXT_TYPE,
    'action_chunk': TRAJECTORY_TYPE,
    'twist': TWIST_TYPE,
    'pose_target': POSE_TYPE,
    'gripper': TRAJECTORY_TYPE,
}

# What only one topic of its type can be. The others share their type with something else.
_ALONE = ('ee_pose', 'joint_states', 'instruction', 'twist')


@dataclass(frozen=True)
class Topics:
    """Topics of a bag; empty where it has none."""

    images: Mapping[str, str] = option({}, 'Camera of the profile: topic of its images.')
    ee_pose: str = option('', 'PoseStamped, measured.')
    joint_states: str = option('', 'JointState.')
    instruction: str = option('', 'String.')
    action_chunk: str = option('', 'JointTrajectory, as vla_policy publishes it.')
    twist: str = option('', 'TwistStamped, commanded by the executor or a person.')
    pose_target: str = option('', 'PoseStamped, likewise.')
    gripper: str = option('', 'JointTrajectory of one joint, likewise.')

    def by_stream(self) -> dict[str, str]:
        named = asdict(self)
        return {s: topic for s, topic in {**named.pop('images'), **named}.items() if topic}

    def of(self, streams: Collection[str]) -> dict[str, str]:
        """Topic -> stream, of these."""
        return {topic: s for s, topic in self.by_stream().items() if s in streams}

    def check(self, bag: Bag, needed: Collection[str]) -> None:
        """:raises DataError: a stream is not named, or a topic missing or of another type."""
        named = self.by_stream()
        for stream in needed:
            if stream not in named:
                there = ', '.join(f'{name} ({t.type})' for name, t in bag.topics.items())
                raise DataError(
                    f'no topic of bag {bag.path} is named for {stream!r}',
                    f'name one of: {there or "none"}',
                )
        for stream, topic in named.items():
            bag.require(topic, IMAGE_TYPES if stream in self.images else (STREAMS[stream],))
        for topic, count in Counter(named.values()).items():
            if count > 1:
                what = f'topic {topic!r} is named for several streams'
                raise DataError(what, 'name each topic once')

    def describe(self) -> str:
        return ', '.join(f'{stream} = {topic}' for stream, topic in self.by_stream().items())


def load_topics(path: str | Path) -> Topics:
    values = load_yaml(path, 'topics file', DataError)
    return make_topics(values, f'topics file {path}')


def make_topics(values: Mapping[str, object], where: str) -> Topics:
    topics = from_mapping(Topics, values, where, DataError)
    for camera, topic in topics.images.items():
        if not isinstance(topic, str):
            raise DataError(f'{where}: images.{camera} is {topic!r}', 'give the name of a topic')
    return topics


def guess_topics(bag: Bag, profile: Profile) -> Topics:
    """For a person to check: a camera gets the topic with its name in it, or the only one that is
    left; a stream the topic that ends like it, or the only one of its type."""
    filled = {name: t.type for name, t in bag.topics.items() if t.count}
    images = _guess_images([n for n, k in filled.items() if k in IMAGE_TYPES], profile.cameras)
    tails = {name: name.rstrip('/').rpartition('/')[2] for name in filled}
    found: dict[str, str] = {}
    for stream, kind in STREAMS.items():
        free = [n for n, k in filled.items() if k == kind and n not in found.values()]
        named = [n for n in free if tails[n] == stream]
        free = [n for n in free if tails[n] not in STREAMS]
        if not named and stream in _ALONE and len(free) == 1:
            named = free
        if named:
            found[stream] = named[0]
    return Topics(images, **found)


def _guess_images(topics: list[str], cameras: Collection[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for camera in cameras:
        named = [t for t in topics if camera in t.strip('/').split('/')]
        named = named or [t for t in topics if camera in t]
        named = [t for t in named if 'depth' not in t.lower()]
        if named:
            out[camera] = min(named, key=lambda t: ('overlay' in t, 'compressed' in t, t))
    left = [t for t in topics if t not in out.values()]
    missing = [c for c in cameras if c not in out]
    if len(left) == len(missing) == 1:
        out[missing[0]] = left[0]
    return {c: out[c] for c in cameras if c in out}
