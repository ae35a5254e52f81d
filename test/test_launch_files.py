"""Launch files, run against a recording stand-in for ``launch`` and ``launch_ros`` (no wheels).

Expected values: executables are the console scripts of setup.py; parameters and topics are those
of docs/interface.md.
"""

import ast
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from interface_page import interface, names

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
SOURCES = sorted((ROOT / 'launch').glob('*.py'))
EVERY_NODE = {'use_sim_time'}
TOPICS = ('Subscribes', 'Publishes')

# What launch and launch_ros offer in Humble already; the launch files may use no more.
HUMBLE_API = {
    'launch': {'LaunchDescription', 'LaunchContext'},
    'launch.actions': {
        'DeclareLaunchArgument',
        'ExecuteProcess',
        'IncludeLaunchDescription',
        'OpaqueFunction',
        'SetEnvironmentVariable',
        'Shutdown',
    },
    'launch.launch_description_sources': {'PythonLaunchDescriptionSource'},
    'launch.substitutions': {'LaunchConfiguration'},
    'launch_ros.actions': {'LifecycleNode', 'Node'},
    'launch_ros.parameter_descriptions': {'ParameterValue'},
}
# Keywords that Humble's constructors take.
NODE_KEYWORDS = {
    'package',
    'executable',
    'name',
    'namespace',
    'output',
    'parameters',
    'remappings',
}
ARGUMENT_KEYWORDS = {'default_value', 'description', 'choices'}


class Recorded(SimpleNamespace):
    """A constructor call: ``kind``, positional ``args`` and ``kwargs``."""

    def perform(self, context: dict[str, str]) -> str:
        """Value of a LaunchConfiguration."""
        return context[self.args[0]]


def recorder(kind: str) -> Any:
    return lambda *args, **kwargs: Recorded(kind=kind, args=args, kwargs=kwargs)


@pytest.fixture
def fake_launch(monkeypatch):
    """Recording modules in place of launch and launch_ros; the checkout as the share folder."""
    for name, members in HUMBLE_API.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, recorder(member))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, 'launch_ros', ModuleType('launch_ros'))
    index = ModuleType('ament_index_python.packages')
    index.get_package_share_directory = lambda name: {'vla_prune_ros': str(ROOT)}[name]
    monkeypatch.setitem(sys.modules, 'ament_index_python', ModuleType('ament_index_python'))
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages', index)
    for name in (
        'FASTRTPS_DEFAULT_PROFILES_FILE',
        'FASTDDS_DEFAULT_PROFILES_FILE',
        'CYCLONEDDS_URI',
        'ROS_DISTRO',
    ):
        monkeypatch.delenv(name, raising=False)


def entities(path: Path) -> list[Recorded]:
    """What ``generate_launch_description`` of a file returns."""
    scope: dict[str, Any] = {'__name__': path.stem, '__file__': str(path)}
    exec(compile(path.read_text(encoding='utf-8'), str(path), 'exec'), scope)
    return scope['generate_launch_description']().args[0]


def arguments(found: list[Recorded]) -> dict[str, str]:
    """Declared launch arguments with their defaults."""
    return {
        e.args[0]: e.kwargs['default_value'] for e in found if e.kind == 'DeclareLaunchArgument'
    }


def launched(name: str, **given: str) -> dict[str, Recorded]:
    """Nodes that a file starts with the given arguments, by node name; includes are followed."""
    found = entities(ROOT / 'launch' / name)
    unknown = set(given) - set(arguments(found))
    assert not unknown, f'{name} has no argument {unknown}'
    context = {**arguments(found), **given}
    nodes = {}
    for entity in found:
        if entity.kind == 'OpaqueFunction':
            nodes.update({n.kwargs['name']: n for n in entity.kwargs['function'](context)})
        elif entity.kind == 'IncludeLaunchDescription':
            passed = {
                k: v if isinstance(v, str) else v.perform(context)
                for k, v in entity.kwargs['launch_arguments']
            }
            nodes.update(launched(Path(entity.args[0].args[0]).name, **passed))
        elif entity.kind in ('Node', 'LifecycleNode'):
            nodes[entity.kwargs['name']] = entity
    return nodes


def overrides(node: Recorded) -> dict[str, Any]:
    """Single parameters that a launch file sets on a node."""
    return {k: v for p in node.kwargs['parameters'] if isinstance(p, dict) for k, v in p.items()}


