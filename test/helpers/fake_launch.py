"""Launch files, run against a recording stand-in for ``launch`` and ``launch_ros`` (no wheels)."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
SHARE = {'vla_prune_ros': str(ROOT), 'ros_gz_sim': '/opt/ros/jazzy/share/ros_gz_sim'}

# What launch and launch_ros offer in Humble already; the launch files may use no more.
HUMBLE_API = {
    'launch': {'LaunchDescription', 'LaunchContext'},
    'launch.actions': {
        *('DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription'),
        *('OpaqueFunction', 'SetEnvironmentVariable', 'Shutdown'),
    },
    'launch.launch_description_sources': {'PythonLaunchDescriptionSource'},
    'launch.substitutions': {'LaunchConfiguration'},
    'launch_ros.actions': {'LifecycleNode', 'Node'},
    'launch_ros.parameter_descriptions': {'ParameterValue'},
}


class Recorded(SimpleNamespace):
    """A constructor call: ``kind``, positional ``args`` and ``kwargs``."""

    def perform(self, context: dict[str, str]) -> str:
        """Value of a LaunchConfiguration."""
        return context[self.args[0]]


def recorder(kind: str) -> Any:
    return lambda *args, **kwargs: Recorded(kind=kind, args=args, kwargs=kwargs)


def fake_modules() -> mock._patch_dict:
    """Recording modules in place of launch and launch_ros; the checkout as the share folder."""
    modules = {name: ModuleType(name) for name in (*HUMBLE_API, 'launch_ros')}
    for name, members in HUMBLE_API.items():
        for member in members:
            setattr(modules[name], member, recorder(member))
    index = ModuleType('ament_index_python.packages')
    index.get_package_share_directory = SHARE.__getitem__
    modules['ament_index_python'] = ModuleType('ament_index_python')
    return mock.patch.dict(sys.modules, {**modules, index.__name__: index})


def entities(path: Path) -> list[Recorded]:
    """What ``generate_launch_description`` of a file returns."""
    scope: dict[str, Any] = {'__name__': path.stem, '__file__': str(path)}
    with fake_modules():
        exec(compile(path.read_text(encoding='utf-8'), str(path), 'exec'), scope)
    return scope['generate_launch_description']().args[0]


def arguments(found: list[Recorded]) -> dict[str, str]:
    """Declared launch arguments with their defaults."""
    return {
        e.args[0]: e.kwargs['default_value'] for e in found if e.kind == 'DeclareLaunchArgument'
    }


def overrides(node: Recorded) -> dict[str, Any]:
    """Single parameters that a launch file sets on a node."""
    return {k: v for p in node.kwargs['parameters'] if isinstance(p, dict) for k, v in p.items()}
