"""gazebo.launch.py, the bridge and MoveIt Servo's parameters, checked against each other.

None of their programs runs here. Keys and types of ``ros_gz_bridge`` and Servo's parameters are
transcriptions, ``test/data/gazebo_interfaces.yaml``; topics of the own nodes come from
docs/interface.md, those of Gazebo from the world file.
"""

import re
import xml.etree.ElementTree as xml
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fake_launch import arguments, entities, overrides

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / 'gazebo'
OUT, IN = 'GZ_TO_ROS', 'ROS_TO_GZ'
TOPIC_OF = {  # parameter <topic> of a system -> type and direction
    'JointStatePublisher': ('gz.msgs.Model', OUT),
    'JointTrajectoryController': ('gz.msgs.JointTrajectory', IN),
    'JointPositionController': ('gz.msgs.Double', IN),
}


def read(path: Path):
    return yaml.safe_load(path.read_text(encoding='utf-8'))


WORLD = xml.parse(FILES / 'tabletop.sdf').getroot()
THEIRS = read(ROOT / 'test' / 'data' / 'gazebo_interfaces.yaml')
BRIDGE = read(FILES / 'bridge.yaml')
SERVO = read(FILES / 'servo.yaml')['/**']['ros__parameters']
NODES = {
    key.removeprefix('/**/'): value['ros__parameters']
    for key, value in read(ROOT / 'config' / 'gazebo.yaml').items()
}


def gazebo_topics() -> dict[str, tuple[str, str]]:
    """Topics of the world: name -> (type, direction of its bridge)."""
    found = {'/clock': ('gz.msgs.Clock', OUT)}
    found |= {s.findtext('topic'): ('gz.msgs.Image', OUT) for s in WORLD.iter('sensor')}
    for model in WORLD.iter('model'):
        for plugin in model.findall('plugin'):
            system = plugin.get('name').rpartition('::')[2]
            if system == 'PosePublisher':
                assert plugin.findtext('use_pose_vector_msg') == 'false'
                found[f'/model/{model.get("name")}/pose'] = ('gz.msgs.Pose', OUT)
            else:
                found[plugin.findtext('topic')] = TOPIC_OF[system]
    return found


def interface(node: str, what: str) -> dict[str, str]:
    """Topics of a node with their types, from a table of docs/interface.md."""
    page = (ROOT / 'docs/interface.md').read_text(encoding='utf-8')
    section = page.split(f'\n## {node}\n')[1].split('\n## ')[0]
    table = section.split(f'### {what}\n')[1].split('\n### ')[0]
    rows = re.findall(r'^\| `(~/[^`]+)` \| ([\w/]+) \|', table, re.MULTILINE)
    return {t.replace('<camera>', c): kind for t, kind in rows for c in ('primary', 'wrist')}


def started(**given: str) -> dict[str, SimpleNamespace]:
    """Entities that the launch file makes, by name or kind."""
    found = entities(ROOT / 'launch/gazebo.launch.py')
    declared = arguments(found)
    assert set(given) <= set(declared)
    context, flat = {**declared, **given}, {}
    for entity in found:
        made = [entity]
        if entity.kind == 'OpaqueFunction':
            made = entity.kwargs['function'](context)
        for one in made:
            key = one.kwargs.get('name') or one.kind
            if one.kind == 'IncludeLaunchDescription':
                key = Path(one.args[0].args[0]).name
            flat[key] = one
    return flat


def passed(include: SimpleNamespace) -> dict:
    return dict(include.kwargs['launch_arguments'])


def remaps(made: dict) -> dict[str, str]:
    return dict(r.split(':=') for r in passed(made['policy.launch.py'])['remap'].split())


def test_the_bridge_file_has_the_bridges_keys_directions_and_types():
    for entry in BRIDGE:
        assert set(entry) <= set(THEIRS['bridge_keys']) and entry['direction'] in (OUT, IN)
        assert {'ros_topic_name', 'gz_topic_name'} <= set(entry)
        assert THEIRS['bridge_pairs'][entry['ros_type_name']] == entry['gz_type_name']
        assert isinstance(entry.get('lazy', False), bool)
    for side in ('ros_topic_name', 'gz_topic_name'):
        assert len({e[side] for e in BRIDGE}) == len(BRIDGE)


def test_the_bridge_carries_every_topic_of_the_world_its_way():
    carried = {e['gz_topic_name']: (e['gz_type_name'], e['direction']) for e in BRIDGE}
    assert carried == gazebo_topics()


def test_every_topic_of_our_nodes_is_served():
    entities = started()
    rules = remaps(entities)
    bridged = {
        way: {e['ros_topic_name']: e['ros_type_name'] for e in BRIDGE if e['direction'] == way}
        for way in (OUT, IN)
    }
    _, source, rate, target = entities['joint_state_throttle'].kwargs['arguments']
    assert float(rate) >= 2 * 20  # more than one per frame
    heard = {**bridged[OUT], target: bridged[OUT][source]}
    inputs = ('~/image/primary', '~/image/wrist', '~/ee_pose', '~/joint_states')
    for topic in inputs:
        assert interface('vla_policy', 'Subscribes')[topic] == heard[rules[topic]], topic
    commands = interface('chunk_executor', 'Publishes')
    # The twist goes to Servo, what Servo makes of it to Gazebo.
    assert commands['~/twist'] == 'geometry_msgs/msg/TwistStamped'
    servo = entities['servo_node']
    assert rules['~/twist'] == f'/{servo.kwargs["name"]}/delta_twist_cmds'
    params = SERVO['moveit_servo']
    kind = params['command_out_type'].replace('/', '/msg/')
    assert bridged[IN][params['command_out_topic']] == kind
    assert params['joint_topic'] == rules['~/joint_states']
    # The gripper's trajectory becomes the number that the bridge carries.
    source, target, kind, *_ = entities['gripper_transform'].kwargs['arguments']
    assert rules['~/gripper'] == source and bridged[IN][target] == kind
    assert set(rules) == {*inputs, '~/twist', '~/gripper'}


