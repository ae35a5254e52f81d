"""Policy and executor for a robot: cameras and state in, action chunks and commands out.

    ros2 launch vla_prune_ros policy.launch.py checkpoint:=/path output:=twist \
        remap:='~/image/primary:=/camera/color/image_raw ~/ee_pose:=/arm/pose'

An argument that stays empty leaves the value of the parameter file in force.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vla_prune_ros'
SHARE = Path(get_package_share_directory(PACKAGE))
BOOLEANS = ['true', 'false']

# Fast DDS 3 (Kilted) reads another name than Fast DDS 2.
FAST_DDS_PROFILE = (
    'FASTRTPS_DEFAULT_PROFILES_FILE'
    if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    else 'FASTDDS_DEFAULT_PROFILES_FILE'
)
# The default transports drop best-effort camera images without an error.
TRANSPORT_PROFILES = {
    FAST_DDS_PROFILE: str(SHARE / 'config' / 'fastdds_large_images.xml'),
    'CYCLONEDDS_URI': f'file://{SHARE}/config/cyclonedds_large_images.xml',
}

POLICY = ('checkpoint', 'profile', 'pruning', 'instruction', 'image_transport')
ARGUMENTS = (
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'robot.yaml'),
        description='Parameter file of both nodes.',
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
    DeclareLaunchArgument('instruction', default_value='', description='The task in plain words.'),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'raw', 'compressed'],
        description='raw: sensor_msgs/Image; compressed: the topics with /compressed.',
    ),
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of both nodes.'),
    DeclareLaunchArgument(
        'remap',
        default_value='',
        description="Topics of your robot: 'from:=to' rules, separated by blanks.",
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        choices=BOOLEANS,
        description='Take the time from /clock.',
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=BOOLEANS,
        description='Configure and activate the policy at start.',
    ),
    DeclareLaunchArgument(
        'executor',
        default_value='true',
        choices=BOOLEANS,
        description='Start chunk_executor as well.',
    ),
    DeclareLaunchArgument(
        'output',
        default_value='',
        choices=['', 'none', 'twist', 'pose'],
        description='What chunk_executor sends to the robot.',
    ),
    DeclareLaunchArgument(
        'stepping',
        default_value='',
        choices=['', 'free', 'synchronous'],
        description='synchronous: for a simulator that waits for each command.',
    ),
)


def transport_profiles() -> list[SetEnvironmentVariable]:
    """The shipped transport profiles, each unless the user has set his own."""
    return [
        SetEnvironmentVariable(name, value)
        for name, value in TRANSPORT_PROFILES.items()
        if name not in os.environ
    ]


def remap_rules(text: str) -> list[tuple[str, str]]:
    """``'a:=b c:=d'`` as pairs.

    :raises RuntimeError: a rule is not of the form ``from:=to``.
    """
    rules = []
    for rule in text.split():
        source, sign, target = rule.partition(':=')
        if not (source and sign and target):
            raise RuntimeError(
                f"argument remap: {rule!r} is not a rule; write 'from:=to from:=to'"
            )
        rules.append((source, target))
    return rules


def nodes(context: LaunchContext) -> list[Node]:
    """The two nodes, with the arguments that were given laid over the parameter file."""

    def given(*names: str) -> dict[str, ParameterValue]:
        values = {name: LaunchConfiguration(name).perform(context) for name in names}
        # Without a type, launch would read an instruction such as '1: lift' as YAML.
        return {
            name: ParameterValue(value, value_type=str) for name, value in values.items() if value
        }

    def is_true(name: str) -> bool:
        return LaunchConfiguration(name).perform(context) == 'true'

    params_file = LaunchConfiguration('params_file').perform(context)
    clock = {'use_sim_time': is_true('use_sim_time')}
    rules = remap_rules(LaunchConfiguration('remap').perform(context))
    common = {
        'package': PACKAGE,
        'namespace': LaunchConfiguration('namespace'),
        'output': 'screen',
    }
    policy = LifecycleNode(
        executable='vla_policy',
        name='vla_policy',
        remappings=rules,
        parameters=[
            params_file,
            {
                **clock,
                'autostart': is_true('autostart'),
                **given(*POLICY, 'stepping'),
            },
        ],
        **common,
    )
    if not is_true('executor'):
        return [policy]
    executor = Node(
        executable='chunk_executor',
        name='chunk_executor',
        remappings=[('~/action_chunk', 'vla_policy/action_chunk'), *rules],
        parameters=[params_file, {**clock, **given('output', 'stepping')}],
        **common,
    )
    return [policy, executor]


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    return LaunchDescription([*ARGUMENTS, *transport_profiles(), OpaqueFunction(function=nodes)])
