"""The closed loop in simulation: simulator, policy and executor on simulated time.

    ros2 launch vla_prune_ros libero.launch.py checkpoint:=/path
    ros2 service call /chunk_executor/arm std_srvs/srv/SetBool '{data: true}'

The simulator moves nothing until the executor is armed. With ``stepping:=synchronous`` its time
waits for policy and executor, and an episode follows from seed and policy alone.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

common = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name('common.py'))))

# The policy's and the executor's own topics -> the simulator's.
INPUTS = ('image/primary', 'image/wrist', 'ee_pose', 'joint_states', 'instruction')
REMAP = {f'~/{topic}': f'/simulator/{topic}' for topic in (*INPUTS, 'twist', 'gripper')}


def simulator(context: LaunchContext) -> list[Node]:
    params_file = common.value(context, 'simulator_params_file')
    given = common.given(context, 'simulator', 'stepping')  # they win over the file
    return [common.node('simulator', [params_file, given])]


def generate_launch_description() -> LaunchDescription:
    passed_on = ('checkpoint', 'pruning', 'params_file', 'stepping')
    parameters, argument = common.SHARE / 'config' / 'simulator.yaml', common.argument
    return LaunchDescription(
        [
            *common.arguments('checkpoint', 'pruning', 'stepping'),
            common.params_file('libero.yaml'),
            argument('simulator_params_file', 'Parameter file of the simulator.', parameters),
            argument('simulator', 'Scene to open, for example two_cubes.'),
            common.policy(*passed_on, remap=REMAP, output='twist'),
            OpaqueFunction(function=simulator),
        ]
    )
