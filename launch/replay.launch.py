"""A recorded bag and a live policy on the time of the bag; nothing can move an arm.

    ros2 launch vla_prune_ros replay.launch.py bag:=/bags/run1 checkpoint:=/path pruning:=specprune

There is no executor, and recorded commands go out below ``/recorded``. The launch ends with the
bag, unless that loops.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

common = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name('common.py'))))

LOADING_S = 600.0  # as long as a large checkpoint may take to load before the bag begins


def player(context: LaunchContext) -> list[Node]:
    given = {
        **common.given(context, 'bag', 'topics', 'profile'),
        'rate': ParameterValue(LaunchConfiguration('rate'), value_type=float),
        'loop': common.value(context, 'loop') == 'true',
        'wait_for_subscribers_s': LOADING_S,
    }
    params_file = common.value(context, 'params_file')
    return [common.node('bag_player', [params_file, given], on_exit=Shutdown())]


def generate_launch_description() -> LaunchDescription:
    policy = ('checkpoint', 'profile', 'pruning', 'instruction', 'image_transport')
    argument = common.argument
    return LaunchDescription(
        [
            argument('bag', 'Folder or file of the recording: rosbag2 or ROS 1.'),
            argument('topics', 'YAML file that names the topics of the bag; empty: guessed.'),
            *common.arguments(*policy),
            common.params_file('robot.yaml', 'both nodes'),
            argument('rate', 'Recorded seconds per wall second.', '1.0'),
            argument('loop', 'Begin again at the end, for ever.', 'false', common.BOOLEANS),
            common.policy(*policy, 'params_file', autostart='true', executor='false'),
            OpaqueFunction(function=player),
        ]
    )
