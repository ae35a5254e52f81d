"""Policy and executor for a robot: cameras and state in, action chunks and commands out.

    ros2 launch vla_prune_ros policy.launch.py checkpoint:=/path output:=twist \
        remap:='~/image/primary:=/camera/color/image_raw ~/ee_pose:=/arm/pose'

An argument that stays empty leaves the value of the parameter file in force.
"""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

common = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name('common.py'))))


def transport_profiles() -> list[SetEnvironmentVariable]:
    """The shipped transport profiles, each unless the user has set his own: the default transports
    drop best-effort camera images without an error."""
    # Fast DDS 3 (Kilted) reads another name than Fast DDS 2.
    fast_dds = 'FASTRTPS' if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else 'FASTDDS'
    profiles = {
        f'{fast_dds}_DEFAULT_PROFILES_FILE': f'{common.SHARE}/config/fastdds_large_images.xml',
        'CYCLONEDDS_URI': f'file://{common.SHARE}/config/cyclonedds_large_images.xml',
    }
    return [SetEnvironmentVariable(n, v) for n, v in profiles.items() if n not in os.environ]


def remap_rules(text: str) -> list[tuple[str, str]]:
    """``'a:=b c:=d'`` as pairs. :raises RuntimeError: a rule is not of that form."""
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

    def is_true(name: str) -> bool:
        return common.value(context, name) == 'true'

    params_file, namespace = common.value(context, 'params_file'), LaunchConfiguration('namespace')
    clock = {'use_sim_time': is_true('use_sim_time')}
    rules = remap_rules(common.value(context, 'remap'))
    policy = {**clock, 'autostart': is_true('autostart'), **common.given(context, *common.POLICY)}
    started = [
        common.node(
            'vla_policy',
            [params_file, policy],
            LifecycleNode,
            namespace=namespace,
            remappings=rules,
        )
    ]
    if is_true('executor'):
        executor = {**clock, **common.given(context, 'output', 'stepping')}
        rules = [('~/action_chunk', 'vla_policy/action_chunk'), *rules]
        started.append(
            common.node(
                'chunk_executor', [params_file, executor], namespace=namespace, remappings=rules
            )
        )
    return started


def generate_launch_description() -> LaunchDescription:
    argument, booleans = common.argument, common.BOOLEANS
    remap = "Topics of your robot: 'from:=to' rules, separated by blanks."
    output = 'What chunk_executor sends to the robot.'
    return LaunchDescription(
        [
            common.params_file('robot.yaml', 'both nodes'),
            *common.arguments('checkpoint', 'profile', 'pruning', 'instruction'),
            *common.arguments('image_transport', 'stepping'),
            argument('namespace', 'Namespace of both nodes.'),
            argument('remap', remap),
            argument('use_sim_time', 'Take the time from /clock.', 'false', booleans),
            argument('autostart', 'Configure and activate the policy at start.', 'true', booleans),
            argument('executor', 'Start chunk_executor as well.', 'true', booleans),
            argument('output', output, choices=['', 'none', 'twist', 'pose']),
            *transport_profiles(),
            OpaqueFunction(function=nodes),
        ]
    )