def console_scripts() -> set[str]:
    """Names of the entry points in setup.py."""
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    texts = (
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )
    return {t.split('=')[0].strip() for t in texts if t.endswith(':main')}


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.name)
def test_only_the_api_of_humble_is_used(path):
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in (
            'launch',
            'launch_ros',
        ):
            assert {a.name for a in node.names} <= HUMBLE_API[node.module]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == 'DeclareLaunchArgument'
        ):
            assert {k.arg for k in node.keywords} - {None} <= ARGUMENT_KEYWORDS


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_every_argument_is_described_and_every_default_file_exists(fake_launch, path):
    for entity in entities(path):
        if entity.kind == 'DeclareLaunchArgument':
            assert entity.kwargs['description'].endswith('.')
            default = entity.kwargs['default_value']
            assert not default.startswith('/') or Path(default).is_file(), default
            assert default in entity.kwargs.get('choices', [default])


def test_policy_launch_starts_both_nodes_from_the_parameter_file(fake_launch):
    nodes = launched('policy.launch.py')
    assert {name: n.kind for name, n in nodes.items()} == {
        'vla_policy': 'LifecycleNode',
        'chunk_executor': 'Node',
    }
    for name, node in nodes.items():
        assert node.kwargs['executable'] == name and name in console_scripts()
        assert node.kwargs['parameters'][0] == str(ROOT / 'config/robot.yaml')
        assert set(node.kwargs) <= NODE_KEYWORDS
    assert overrides(nodes['vla_policy']) == {'use_sim_time': False, 'autostart': True}
    assert overrides(nodes['chunk_executor']) == {'use_sim_time': False}


def test_policy_launch_passes_its_arguments_on(fake_launch):
    given = {
        'checkpoint': '/models/a',
        'profile': 'bridge',
        'pruning': 'uniform:64',
        'instruction': '1: lift it',
        'autostart': 'false',
        'use_sim_time': 'true',
        'output': 'pose',
    }
    nodes = launched('policy.launch.py', **given)
    policy, executor = overrides(nodes['vla_policy']), overrides(nodes['chunk_executor'])
    assert policy.pop('autostart') is False and policy.pop('use_sim_time') is True
    # A typed value: launch would otherwise parse '1: lift it' as a YAML mapping.
    assert {k: (v.args[0], v.kwargs) for k, v in policy.items()} == {
        k: (given[k], {'value_type': str})
        for k in ('checkpoint', 'profile', 'pruning', 'instruction')
    }
    assert executor['output'].args == ('pose',) and executor['use_sim_time'] is True


def test_every_parameter_that_a_launch_file_sets_is_declared_by_its_node(fake_launch):
    given = {a: 'x' for a in ('checkpoint', 'profile', 'pruning', 'instruction')}
    nodes = {
        **launched('libero.launch.py'),
        **launched('replay.launch.py', bag='x', topics='x'),
        **launched('policy.launch.py', output='twist', **given),
    }
    assert set(nodes) == set(interface())
    for name, node in nodes.items():
        assert set(overrides(node)) <= set(interface()[name]['Parameters']) | EVERY_NODE


def test_executor_can_be_left_out(fake_launch):
    assert set(launched('policy.launch.py', executor='false')) == {'vla_policy'}


def test_remap_rules_reach_both_nodes(fake_launch):
    nodes = launched(
        'policy.launch.py', remap='~/image/primary:=/cam/image_raw  ~/ee_pose:=/arm/pose'
    )
    rules = [('~/image/primary', '/cam/image_raw'), ('~/ee_pose', '/arm/pose')]
    assert nodes['vla_policy'].kwargs['remappings'] == rules
    assert nodes['chunk_executor'].kwargs['remappings'] == [
        ('~/action_chunk', 'vla_policy/action_chunk'),
        *rules,
    ]


@pytest.mark.parametrize('rule', ['~/ee_pose=/arm/pose', ':=/arm/pose', '~/ee_pose:='])
def test_a_broken_remap_rule_is_named(fake_launch, rule):
    with pytest.raises(RuntimeError, match='remap'):
        launched('policy.launch.py', remap=rule)


