"""``vla-prune play``: a recorded bag for a live policy, without a ROS distribution."""

import argparse
from typing import Any

from rich.console import Console

from .common import add_command, require_ros


def add_play(commands: Any) -> None:
    """The sub-command."""
    play = add_command(
        commands, 'play', _play, 'publish a recorded bag in real time, as inputs of a live policy'
    )
    play.add_argument('bag', help='folder or file: rosbag2 (sqlite3, MCAP) or ROS 1')
    play.add_argument(
        '--topics',
        default='',
        metavar='FILE',
        help='YAML that names the topics of the bag; without it they are guessed by type and name',
    )
    play.add_argument('--profile', default='libero', help='libero, aloha, bridge or a YAML file')
    play.add_argument(
        '--target', default='/vla_policy', metavar='NAME', help='the node whose inputs are fed'
    )
    play.add_argument('--rate', type=float, default=1.0, help='recorded seconds per second')
    play.add_argument('--loop', action='store_true', help='begin again at the end, for ever')
    play.add_argument(
        '--start-offset', type=float, default=0.0, metavar='S', help='seconds that are left out'
    )
    play.add_argument(
        '--no-clock',
        action='store_true',
        help='without the time of the bag on /clock, which a policy with use_sim_time needs',
    )
    play.add_argument(
        '--restamp',
        action='store_true',
        help='shift header stamps to now, for a policy on wall time; needs --no-clock',
    )
    play.add_argument(
        '--wait',
        type=float,
        default=60.0,
        metavar='S',
        help='longest wait for the policy to subscribe; 0: none',
    )


def _play(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    require_ros()
    from ..nodes.bag_player import play

    result = play(
        {
            'bag': options.bag,
            'topics': options.topics,
            'profile': options.profile,
            'target': options.target,
            'rate': options.rate,
            'loop': options.loop,
            'start_offset_s': options.start_offset,
            'clock': not options.no_clock,
            'restamp': options.restamp,
            'wait_for_subscribers_s': options.wait,
        }
    )
    if result['ok'] and not (result['finished'] or options.loop):
        raise KeyboardInterrupt
    return result
