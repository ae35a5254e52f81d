"""A recorded bag and a live policy on the time of the bag; nothing can move an arm.

    ros2 launch vla_prune_ros replay.launch.py bag:=/bags/run1 checkpoint:=/path pruning:=specprune

There is no executor, and recorded commands go out below ``/recorded``. The launch ends with the
bag, unless that loops.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vla_prune_ros'
SHARE = Path(get_package_share_directory(PACKAGE))
LOADING_S = 600.0  # as long as a large checkpoint may take to load before the bag begins

ARGUMENTS = (
    DeclareLaunchArgument(
        'bag', default_value='', description='Folder or file of the recording: rosbag2 or ROS 1.'
    ),
    DeclareLaunchArgument(
        'topics',
        default_value='',
        description='YAML file that names the topics of the bag; empty: guessed.',
    ),
    DeclareLaunchArgument(
        'checkpoint',
        default_value='',
        description='Checkpoint folder in the published OpenVLA-OFT layout.',
    ),
    DeclareLaunchArgument(
        'profile',
        default_value='',
        description='Robot profile: libero, aloha, bridge, or the path of a .yaml profile.',
    ),
    DeclareLaunchArgument(
        'pruning', default_value='', description='Pruning method, for example dense.'
    ),
    DeclareLaunchArgument(
        'instruction',
        default_value='',
        description='The task in plain words, until the bag names another.',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'raw', 'compressed'],
        description='compressed: for a bag of CompressedImage.',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'robot.yaml'),
        description='Parameter file of both nodes.',
    ),
    DeclareLaunchArgument(
        'rate', default_value='1.0', description='Recorded seconds per wall second.'
    ),
    DeclareLaunchArgument(
        'loop',
        default_value='false',
        choices=['true', 'false'],
        description='Begin again at the end, for ever.',
    ),
)


def player(context: LaunchContext) -> list[Node]:
    """The bag player, with the arguments that were given laid over the parameter file."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    texts = {name: value(name) for name in ('bag', 'topics', 'profile')}
    return [
        Node(
            package=PACKAGE,
            executable='bag_player',
            name='bag_player',
            namespace='',
            output='screen',
            on_exit=Shutdown(),
            parameters=[
                value('params_file'),
                {
                    **{k: ParameterValue(v, value_type=str) for k, v in texts.items() if v},
                    'rate': ParameterValue(LaunchConfiguration('rate'), value_type=float),
                    'loop': value('loop') == 'true',
                    'wait_for_subscribers_s': LOADING_S,
                },
            ],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    passed_on = [
        (name, LaunchConfiguration(name))
        for name in (
            *('checkpoint', 'profile', 'pruning', 'instruction', 'image_transport'),
            'params_file',
        )
    ]
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'policy.launch.py')),
        launch_arguments=[
            *passed_on,
            ('use_sim_time', 'true'),
            ('autostart', 'true'),
            ('executor', 'false'),
        ],
    )
    # The policy's file comes first: it sets the transport profile for the player's images too.
    return LaunchDescription([*ARGUMENTS, policy, OpaqueFunction(function=player)])