@pytest.mark.parametrize(
    ('distro', 'name'),
    [
        ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
        ('kilted', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ],
)
def test_transport_profiles_are_set_for_each_distribution(fake_launch, monkeypatch, distro, name):
    monkeypatch.setenv('ROS_DISTRO', distro)
    found = entities(ROOT / 'launch/policy.launch.py')
    values = dict(e.args for e in found if e.kind == 'SetEnvironmentVariable')
    assert set(values) == {name, 'CYCLONEDDS_URI'}
    assert all(Path(v.removeprefix('file://')).is_file() for v in values.values())


def test_a_transport_profile_of_the_user_wins(fake_launch, monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('FASTRTPS_DEFAULT_PROFILES_FILE', '/mine.xml')
    found = entities(ROOT / 'launch/policy.launch.py')
    assert [e.args[0] for e in found if e.kind == 'SetEnvironmentVariable'] == ['CYCLONEDDS_URI']


def test_libero_launch_closes_the_loop_on_simulated_time(fake_launch):
    nodes = launched('libero.launch.py', checkpoint='/models/a')
    assert set(nodes) == {'simulator', 'vla_policy', 'chunk_executor'}
    assert nodes['simulator'].kwargs['executable'] in console_scripts()
    assert 'use_sim_time' not in overrides(
        nodes['simulator']
    )  # it is the one that publishes /clock
    for name in ('vla_policy', 'chunk_executor'):
        assert overrides(nodes[name])['use_sim_time'] is True
        rules = dict(nodes[name].kwargs['remappings'])
        assert all(
            rules[t] == t.replace('~', '/simulator') for t in rules if t != '~/action_chunk'
        )
    assert overrides(nodes['chunk_executor'])['output'].args == ('twist',)


def test_libero_launch_gives_all_three_nodes_the_same_stepping(fake_launch):
    free = launched('libero.launch.py')
    assert not any('stepping' in overrides(node) for node in free.values())
    assert free['simulator'].kwargs['parameters'] == [str(ROOT / 'config/simulator.yaml'), {}]
    nodes = launched('libero.launch.py', stepping='synchronous', simulator='two_cubes')
    assert {overrides(node)['stepping'].args for node in nodes.values()} == {('synchronous',)}
    assert overrides(nodes['simulator'])['simulator'].args == ('two_cubes',)


def test_replay_launch_starts_a_player_and_a_policy_on_its_time_and_no_executor(fake_launch):
    nodes = launched('replay.launch.py', bag='/bags/run1', checkpoint='/models/a')
    assert set(nodes) == {'vla_policy', 'bag_player'}
    policy, player = overrides(nodes['vla_policy']), overrides(nodes['bag_player'])
    assert policy['use_sim_time'] is True and policy['autostart'] is True
    assert policy['checkpoint'].args == ('/models/a',)
    assert 'use_sim_time' not in player  # it is the one that publishes /clock
    assert (player['bag'].args, player['loop']) == (('/bags/run1',), False)
    assert set(player) == {'bag', 'rate', 'loop', 'wait_for_subscribers_s'}
    assert nodes['bag_player'].kwargs['executable'] in console_scripts()
    assert nodes['bag_player'].kwargs['on_exit'].kind == 'Shutdown'


def test_replay_launch_passes_its_arguments_on(fake_launch):
    given = {
        'topics': '/bags/topics.yaml',
        'profile': '/robots/mine.yaml',
        'params_file': '/robots/params.yaml',
        'rate': '0.5',
        'loop': 'true',
    }
    nodes = launched('replay.launch.py', pruning='specprune', instruction='1: lift it', **given)
    policy, player = overrides(nodes['vla_policy']), overrides(nodes['bag_player'])
    assert all(n.kwargs['parameters'][0] == given['params_file'] for n in nodes.values())
    assert policy['profile'].args == player['profile'].args == (given['profile'],)
    assert policy['pruning'].args == ('specprune',)
    assert policy['instruction'].kwargs == {'value_type': str}
    assert player['topics'].args == (given['topics'],) and player['loop'] is True
    (rate,) = player['rate'].args  # launch_ros converts a substitution, and refuses a text
    assert rate.kind == 'LaunchConfiguration' and rate.args == ('rate',)
    assert player['rate'].kwargs == {'value_type': float}


def test_every_remapped_topic_is_one_of_the_nodes(fake_launch):
    known = {t for n in ('vla_policy', 'chunk_executor') for t in names(n, *TOPICS)}
    for node in launched('libero.launch.py').values():
        for source, _ in node.kwargs.get('remappings', []):
            assert source in known, source