@pytest.mark.parametrize('opening', ['gripper_closed', 'gripper_open'])
def test_the_gripper_expression_takes_the_executors_message(opening):
    arguments = started()['gripper_transform'].kwargs['arguments']
    value = NODES['chunk_executor'][opening]
    message = SimpleNamespace(points=[SimpleNamespace(positions=[value])])
    modules = {'std_msgs': SimpleNamespace(msg=SimpleNamespace(Float64=SimpleNamespace))}
    assert eval(f'lambda m: {arguments[3]}', modules)(message).data == value
    assert arguments[arguments.index('--import') + 1] == 'std_msgs'
    # As best effort its output would not match the bridge's reliable subscription.
    assert arguments[arguments.index('--qos-reliability') + 1] == 'reliable'


def test_gazebo_runs_the_world_with_and_without_a_window():
    file = 'gz_sim.launch.py'
    include = started()[file]
    assert include.args[0].args == (f'/opt/ros/jazzy/share/ros_gz_sim/launch/{file}',)
    assert passed(include)['gz_args'] == f'-r {FILES / "tabletop.sdf"}'
    headless = passed(started(gui='false', world='/w.sdf')[file])['gz_args']
    assert headless == '-r -s --headless-rendering /w.sdf'


def test_all_nodes_take_simulated_time_and_arguments_are_passed_on():
    entities = started()
    given = passed(entities['policy.launch.py'])
    assert given['use_sim_time'] == 'true' and given['output'] == 'twist'
    for name in ('checkpoint', 'pruning', 'instruction', 'params_file'):
        assert given[name].args == (name,)
    nodes = [e for e in entities.values() if e.kind == 'Node']
    assert len(nodes) == 5
    for node in nodes:
        assert overrides(node)['use_sim_time'] is True, node.kwargs['name']


def test_the_bridge_reads_its_file_and_sends_images_best_effort():
    given = overrides(started()['gazebo_bridge'])
    assert given.pop('config_file').args == ('bridge_file',) and given.pop('use_sim_time')
    images = [e['ros_topic_name'] for e in BRIDGE if e['ros_type_name'].endswith('/Image')]
    assert given == {f'qos_overrides.{i}.publisher.reliability': 'best_effort' for i in images}


def test_servo_gets_the_robot_takes_twists_and_can_be_off():
    entities = started()
    given = overrides(entities['servo_node'])
    for name, file in (('', 'panda.urdf'), ('_semantic', 'panda.srdf')):
        value = given[f'robot_description{name}']
        assert value.args == ((FILES / file).read_text(encoding='utf-8'),)
        assert value.kwargs == {'value_type': str}  # XML would be read as YAML
    command = entities['ExecuteProcess'].kwargs['cmd']
    assert command[:4] == ['ros2', 'service', 'call', '/servo_node/switch_command_type']
    assert command[4:] == ['moveit_msgs/srv/ServoCommandType', '{command_type: 1}']
    missing = set(entities) - set(started(servo='false'))
    assert missing == {'servo_node', 'robot_state_publisher', 'ExecuteProcess'}


def test_servo_has_parameters_that_it_knows_and_that_agree():
    params = SERVO['moveit_servo']
    assert set(params) <= set(THEIRS['servo_parameters'])
    # Servo refuses to start with fewer than three points in its window.
    assert 3 * params['publish_period'] < params['max_expected_latency']
    assert params['lower_singularity_threshold'] < params['hard_stop_singularity_threshold']
    assert params['command_in_type'] == 'speed_units'
    executor = NODES['chunk_executor']
    assert params['scale']['linear'] == executor['max_linear_m_s']
    assert params['scale']['rotational'] == executor['max_angular_rad_s']
    assert params['incoming_command_timeout'] > 2 / executor['rate_hz']


def test_the_group_reaches_from_the_frame_of_the_chunk_to_the_grip_point():
    group = xml.parse(FILES / 'panda.srdf').getroot().find('group')
    chain = group.find('chain')
    assert group.get('name') == SERVO['moveit_servo']['move_group_name']
    assert set(SERVO['robot_description_kinematics']) == {group.get('name')}
    policy = NODES['vla_policy']
    assert chain.get('base_link') == policy['frame_id']
    assert chain.get('tip_link') == policy['ee_link']
    robot = xml.parse(FILES / 'panda.urdf').getroot()
    links = {link.get('name') for link in robot.findall('link')}
    assert {chain.get('base_link'), chain.get('tip_link')} <= links


def test_the_policy_finds_robot_fingers_and_limits():
    policy, executor = NODES['vla_policy'], NODES['chunk_executor']
    assert policy['urdf'] == 'package://vla_prune_ros/gazebo/panda.urdf'
    joints = {j.get('name'): j for j in WORLD.iter('joint')}
    assert set(policy['gripper_joints']) <= set(joints)
    finger = joints[executor['gripper_joint']]
    for name, side in (('gripper_closed', 'lower'), ('gripper_open', 'upper')):
        assert executor[name] == float(finger.findtext(f'axis/limit/{side}'))
    # Steps of 1/20 s that the policy lets pass are not refused by the executor.
    assert policy['max_step_m'] * 20 <= executor['max_linear_m_s']
    assert policy['max_step_rad'] * 20 <= executor['max_angular_rad_s']
    assert executor['output'] == 'none'
