"""What the launch files share; each runs this file, which lies beside it."""

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = 'vla_prune_ros'
SHARE = Path(get_package_share_directory(PACKAGE))

BOOLEANS = ['true', 'false']
POLICY = {
    'checkpoint': 'Checkpoint folder in the published OpenVLA-OFT layout.',
    'profile': 'Robot profile: libero, aloha, bridge, or the path of a .yaml profile.',
    'pruning': 'Pruning method, for example dense.',
    'instruction': 'The task in plain words.',
    'image_transport': 'raw: sensor_msgs/Image; compressed: CompressedImage.',
    'stepping': 'synchronous: simulated time waits for policy and executor.',
}
CHOICES = {
    'image_transport': ['', 'raw', 'compressed'],
    'stepping': ['', 'free', 'synchronous'],
}


def argument(
    name: str, description: str, default: Any = '', choices: list[str] | None = None
) -> DeclareLaunchArgument:
    """:param choices: allowed texts; None for any."""
    more = {} if choices is None else {'choices': choices}
    return DeclareLaunchArgument(name, default_value=str(default), description=description, **more)


def arguments(*names: str) -> list[DeclareLaunchArgument]:
    """Arguments of the policy; one that stays empty leaves the parameter file in force."""
    return [argument(n, POLICY[n], choices=CHOICES.get(n)) for n in names]


def params_file(name: str, of: str = 'policy and executor') -> DeclareLaunchArgument:
    """The argument ``params_file`` with a file of ``config/`` as its default."""
    return argument('params_file', f'Parameter file of {of}.', SHARE / 'config' / name)


def value(context: LaunchContext, name: str) -> str:
    return LaunchConfiguration(name).perform(context)


def given(context: LaunchContext, *names: str) -> dict[str, ParameterValue]:
    """Parameters of the arguments that are not empty.

    Without a type, launch would read an instruction such as '1: lift' as YAML.
    """
    values = {name: value(context, name) for name in names}
    return {name: ParameterValue(v, value_type=str) for name, v in values.items() if v}


def node(name: str, parameters: list[Any], kind: type = Node, **more: Any) -> Node:
    """A node of this package, which has the name of its executable."""
    how = {'output': 'screen', 'namespace': '', **more}
    return kind(package=PACKAGE, executable=name, name=name, parameters=parameters, **how)


def policy(*passed_on: str, remap: dict[str, str] | None = None, **fixed: str) -> Any:
    """policy.launch.py on simulated time. It has to come first: it sets the transport profile for
    the images of the other nodes too.

    :param passed_on: arguments of the file that includes it; ``remap``: its topics -> topics.
    """
    rules = ' '.join(f'{source}:={target}' for source, target in (remap or {}).items())
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'policy.launch.py')),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name in passed_on),
            ('use_sim_time', 'true'),
            *fixed.items(),
            *([('remap', rules)] if rules else []),
        ],
    )
