"""``bag_player``: a recorded bag, heard by a live policy as if it were the robot."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..profiles import Profile, load_profile
from ..runtime.bag import Bag
from ..runtime.bag_replay import Replay
from ..runtime.bag_topics import STREAMS, Topics, guess_topics, load_topics
from .bag_player_loop import PlayerLoop, open_bag
from .bag_player_outputs import PlayerOutputs
from .bag_player_params import BagPlayerParams, check_player
from .environment import local_environment
from .parameters import declare
from .process import run_node

_LOOK_S = 0.1


class BagPlayerNode(Node):
    """Plays one bag; its process ends with it.

    :raises VlaPruneError: a parameter, the bag or its topics are not usable.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('bag_player', **kwargs)
        params = declare(self, BagPlayerParams)
        check_player(params)
        profile = load_profile(params.profile)
        with Bag(params.bag) as bag:
            topics = self._choose(bag, profile, params.topics)
            streams = topics.of({*profile.cameras, *STREAMS})
            types = {topic: found.type for topic, found in bag.topics.items()}
            left = [
                f'{topic} ({found.count} of {found.type})'
                for topic, found in bag.topics.items()
                if topic not in streams and found.count
            ]
        open_bag(params, topics).close()  # refuses a beginning behind the end
        self.outputs = PlayerOutputs(self, params, streams, types)
        log = self.get_logger()
        log.info(f'plays {self.outputs.describe()}')
        if left:
            log.info(f'left alone: {", ".join(left)}')
        if not (params.clock or params.restamp):
            log.warning(
                'neither clock nor restamp is true: to a policy every message is as old as the bag'
            )
        self.loop = PlayerLoop(self, params, profile, topics, self.outputs)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_LOOK_S, self._look, clock=steady)

    def destroy_node(self) -> None:
        """Stop before the publishers go."""
        self.loop.close()
        super().destroy_node()

    def _choose(self, bag: Bag, profile: Profile, file: str) -> Topics:
        if file:
            topics = load_topics(file)
        else:
            topics = guess_topics(bag, profile)
            self.get_logger().info(f'topics guessed by type and name: {topics.describe()}')
        Replay(bag, topics, profile)  # refuses a bag that lacks an input
        return topics

    def _look(self) -> None:
        """End the process where the loop has come to its end."""
        if self.loop.over.is_set():
            raise self.loop.failure or ExternalShutdownException()


def play(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Play in this process until the end or Ctrl-C, for a tool in a terminal.

    :param parameters: of :class:`BagPlayerParams`, those that differ.
    :returns: :attr:`PlayerLoop.report`, and ``ok``; where it is False the reason was printed.
    """
    for name, value in local_environment().items():
        if name.endswith('_DEFAULT_PROFILES_FILE'):
            os.environ[name] = value
    made: list[BagPlayerNode] = []

    def make() -> BagPlayerNode:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        made.append(BagPlayerNode(parameter_overrides=overrides))
        return made[-1]

    code = run_node(make, [])
    return {**(made[0].loop.report if made else {}), 'ok': code == 0}


def main(args: list[str] | None = None) -> int:
    """Run the node as a process until the end of the bag, SIGINT or SIGTERM; the exit code."""
    return run_node(BagPlayerNode, args)


if __name__ == '__main__':
    sys.exit(main())
