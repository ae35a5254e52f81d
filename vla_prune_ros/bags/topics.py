"""Which topic of a bag is which stream of the policy: named in a file, or guessed by type."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import yaml

from ..errors import DataError
from ..profiles import Profile
from .reader import IMAGES, JOINTS, POSE, TEXT, TRAJECTORY, TWIST, Bag

STREAMS: Mapping[str, str] = {
    'ee_pose': POSE,
    'joint_states': JOINTS,
    'instruction': TEXT,
    'action_chunk': TRAJECTORY,
    'twist': TWIST,
    'pose_target': POSE,
    'gripper': TRAJECTORY,
}
"""Stream -> message type, beside the cameras; named as the topics of the nodes are."""

# What only one topic of its type can be. The others share their type with something else.
_ALONE = ('ee_pose', 'joint_states', 'instruction', 'twist')


@dataclass(frozen=True)
class Topics:
    """Topics of a bag; empty where it has none.

    :param images: camera of the profile -> topic of Image or CompressedImage.
    :param ee_pose: PoseStamped, measured.
    :param joint_states: JointState.
    :param instruction: String.
    :param action_chunk: JointTrajectory, as ``vla_policy`` publishes it.
    :param twist: TwistStamped, commanded by the executor or a person.
    :param pose_target: PoseStamped, likewise.
    :param gripper: JointTrajectory of one joint, likewise.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    ee_pose: str = ''
    joint_states: str = ''
    instruction: str = ''
    action_chunk: str = ''
    twist: str = ''
    pose_target: str = ''
    gripper: str = ''

    def of(self, streams: Collection[str]) -> dict[str, str]:
        """Topic -> stream, of the cameras and streams that are named here."""
        named = {s: getattr(self, s) for s in STREAMS} | dict(self.images)
        return {topic: s for s, topic in named.items() if topic and s in streams}

    def check(self, bag: Bag, needed: Collection[str]) -> None:
        """Check that the bag holds what is named, in messages of the right type.

        :param needed: cameras and streams that must be named.
        :raises DataError: one is not named, missing or of another type; names what there is.
        """
        for stream in needed:
            if not (self.images.get(stream) or getattr(self, stream, '')):
                there = ', '.join(f'{name} ({t.type})' for name, t in bag.topics.items())
                raise DataError(
                    f'no topic of bag {bag.path} is named for {stream!r}',
                    f'name one of: {there or "none"}',
                )
        for topic in self.images.values():
            bag.require(topic, IMAGES)
        for stream, kind in STREAMS.items():
            if getattr(self, stream):
                bag.require(getattr(self, stream), (kind,))
        named = [*self.images.values(), *(getattr(self, stream) for stream in STREAMS)]
        twice = sorted({topic for topic in named if topic and named.count(topic) > 1})
        if twice:
            raise DataError(
                f'topic {twice[0]!r} is named for several streams', 'name each topic once'
            )

    def describe(self) -> str:
        """One line that can be printed: stream = topic, of those that are named."""
        named = {**self.images, **{k: v for k, v in asdict(self).items() if k != 'images'}}
        return ', '.join(f'{stream} = {topic}' for stream, topic in named.items() if topic)


def load_topics(path: 'str | Path') -> Topics:
    """Topics out of a YAML file: the fields of :class:`Topics`, ``images`` a mapping by camera.

    :raises DataError: it cannot be read, or has an unknown field or an unusable value.
    """
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f'topics file {path} cannot be read ({str(error).splitlines()[0]})',
            'check the path and that it is YAML',
        ) from None
    known = [f.name for f in fields(Topics)]
    remedy = f'give a mapping of {", ".join(known)}'
    if not isinstance(data, dict) or set(data) - set(known):
        raise DataError(f'topics file {path} is no mapping of streams to topics', remedy)
    for name, value in data.items():
        values = value.values() if name == 'images' and isinstance(value, dict) else [value]
        if (name == 'images') != isinstance(value, dict) or not all(
            isinstance(v, str) for v in values
        ):
            raise DataError(f'topics file {path}: {name} is {value!r}', remedy)
    return Topics(**data)


def guess_topics(bag: Bag, profile: Profile) -> Topics:
    """Topics by type and name, for a person to check.

    A camera gets the topic with its name in it, or the only one that is left; a stream the topic
    that ends like it, or the only one of its type. What stays open is empty.
    """
    filled = {name: t.type for name, t in bag.topics.items() if t.count}
    images = _guess_images([n for n, kind in filled.items() if kind in IMAGES], profile.cameras)
    found: dict[str, str] = {}
    for stream, kind in STREAMS.items():
        free = [n for n, k in filled.items() if k == kind and n not in found.values()]
        named = [n for n in free if _tail(n) == stream]
        free = [n for n in free if _tail(n) not in STREAMS]
        if not named and stream in _ALONE and len(free) == 1:
            named = free
        if named:
            found[stream] = named[0]
    return Topics(images, **found)


def _tail(topic: str) -> str:
    return topic.rstrip('/').rsplit('/', 1)[-1]


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
