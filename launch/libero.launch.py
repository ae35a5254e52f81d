"""The closed loop in simulation: simulator, policy and executor on simulated time.

    ros2 launch vla_prune_ros libero.launch.py checkpoint:=/path
    ros2 service call /chunk_executor/arm std_srvs/srv/SetBool '{data: true}'

The simulator moves nothing until the executor is armed. With ``stepping:=synchronous`` its time
waits for policy and executor, and an episode follows from seed and policy alone.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

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
    DeclareLaunchArgument(
        'simulator', default_value='', description='Scene to open, for example two_cubes.'
    ),
    DeclareLaunchArgument(
        'stepping',
        default_value='',
        choices=['', 'free', 'synchronous'],
        description='synchronous: simulated time waits for policy and executor.',
    ),
)


def simulator(context: LaunchContext) -> list[Node]:
    """The simulator, with the arguments that were given laid over its parameter file."""
    names = ('simulator', 'stepping')
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    given = {k: ParameterValue(v, value_type=str) for k, v in values.items() if v}
    params_file = LaunchConfiguration('simulator_params_file').perform(context)
    return [
        Node(
            package=PACKAGE,
            executable='simulator',
            name='simulator',
            namespace='',
            output='screen',
            parameters=[params_file, given],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    passed_on = [
        (name, LaunchConfiguration(name))
        for name in ('checkpoint', 'pruning', 'params_file', 'stepping')
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
    return LaunchDescription([*ARGUMENTS, policy, OpaqueFunction(function=simulator)])
