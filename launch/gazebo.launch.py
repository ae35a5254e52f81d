"""The closed loop in Gazebo: a Panda-like arm, two cameras, MoveIt Servo, policy and executor.

    ros2 launch vla_prune_ros gazebo.launch.py checkpoint:=/path instruction:='lift the cube'
    ros2 service call /chunk_executor/arm std_srvs/srv/SetBool '{data: true}'

The executor's twists go to MoveIt Servo, its joint positions to a trajectory controller in Gazebo.
For Jazzy and later with Gazebo Harmonic and later; docs/gazebo.md says what has been run.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

common = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name('common.py'))))

FILES = common.SHARE / 'gazebo'
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


def gazebo(context: LaunchContext) -> list[IncludeLaunchDescription]:
    window = common.value(context, 'gui') == 'true'
    options = '-r' if window else '-r -s --headless-rendering'
    world = common.value(context, 'world')
    source = Path(get_package_share_directory('ros_gz_sim'), 'launch', 'gz_sim.launch.py')
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(source)),
            launch_arguments=[('gz_args', f'{options} {world}'), ('on_exit_shutdown', 'true')],
        )
    ]


def bridge() -> list[Node]:
    """The bridge, and what stands between its topics and those of the other nodes."""
    # The policy asks for best effort; a reliable publisher would resend for it.
    quality = {f'qos_overrides.{t}.publisher.reliability': 'best_effort' for t in IMAGES}
    return [
        Node(
            package='ros_gz_bridge',
            executable='parameter_bridge',
            name='gazebo_bridge',
            output='screen',
            parameters=[{**CLOCK, 'config_file': LaunchConfiguration('bridge_file'), **quality}],
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
                *(GRIPPER, '/gazebo/gripper_opening', 'std_msgs/msg/Float64'),
                'std_msgs.msg.Float64(data=m.points[0].positions[0])',
                *('--wait-for-start', '--qos-reliability', 'reliable', '--import', 'std_msgs'),
            ],
            parameters=[CLOCK],
        ),
    ]


def servo(context: LaunchContext) -> list[ExecuteProcess]:
    """MoveIt Servo, set to take twists, and the transforms of the arm."""
    if common.value(context, 'servo') != 'true':
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
                *('ros2', 'service', 'call', f'/{SERVO}/switch_command_type'),
                *('moveit_msgs/srv/ServoCommandType', '{command_type: 1}'),
            ],
            output='screen',
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    policy = ('checkpoint', 'pruning', 'instruction')
    argument = common.argument
    servo_off = 'Start MoveIt Servo; false where something else turns twists into joints.'
    window = "Open Gazebo's window; false renders the cameras without a display."
    servo_params = 'Parameter file of MoveIt Servo.'
    return LaunchDescription(
        [
            *common.arguments(*policy),
            common.params_file('gazebo.yaml'),
            argument('world', 'World of Gazebo.', FILES / 'tabletop.sdf'),
            argument('bridge_file', 'Topics that ros_gz_bridge carries.', FILES / 'bridge.yaml'),
            argument('servo_params_file', servo_params, FILES / 'servo.yaml'),
            argument('servo', servo_off, 'true', common.BOOLEANS),
            argument('gui', window, 'true', common.BOOLEANS),
            common.policy(*policy, 'params_file', remap=REMAP, output='twist'),
            OpaqueFunction(function=gazebo),
            *bridge(),
            OpaqueFunction(function=servo),
        ]
    )
