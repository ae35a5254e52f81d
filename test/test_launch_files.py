"""Launch files, run against a recording stand-in for ``launch`` and ``launch_ros``.

Expected values: executables are the console scripts of setup.py; parameters and topics are those
of docs/interface.md.
"""

import ast
import re
from pathlib import Path

import pytest
from fake_launch import HUMBLE_API, Recorded, arguments, entities, overrides
from interface_page import interface, names

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
SOURCES = sorted((ROOT / 'launch').glob('*.py'))
EVERY_NODE = {'use_sim_time'}
TOPICS = ('Subscribes', 'Publishes')

# Keywords that Humble's constructors take.
NODE_KEYWORDS = {
    *('package', 'executable', 'name', 'namespace', 'output', 'parameters', 'remappings'),
}
ARGUMENT_KEYWORDS = {'default_value', 'description', 'choices'}


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch):
    fast_dds = (f'FAST{k}_DEFAULT_PROFILES_FILE' for k in ('RTPS', 'DDS'))
    for name in (*fast_dds, 'CYCLONEDDS_URI', 'ROS_DISTRO'):
        monkeypatch.delenv(name, raising=False)


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


def console_scripts() -> set[str]:
    """Names of the entry points in setup.py."""
    return set(re.findall(r"'([\w-]+) = [\w.]+:main'", (ROOT / 'setup.py').read_text('utf-8')))


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.name)
def test_only_the_api_of_humble_is_used(path):
    tree = ast.parse(path.read_text(encoding='utf-8'), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('launch'):
            assert {a.name for a in node.names} <= HUMBLE_API[node.module]
        called = getattr(getattr(node, 'func', None), 'id', '')
        if called == 'DeclareLaunchArgument':
            assert {k.arg for k in node.keywords} - {None} <= ARGUMENT_KEYWORDS


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_every_argument_is_described_and_every_default_file_exists(path):
    for entity in entities(path):
        if entity.kind == 'DeclareLaunchArgument':
            assert entity.kwargs['description'].endswith('.')
            default = entity.kwargs['default_value']
            assert not default.startswith('/') or Path(default).is_file(), default
            assert default in entity.kwargs.get('choices', [default])


def test_policy_launch_starts_both_nodes_from_the_parameter_file():
    nodes = launched('policy.launch.py')
    kinds = {name: n.kind for name, n in nodes.items()}
    assert kinds == {'vla_policy': 'LifecycleNode', 'chunk_executor': 'Node'}
    for name, node in nodes.items():
        assert node.kwargs['executable'] == name and name in console_scripts()
        assert node.kwargs['parameters'][0] == str(ROOT / 'config/robot.yaml')
        assert set(node.kwargs) <= NODE_KEYWORDS
    assert overrides(nodes['vla_policy']) == {'use_sim_time': False, 'autostart': True}
    assert overrides(nodes['chunk_executor']) == {'use_sim_time': False}
    assert set(launched('policy.launch.py', executor='false')) == {'vla_policy'}


def test_policy_launch_passes_its_arguments_on():
    texts = {
        'checkpoint': '/models/a',
        'profile': 'bridge',
        'pruning': 'uniform:64',
        'instruction': '1: lift it',
    }
    given = {'autostart': 'false', 'use_sim_time': 'true', 'output': 'pose'}
    nodes = launched('policy.launch.py', **texts, **given)
    policy, executor = overrides(nodes['vla_policy']), overrides(nodes['chunk_executor'])
    assert policy.pop('autostart') is False and policy.pop('use_sim_time') is True
    assert {name: value.args for name, value in policy.items()} == {
        name: (text,) for name, text in texts.items()
    }
    # A typed value: launch would otherwise parse '1: lift it' as a YAML mapping.
    assert all(value.kwargs == {'value_type': str} for value in policy.values())
    assert executor['output'].args == ('pose',) and executor['use_sim_time'] is True


def test_every_parameter_that_a_launch_file_sets_is_declared_by_its_node():
    given = {a: 'x' for a in ('checkpoint', 'profile', 'pruning', 'instruction')}
    nodes = {
        **launched('libero.launch.py'),
        **launched('replay.launch.py', bag='x', topics='x'),
        **launched('policy.launch.py', output='twist', **given),
    }
    assert set(nodes) == set(interface())
    for name, node in nodes.items():
        assert set(overrides(node)) <= set(interface()[name]['Parameters']) | EVERY_NODE


def test_remap_rules_reach_both_nodes():
    text = '~/image/primary:=/cam/image_raw  ~/ee_pose:=/arm/pose'
    nodes = launched('policy.launch.py', remap=text)
    rules = [('~/image/primary', '/cam/image_raw'), ('~/ee_pose', '/arm/pose')]
    chunk = ('~/action_chunk', 'vla_policy/action_chunk')
    assert nodes['vla_policy'].kwargs['remappings'] == rules
    assert nodes['chunk_executor'].kwargs['remappings'] == [chunk, *rules]


@pytest.mark.parametrize('rule', ['~/ee_pose=/arm/pose', ':=/arm/pose', '~/ee_pose:='])
def test_a_broken_remap_rule_is_named(rule):
    with pytest.raises(RuntimeError, match='remap'):
        launched('policy.launch.py', remap=rule)


@pytest.mark.parametrize(
    ('distro', 'library'), [('humble', 'RTPS'), ('jazzy', 'RTPS'), ('kilted', 'DDS')]
)
def test_transport_profiles_are_those_of_the_distribution_or_of_the_user(
    monkeypatch, distro, library
):
    def profiles():
        found = entities(ROOT / 'launch/policy.launch.py')
        return dict(e.args for e in found if e.kind == 'SetEnvironmentVariable')

    name = f'FAST{library}_DEFAULT_PROFILES_FILE'
    monkeypatch.setenv('ROS_DISTRO', distro)
    assert set(profiles()) == {name, 'CYCLONEDDS_URI'}
    assert all(Path(v.removeprefix('file://')).is_file() for v in profiles().values())
    monkeypatch.setenv(name, '/mine.xml')
    assert set(profiles()) == {'CYCLONEDDS_URI'}


def test_libero_launch_closes_the_loop_on_simulated_time():
    nodes = launched('libero.launch.py', checkpoint='/models/a')
    assert set(nodes) == {'simulator', 'vla_policy', 'chunk_executor'}
    assert nodes['simulator'].kwargs['executable'] in console_scripts()
    # It is the one that publishes /clock.
    assert nodes['simulator'].kwargs['parameters'] == [str(ROOT / 'config/simulator.yaml'), {}]
    for name in ('vla_policy', 'chunk_executor'):
        given = overrides(nodes[name])
        assert given['use_sim_time'] is True and 'stepping' not in given
        rules = dict(nodes[name].kwargs['remappings'])
        rules.pop('~/action_chunk', None)
        assert all(target == source.replace('~', '/simulator') for source, target in rules.items())
    assert overrides(nodes['chunk_executor'])['output'].args == ('twist',)
    nodes = launched('libero.launch.py', stepping='synchronous', simulator='two_cubes')
    assert {overrides(node)['stepping'].args for node in nodes.values()} == {('synchronous',)}
    assert overrides(nodes['simulator'])['simulator'].args == ('two_cubes',)


def test_replay_launch_starts_a_player_and_a_policy_on_its_time_and_no_executor():
    nodes = launched('replay.launch.py', bag='/bags/run1', checkpoint='/models/a')
    assert set(nodes) == {'vla_policy', 'bag_player'}
    policy, player = overrides(nodes['vla_policy']), overrides(nodes['bag_player'])
    assert policy['use_sim_time'] is True and policy['autostart'] is True
    assert policy['checkpoint'].args == ('/models/a',)
    assert (player['bag'].args, player['loop']) == (('/bags/run1',), False)
    # Not use_sim_time: it is the one that publishes /clock.
    assert set(player) == {'bag', 'rate', 'loop', 'wait_for_subscribers_s'}
    assert nodes['bag_player'].kwargs['executable'] in console_scripts()
    assert nodes['bag_player'].kwargs['on_exit'].kind == 'Shutdown'


def test_replay_launch_passes_its_arguments_on():
    given = {'topics': '/t.yaml', 'profile': '/mine.yaml', 'params_file': '/params.yaml'}
    more = {'loop': 'true', 'pruning': 'specprune', 'instruction': '1: lift it'}
    nodes = launched('replay.launch.py', rate='0.5', **given, **more)
    policy, player = overrides(nodes['vla_policy']), overrides(nodes['bag_player'])
    assert all(n.kwargs['parameters'][0] == '/params.yaml' for n in nodes.values())
    assert policy['profile'].args == player['profile'].args == ('/mine.yaml',)
    assert policy['pruning'].args == ('specprune',)
    assert policy['instruction'].kwargs == {'value_type': str}
    assert player['topics'].args == ('/t.yaml',) and player['loop'] is True
    (rate,) = player['rate'].args  # launch_ros converts a substitution, and refuses a text
    assert rate.kind == 'LaunchConfiguration' and rate.args == ('rate',)
    assert player['rate'].kwargs == {'value_type': float}


def test_every_remapped_topic_is_one_of_the_nodes():
    known = {t for n in ('vla_policy', 'chunk_executor') for t in names(n, *TOPICS)}
    for node in launched('libero.launch.py').values():
        for source, _ in node.kwargs.get('remappings', []):
            assert source in known, source
