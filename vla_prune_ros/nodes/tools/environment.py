"""The processes that the tools start: one machine, big images, a domain of their own."""

import contextlib
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory

import vla_prune_ros

from ...errors import VlaPruneError
from ...runtime.processes import Processes

_MODULES = {
    'vla_policy': 'policy.node',
    'chunk_executor': 'executor',
    'simulator': 'simulator',
    'fake_robot': 'tools.fake_robot',
}


def config_file(name: str) -> Path:
    """A file of ``config/``: of the source tree, else of the installed share folder.

    :raises VlaPruneError: the package was installed without its data files.
    """
    folders = [
        Path(vla_prune_ros.__file__).parents[1],
        Path(sys.prefix) / 'share' / 'vla_prune_ros',
    ]
    with contextlib.suppress(LookupError, OSError):  # no ament prefix, or not installed there
        folders.insert(1, Path(get_package_share_directory('vla_prune_ros')))
    for folder in folders:
        if (folder / 'config' / name).is_file():
            return folder / 'config' / name
    raise VlaPruneError(f'config/{name} is not installed', 'install the package again')


def remap_inputs(source: str) -> list[str]:
    """Rules that connect the policy's inputs with the topics of another node."""
    topics = ('image/primary', 'image/wrist', 'ee_pose', 'joint_states', 'instruction')
    return [f'~/{topic}:=/{source}/{topic}' for topic in topics]


def start_node(
    processes: Processes,
    name: str,
    file: str | None,
    parameters: Mapping[str, Any],
    remaps: Sequence[str] = (),
) -> None:
    """Start a node with a parameter file of ``config/``, single parameters and remaps."""
    out = ['--ros-args'] + ([] if file is None else ['--params-file', str(config_file(file))])
    for key, value in parameters.items():
        out += ['-p', f'{key}:={json.dumps(value)}']
    for remap in remaps:
        out += ['-r', remap]
    processes.start(name, f'vla_prune_ros.nodes.{_MODULES[name]}', out)


def local_environment(transport_profile: bool = True) -> dict[str, str]:
    """This process's environment, completed for processes that talk on this machine only.

    Without the transport profile Fast DDS silently drops best-effort images: a frame is larger
    than its default shared-memory segment. A user's own settings win.
    """
    env = dict(os.environ)
    if transport_profile:  # Fast DDS 2 (Humble, Jazzy) and 3 (Kilted) read different names
        for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
            if variable not in env:
                env[variable] = str(config_file('fastdds_large_images.xml'))
    env.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    env.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 100)))
    source = str(Path(vla_prune_ros.__file__).parents[1])
    env['PYTHONPATH'] = os.pathsep.join(p for p in (source, env.get('PYTHONPATH', '')) if p)
    return env
