"""What ``bag_player`` offers: its parameters, and topics for what a bag holds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from trajectory_msgs.msg import JointTrajectory

from ...bags.reader import IMAGE_TYPES, POSE_TYPE, TRAJECTORY_TYPE, TWIST_TYPE
from ...bags.topics import STREAMS
from ...config import option
from ...errors import ProfileError
from ..interface import Topic, command
from ..policy.inputs import COMPRESSED, IMAGE, INSTRUCTION, STATES


@dataclass(frozen=True)
class BagPlayerParams:
    bag: str = option('', 'The recording: a folder or file of rosbag2 (sqlite3, MCAP) or ROS 1.')
    topics: str = option(
        '',
        'YAML file that names the topics of the bag; empty: guessed by type and name, and the '
        'guess is logged.',
    )
    profile: str = option(
        'libero',
        'Robot profile, for the names of the cameras: libero, aloha, bridge, or the path of a '
        '.yaml profile.',
    )
    target: str = option('/vla_policy', 'Name of the policy node whose inputs are fed.')
    rate: float = option(1.0, 'Recorded seconds per wall second.', low=0.01, high=100.0)
    loop: bool = option(False, 'Begin again at the end, for ever.')
    start_offset_s: float = option(
        0.0, 'Seconds of the recording that are left out at its beginning.', low=0.0, high=1e6
    )
    clock: bool = option(
        True, 'Publish the time of the bag on /clock, for nodes with use_sim_time true.'
    )
    restamp: bool = option(
        False,
        'For nodes on wall time: header stamps are as old as they were when they were recorded. '
        'Needs clock false.',
    )
    wait_for_subscribers_s: float = option(
        60.0,
        'Longest wait for the policy to subscribe before the first message leaves, in s; 0: no '
        'wait.',
        low=0.0,
        high=86400.0,
    )
    recorded_prefix: str = option(
        '/recorded',
        'Put before the names of recorded commands and chunks. Empty: they go out on their own '
        'names, and whatever listens there moves.',
    )


def _input(topic: Topic, doc: str = 'As recorded.') -> Topic:
    return replace(topic, name=topic.name.replace('~', '<target>'), doc=doc)


INPUTS = {
    **{stream: _input(topic) for stream, topic in STATES.items()},
    'instruction': _input(INSTRUCTION),
    IMAGE_TYPES[0]: _input(IMAGE, 'As recorded. A stamp of zero becomes the time of receipt.'),
    IMAGE_TYPES[1]: _input(COMPRESSED, 'Instead, where the bag holds such images.'),
}
"""Stream, or type of images -> what the policy takes."""
_NAME = '<recorded_prefix>/<topic>'
RECORDED = {
    TWIST_TYPE: Topic(_NAME, TwistStamped, command(), 'Commanded velocities, for plots.'),
    POSE_TYPE: Topic(_NAME, PoseStamped, command(), 'Commanded poses, for plots.'),
    TRAJECTORY_TYPE: Topic(
        _NAME,
        JointTrajectory,
        command(),
        'Gripper commands; and chunks, never on the `~/action_chunk` of the live policy.',
    ),
}
"""Type -> commands of the recorded run, out of the way."""
CLOCK = Topic(
    '/clock',
    Clock,
    command(),
    'Time of the bag: of receipt, or of the stamps where these are of another clock. Jumps back '
    'at each loop. With `clock`.',
)


def advertise(
    node: Node, params: BagPlayerParams, streams: Mapping[str, str], types: Mapping[str, str]
) -> tuple[dict[str, Publisher], list[Publisher]]:
    """Topic of the bag -> publisher of its serialised messages; and those of the policy's inputs.

    :param streams: topic of the bag -> stream; ``types``: -> message type.
    :raises ProfileError: a name is none, or a recorded chunk would pass for the policy's own.
    """
    found, inputs = {}, []
    for topic, stream in streams.items():
        is_input = stream in INPUTS or stream not in STREAMS
        kind = types[topic]
        record = INPUTS.get(stream, INPUTS.get(kind)) if is_input else RECORDED[kind]
        target = params.target.rstrip('/')
        names = {'target': target, 'recorded_prefix': params.recorded_prefix.rstrip('/')}
        names |= {'camera': stream, 'topic': topic.lstrip('/')}
        try:
            found[topic] = record.publisher(node, **names)
        except Exception as error:  # rclpy has one class for each way in which a name is wrong
            raise ProfileError(
                f'{record.named(**names)!r} is no name of a topic ({str(error).splitlines()[0]})',
                'check the parameters target, recorded_prefix and topics',
            ) from None
        if found[topic].topic_name == node.resolve_topic_name(f'{target}/action_chunk'):
            raise ProfileError(
                f'topic {topic} of the bag would go out as {target}/action_chunk, which is for '
                'the chunks of the policy that listens',
                "set recorded_prefix, for example to '/recorded'",
            )
        inputs += [found[topic]] if is_input else []
    return found, inputs
