"""The closed loop in Gazebo: a Panda-like arm, two cameras, MoveIt Servo, policy and executor.

    ros2 launch vla_prune_ros gazebo.launch.py checkpoint:=/path instruction:='lift the cube'
    ros2 service call /chunk_executor/arm std_srvs/srv/SetBool '{data: true}'

The executor's twists go to MoveIt Servo, its joint positions to a trajectory controller in Gazebo.
For Jazzy and later with Gazebo Harmonic and later; docs/gazebo.md says what has been run.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vla_prune_ros'
SHARE = Path(get_package_share_directory(PACKAGE))
FILES = SHARE / 'gazebo'
BOOLEANS = ['true', 'false']
CLOCK = {'use_sim_time': True}

IMAGES = ('/gazebo/image/primary', '/gazebo/image/wrist')
JOINT_STATES = '/joint_states'
JOINT_STATES_HZ = 100.0
GRIPPER = '/gazebo/gripper'
SERVO = 'servo_node'

# Names of the policy's and the executor's own topics -> those of the bridge and of Servo.
REMAP = {
    '~/image/primary': IMAGES[0],
    '~/image/wrist': IMAGES[1],
    '~/ee_pose': '/gazebo/ee_pose',
    '~/joint_states': JOINT_STATES,
    '~/twist': f'/{SERVO}/delta_twist_cmds',
    '~/gripper': GRIPPER,
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
    DeclareLaunchArgument('instruction', default_value='', description='The task in plain words.'),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'gazebo.yaml'),
        description='Parameter file of policy and executor.',
    ),
    DeclareLaunchArgument(
        'world', default_value=str(FILES / 'tabletop.sdf'), description='World of Gazebo.'
    ),
    DeclareLaunchArgument(
        'bridge_file',
        default_value=str(FILES / 'bridge.yaml'),
        description='Topics that ros_gz_bridge carries.',
    ),
    DeclareLaunchArgument(
        'servo_params_file',
        default_value=str(FILES / 'servo.yaml'),
        description='Parameter file of MoveIt Servo.',
    ),
    DeclareLaunchArgument(
        'servo',
        default_value='true',
        choices=BOOLEANS,
        description='Start MoveIt Servo; false where something else turns twists into joints.',
    ),
    DeclareLaunchArgument(
        'gui',
        default_value='true',
        choices=BOOLEANS,
        description="Open Gazebo's window; false renders the cameras without a display.",
    ),
)


def gazebo(context: LaunchContext) -> list[IncludeLaunchDescription]:
    """Gazebo with the world, running from the start."""
    window = LaunchConfiguration('gui').perform(context) == 'true'
    options = '-r' if window else '-r -s --headless-rendering'
    world = LaunchConfiguration('world').perform(context)
    source = Path(get_package_share_directory('ros_gz_sim'), 'launch', 'gz_sim.launch.py')
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(source)),
            launch_arguments=[('gz_args', f'{options} {world}'), ('on_exit_shutdown', 'true')],
        )
    ]


def bridge() -> list[Node]:
    """The bridge, and what stands between its topics and those of the other nodes."""
    return [
        Node(
            package='ros_gz_bridge',
            executable='parameter_bridge',
            name='gazebo_bridge',
            output='screen',
            parameters=[
                {
                    **CLOCK,
                    'config_file': LaunchConfiguration('bridge_file'),
                    # The policy asks for best effort; a reliable publisher would resend for it.
                    **{f'qos_overrides.{t}.publisher.reliability': 'best_effort' for t in IMAGES},
                }
            ],
        ),
        Node(
            package='topic_tools',
            executable='throttle',
            name='joint_state_throttle',
            arguments=['messages', '/gazebo/joint_states', str(JOINT_STATES_HZ), JOINT_STATES],
            parameters=[CLOCK],
        ),
        # The executor sends a trajectory of one point, Gazebo's finger controllers take a number.
        Node(
            package='topic_tools',
            executable='transform',
            name='gripper_transform',
            arguments=[
                GRIPPER,
                '/gazebo/gripper_opening',
                'std_msgs/msg/Float64',
                'std_msgs.msg.Float64(data=m.points[0].positions[0])',
                '--wait-for-start',
                '--qos-reliability',
                'reliable',
                '--import',
                'std_msgs',
            ],
            parameters=[CLOCK],
        ),
    ]


def servo(context: LaunchContext) -> list[ExecuteProcess]:
    """MoveIt Servo, set to take twists, and the transforms of the arm."""
    if LaunchConfiguration('servo').perform(context) != 'true':
        return []

    def described(name: str) -> ParameterValue:
        return ParameterValue((FILES / name).read_text(encoding='utf-8'), value_type=str)

    urdf = {'robot_description': described('panda.urdf')}
    semantic = {'robot_description_semantic': described('panda.srdf')}
    return [
        Node(
            package='robot_state_publisher',
            executable='robot_state_publisher',
            name='robot_state_publisher',
            parameters=[{**CLOCK, **urdf}],
        ),
        Node(
            package='moveit_servo',
            executable='servo_node',
            name=SERVO,
            output='screen',
            parameters=[LaunchConfiguration('servo_params_file'), {**CLOCK, **urdf, **semantic}],
        ),
        # Servo begins without a command type; 1 is TWIST. The call waits for the service.
        ExecuteProcess(
            cmd=[
                'ros2',
                'service',
                'call',
                f'/{SERVO}/switch_command_type',
                'moveit_msgs/srv/ServoCommandType',
                '{command_type: 1}',
            ],
            output='screen',
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    passed_on = [
        (name, LaunchConfiguration(name))
        for name in ('checkpoint', 'pruning', 'instruction', 'params_file')
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
    # The policy's file comes first: it sets the transport profile for the bridge's images too.
    return LaunchDescription(
        [
            *ARGUMENTS,
            policy,
            OpaqueFunction(function=gazebo),
            *bridge(),
            OpaqueFunction(function=servo),
        ]
    )
