"""Parameters of the bag player: declaration, ranges and documentation in one record."""

from dataclasses import dataclass

from ..errors import ProfileError
from .parameters import param


@dataclass(frozen=True)
class BagPlayerParams:
    """Parameters of the node ``bag_player``."""

    bag: str = param('', 'The recording: a folder or file of rosbag2 (sqlite3, MCAP) or ROS 1.')
    topics: str = param(
        '',
        'YAML file that names the topics of the bag; empty: guessed by type and name, and the '
        'guess is logged.',
    )
    profile: str = param(
        'libero',
        'Robot profile, for the names of the cameras: libero, aloha, bridge, or the path of a '
        '.yaml profile.',
    )
    target: str = param('/vla_policy', 'Name of the policy node whose inputs are fed.')
    rate: float = param(1.0, 'Recorded seconds per wall second.', low=0.01, high=100.0)
    loop: bool = param(False, 'Begin again at the end, for ever.')
    start_offset_s: float = param(
        0.0, 'Seconds of the recording that are left out at its beginning.', low=0.0, high=1e6
    )
    clock: bool = param(
        True, 'Publish the time of the bag on /clock, for nodes with use_sim_time true.'
    )
    restamp: bool = param(
        False,
        'For nodes on wall time: header stamps are as old as they were when they were recorded. '
        'Needs clock false.',
    )
    wait_for_subscribers_s: float = param(
        60.0,
        'Longest wait for the policy to subscribe before the first message leaves, in s; 0: no '
        'wait.',
        low=0.0,
        high=86400.0,
    )
    recorded_prefix: str = param(
        '/recorded',
        'Put before the names of recorded commands and chunks. Empty: they go out on their own '
        'names, and whatever listens there moves.',
    )


def check_player(params: BagPlayerParams) -> None:
    """Check what no single range can.

    :raises ProfileError: no bag is named, or time is asked for twice.
    """
    if not params.bag:
        raise ProfileError('parameter bag is empty', 'set it to the folder or file of a recording')
    if params.clock and params.restamp:
        raise ProfileError(
            'parameters clock and restamp are both true',
            'set clock to false for a policy on wall time, or restamp to false for one with '
            'use_sim_time',
        )
