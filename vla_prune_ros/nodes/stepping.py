"""How simulated time goes on: the word that all three nodes share, and what it means for each.

``free``: the simulator steps on whatever the others do, as a robot would.

``synchronous``: time stands still until the command of its present instant is in, so an episode
follows from seed, policy and executor alone, not from the speed of the machine.

- ``simulator`` publishes the observation of T and steps when it has a twist and a gripper command
  that are stamped T. While it waits it repeats the observation.
- ``chunk_executor`` sends both for the step that is due at T, over and over until time goes on,
  and nothing where no step is due. Wall time ages no chunk, and disarming only pauses.
- ``vla_policy`` queries when the chunk before is used up, from messages of one stamp, of which
  none is lost, and looks back at the query before it answers.
"""

from rclpy.node import Node

from ..errors import ProfileError

FREE = 'free'
SYNCHRONOUS = 'synchronous'
STEPPING = (FREE, SYNCHRONOUS)
"""Choices of the parameter ``stepping``."""


def require_simulated_time(node: Node, stepping: str) -> bool:
    """Whether ``stepping`` is synchronous.

    :raises ProfileError: it is, on wall time, which waits for nobody.
    """
    if stepping != SYNCHRONOUS:
        return False
    if not node.get_parameter('use_sim_time').value:
        raise ProfileError(
            'parameter stepping is synchronous on wall time', 'set use_sim_time to true'
        )
    return True
