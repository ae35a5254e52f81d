"""The closed loop in simulation: simulator, policy and executor on simulated time.

    ros2 launch vla_prune_ros libero.launch.py checkpoint:=/path
    ros2 service call /chunk_executor/arm std_srvs/srv/SetBool '{data: true}'

The simulator moves nothing until the executor is armed.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = 'vla_prune_ros'
SHARE = Path(get_package_share_directory(PACKAGE))

# Names of the policy's and the executor's own topics -> the simulator's.
REMAP = {
    f'~/{topic}': f'/simulator/{topic}'
    for topic in (
        'image/primary',
        'image/wrist',
        'ee_pose',
        'joint_states',
        'instruction',
        'twist',
        'gripper',
    )
}

ARGUMENTS = (
    DeclareLaunchArgument(
        'checkpoint',
        default_value='',
        description='Checkpoint folder in the published OpenVLA-OFT layout.',
    ),
    DeclareLaunchArgument(
        'pruning', default_value='', description='Pruning method, for example dense.'
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'libero.yaml'),
        description='Parameter file of policy and executor.',
    ),
    DeclareLaunchArgument(
        'simulator_params_file',
        default_value=str(SHARE / 'config' / 'simulator.yaml'),
        description='Parameter file of the simulator.',
    ),
)


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    simulator = Node(
        package=PACKAGE,
        executable='simulator',
        name='simulator',
        namespace='',
        output='screen',
        parameters=[LaunchConfiguration('simulator_params_file')],
    )
    passed_on = [
        (name, LaunchConfiguration(name)) for name in ('checkpoint', 'pruning', 'params_file')
    ]
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'policy.launch.py')),
        launch_arguments=[
            *passed_on,
            ('use_sim_time', 'true'),
            ('output', 'twist'),
            ('remap', ' '.join(f'{source}:={target}' for source, target in REMAP.items())),
        ],
    )
    # The policy's file comes first: it sets the transport profile for the simulator's images too.
    return LaunchDescription([*ARGUMENTS, policy, simulator])
