"""docs/interface.md against running nodes, in both directions.

Expected values are what the graph and the messages say: names and types by node, the quality of
service of each endpoint, the keys of received records. State words are read from the sources.
"""

import ast
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')
pytestmark = pytest.mark.ros
rclpy = pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')

import bag_writer as writer
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.nodes.executor.node import ExecutorNode
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.nodes.policy.node import PolicyNode
from vla_prune_ros.nodes.qos import command, sensor_data
from vla_prune_ros.nodes.simulator.node import SimulatorNode
from vla_prune_ros.nodes.tools import interface_doc
from vla_prune_ros.nodes.tools.bag_player import BagPlayerNode
from vla_prune_ros.nodes.tools.interface_doc import (
    CHUNK_FIELDS,
    DIAGNOSTICS,
    INFERENCE,
    NODES,
    PUBLISHED,
    SERVICES,
    STATES,
    SUBSCRIBED,
)
from vla_prune_ros.runtime.messages import status_values, to_ns
from vla_prune_ros.sim.scene import Scene, SceneState

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'interface.md'
CAMERAS = ('primary', 'wrist')
STREAMS = (*CAMERAS, 'ee_pose', 'joint_states')
SOURCES = (*(f'~/image/{c}' for c in CAMERAS), '~/ee_pose', '~/joint_states')
WAIT_S = 60.0
# What rclpy gives every node, and every lifecycle node.
STANDARD_TOPICS = {'/parameter_events', '/rosout', '~/transition_event'}
STANDARD_SERVICES = {
    *(f'~/{verb}_parameters' for verb in ('describe', 'get', 'list', 'set')),
    *('~/get_parameter_types', '~/set_parameters_atomically', '~/get_type_description'),
    *('~/change_state', '~/get_state', '~/get_available_states'),
    *('~/get_available_transitions', '~/get_transition_graph'),
}


class StubScene(Scene):
    """As much of a scene as the simulator's constructor asks for."""

    control_hz, cameras, time_s = 20.0, CAMERAS, 0.0
    instruction, description = 'pick up the red cube', 'stub'

    def reset(self, seed):
        """Nothing moves."""

    def state(self):
        """An arm at rest."""
        return SceneState(np.zeros(3), np.array([0.0, 0, 0, 1]), (), np.zeros(0), np.zeros(0))

    def close(self):
        """Nothing to free."""


def policy_node(checkpoint, cli_args=(), **parameters):
    """A policy node with a checkpoint, not configured."""
    overrides = {'checkpoint': str(checkpoint), 'instruction': 'pick up the red cube'}
    return PolicyNode(
        cli_args=['--ros-args', *cli_args] if cli_args else None,
        parameter_overrides=[
            Parameter(k, value=v) for k, v in {**overrides, **parameters}.items()
        ],
    )


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('checkpoint'), 'micro')


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """A recording of every stream, with raw images; each topic has the name of its stream."""
    image = writer.image_message(writer.T0, np.zeros((4, 4, 3), np.uint8))
    pose = writer.pose_message(writer.T0)
    trajectory = writer.trajectory_message(writer.T0, ['gripper'], [[1.0]], writer.MS)
    messages = {
        **dict.fromkeys(CAMERAS, image),
        'ee_pose': pose,
        'pose_target': pose,
        'joint_states': writer.joints_message(writer.T0, ['finger'], [0.0]),
        'instruction': writer.text_message('lift'),
        'twist': writer.twist_message(writer.T0, range(6)),
        'gripper': trajectory,
        'action_chunk': trajectory,
    }
    rows = [(f'/{stream}', writer.T0, message) for stream, message in messages.items()]
    return writer.write(tmp_path_factory.mktemp('bags') / 'bag', rows)


@pytest.fixture(scope='module')
def nodes(checkpoint, bag):
    """All nodes, the policy configured, and an executor that spins them."""
    # A namespace of their own: the graph may hold nodes of the same names, from earlier tests, for
    # as long as the middleware's lease.
    rclpy.init(args=['--ros-args', '-r', '__ns:=/interface'])
    policy = policy_node(checkpoint, frame_id='panda_link0')
    assert policy.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
    simulator = SimulatorNode(make_scene=lambda parameters: StubScene())
    executor = SingleThreadedExecutor()
    # It waits for a policy of another namespace, which never comes.
    waiting = {'bag': str(bag), 'wait_for_subscribers_s': 3600.0, 'loop': True}
    player = BagPlayerNode(
        parameter_overrides=[Parameter(name, value=value) for name, value in waiting.items()]
    )
    made = {
        'vla_policy': policy,
        'chunk_executor': ExecutorNode(),
        'simulator': simulator,
        'bag_player': player,
    }
    for node in made.values():
        executor.add_node(node)
    yield SimpleNamespace(executor=executor, **made)
    for node in made.values():
        node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown()


def in_graph(node, ask, standard, wanted):
    """Name, ``~`` for the node's own -> types, as the graph tells it of ``node``.

    Asked until it is as wanted: the graph hears of endpoints a moment later.
    """
    deadline = time.monotonic() + 10.0
    while True:
        found = getattr(node, ask)(node.get_name(), node.get_namespace())
        mine = {relative(node, n): t for n, t in found if relative(node, n) not in standard}
        if mine == wanted or time.monotonic() > deadline:
            return mine
        time.sleep(0.05)


def relative(node, name):
    return re.sub(f'^{node.get_fully_qualified_name()}/', '~/', name)


def expanded(table):
    """The rows of a table, one for each camera; a topic of the bag has the name of its stream."""
    rows = {}
    for row in table:
        cameras = CAMERAS if '<camera>' in row.name else ('',)
        for camera in cameras:
            rows[re.sub('<(.*?)>', r'\1', row.name.replace('<camera>', camera))] = row
    return rows


def types(rows):
    return {name: [interface_doc.type_name(row.kind)] for name, row in rows.items()}


def test_the_page_is_what_the_generator_prints(capsys):
    assert interface_doc.main() == 0
    assert PAGE.read_text(encoding='utf-8') == capsys.readouterr().out, (
        'run: python -m vla_prune_ros.nodes.tools.interface_doc > docs/interface.md'
    )


@pytest.mark.parametrize('name', NODES)
def test_published_topics(nodes, name):
    node = getattr(nodes, name)
    wanted = types(expanded(PUBLISHED[name]))
    if name == 'bag_player':  # its images are raw or compressed, as the bag's are
        wanted = {topic: kind for topic, kind in wanted.items() if 'compressed' not in topic}
    ask = 'get_publisher_names_and_types_by_node'
    assert in_graph(node, ask, STANDARD_TOPICS, wanted) == wanted


@pytest.mark.parametrize('name', ['chunk_executor', 'simulator', 'bag_player'])
def test_subscribed_topics(nodes, name):
    wanted = types(expanded(SUBSCRIBED[name]))
    ask = 'get_subscriber_names_and_types_by_node'
    assert in_graph(getattr(nodes, name), ask, STANDARD_TOPICS, wanted) == wanted


def test_subscribed_topics_of_the_policy_for_both_transports(nodes, checkpoint):
    compressed = policy_node(
        checkpoint,
        image_transport='compressed',
        motion_source='joint_velocities',
        ee_link='hand',
    )
    compressed.trigger_configure()
    found = [
        {relative(p, s.topic_name): [interface_doc.type_name(s.msg_type)] for s in p.subscriptions}
        for p in (nodes.vla_policy, compressed)
    ]
    compressed.destroy_node()
    raw_only, compressed_only = (
        {k for k in mine if k not in other} for mine, other in (found, found[::-1])
    )
    assert raw_only == {f'~/image/{c}' for c in CAMERAS}
    compressed_only.remove('~/robot_description')  # of the motion source, whatever the transport
    assert compressed_only == {f'~/image/{c}/compressed' for c in CAMERAS}
    compressed_only.add('~/robot_description')
    together = {**found[0], **found[1]}
    wanted = types(expanded(SUBSCRIBED['vla_policy']))
    assert {k: v for k, v in together.items() if k not in STANDARD_TOPICS} == wanted
    raw = {k: v for k, v in wanted.items() if k not in compressed_only}
    ask = 'get_subscriber_names_and_types_by_node'
    assert in_graph(nodes.vla_policy, ask, STANDARD_TOPICS, raw) == raw


@pytest.mark.parametrize('name', NODES)
def test_services(nodes, name):
    wanted = {s.name: [interface_doc.type_name(s.kind)] for s in SERVICES[name]}
    ask = 'get_service_names_and_types_by_node'
    assert in_graph(getattr(nodes, name), ask, STANDARD_SERVICES, wanted) == wanted


@pytest.mark.parametrize('name', NODES)
def test_quality_of_service_of_every_endpoint(nodes, name):
    node = getattr(nodes, name)
    for table, endpoints in ((PUBLISHED, node.publishers), (SUBSCRIBED, node.subscriptions)):
        rows = expanded(table[name])
        for endpoint in endpoints:
            topic = relative(node, getattr(endpoint, 'topic_name', None) or endpoint.topic)
            if topic not in STANDARD_TOPICS:
                got, want = endpoint.qos_profile, rows[topic].qos
                assert (got.reliability, got.durability, got.depth) == (
                    want.reliability,
                    want.durability,
                    want.depth,
                ), topic


@pytest.mark.parametrize('name', NODES)
def test_parameters_are_those_of_the_node_with_their_types(nodes, name):
    node = getattr(nodes, name)
    page = PAGE.read_text(encoding='utf-8')
    section = page[page.index(f'## {name}\n') :].split('### Parameters\n')[1]
    section = re.split('^#', section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = dict(re.findall(r'^\| `(\w+)` \| ([a-z ]+) \|', section, re.MULTILINE))
    standard = ('qos_overrides', 'use_sim_time', 'start_type_description_service')
    own = {n for n in node.get_parameters_by_prefix('') if not n.startswith(standard)}
    assert set(rows) == own
    for parameter, kind in rows.items():
        assert node.get_parameter(parameter).type_.name.lower().replace('_', ' ') == kind


def test_the_overrides_shown_on_the_page_reach_the_subscription(nodes, checkpoint, tmp_path):
    block = re.search(r'```yaml\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)[1]
    (tmp_path / 'qos.yaml').write_text(block, encoding='utf-8')
    node = policy_node(checkpoint, ['-r', '__ns:=/', '--params-file', str(tmp_path / 'qos.yaml')])
    node.trigger_configure()
    qos = {s.topic_name: s.qos_profile for s in node.subscriptions}
    node.destroy_node()
    changed, same = (qos[f'/vla_policy/image/{c}'] for c in CAMERAS)
    assert (changed.reliability, changed.depth) == (ReliabilityPolicy.RELIABLE, 2)
    assert (same.reliability, same.depth) == (ReliabilityPolicy.BEST_EFFORT, 5)


def state_words(*modules):
    """All texts in capitals in the sources: the nodes use them for states only."""
    found = set()
    for module in modules:
        source = (ROOT / 'vla_prune_ros/nodes' / f'{module}.py').read_text(encoding='utf-8')
        texts = (n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant))
        found |= {t for t in texts if isinstance(t, str) and re.fullmatch('[A-Z]{4,}', t)}
    return found


def test_state_words():
    assert state_words('policy_node', 'pipeline') == set(STATES['vla_policy'])
    assert state_words('executor_node') == set(STATES['chunk_executor'])


class Robot:
    """Publishes what a query needs and keeps what comes back."""

    def __init__(self):
        self.node = rclpy.create_node('robot')
        self.inferences, self.chunks, self.diagnostics = [], [], {}
        topics = dict(zip(STREAMS, SOURCES, strict=True))
        rows = expanded(SUBSCRIBED['vla_policy'])
        self.out = {
            stream: self.node.create_publisher(
                rows[topic].kind, topic.replace('~', 'vla_policy'), sensor_data()
            )
            for stream, topic in topics.items()
        }
        self.to_executor = self.node.create_publisher(
            JointTrajectory, 'chunk_executor/action_chunk', command()
        )
        listen = self.node.create_subscription
        listen(DiagnosticArray, 'vla_policy/inference', self.on_inference, sensor_data())
        listen(JointTrajectory, 'vla_policy/action_chunk', self.on_chunk, command())
        listen(DiagnosticArray, '/diagnostics', self.on_diagnostics, 10)
        self.node.create_timer(0.05, self.send)

    def on_inference(self, message):
        self.inferences.append(message)

    def on_chunk(self, message):
        self.chunks.append(message)
        self.to_executor.publish(message)

    def on_diagnostics(self, message):
        for status in message.status:
            self.diagnostics[status.name] = set(status_values(status))

    def send(self):
        now_ns = self.node.get_clock().now().nanoseconds
        down = np.array([1.0, 0.0, 0.0, 0.0])
        fingers = ['panda_finger_joint1', 'panda_finger_joint2']
        joints = JointState(name=fingers, position=[0.02, -0.02])
        joints.header.stamp = build.time(now_ns)
        self.out['ee_pose'].publish(build.pose((0.0, 0.0, 1.1), down, now_ns, 'base'))
        self.out['joint_states'].publish(joints)
        for camera in CAMERAS:
            frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            self.out[camera].publish(build.image(frame, now_ns, camera))


@pytest.fixture(scope='module')
def talk(nodes):
    """One query over real topics: what the active policy and the executor said."""
    nodes.vla_policy.trigger_activate()
    robot = Robot()
    nodes.executor.add_node(robot.node)
    deadline = time.monotonic() + WAIT_S
    while not (
        robot.inferences
        and 'motion_linear_m_s' in status_values(robot.inferences[-1].status[0])
        and robot.chunks
        and set(DIAGNOSTICS) <= set(robot.diagnostics)
        and 'loaded' in robot.diagnostics['chunk_executor: execution']
    ):
        assert time.monotonic() < deadline, 'no record, chunk or diagnostics came'
        nodes.executor.spin_once(timeout_sec=0.1)
    nodes.vla_policy.trigger_deactivate()
    nodes.executor.remove_node(robot.node)
    robot.node.destroy_node()
    return robot


def fits(key, template):
    """``age_primary_ms`` fits ``age_<stream>_ms``."""
    for mark, values in (('<stream>', STREAMS), ('<camera>', CAMERAS)):
        if mark in template:
            return key in {template.replace(mark, v) for v in values}
    open_end = {'lost_<reason>': 'lost_', 'pruning_<key>': 'pruning_'}.get(template)
    return key == template or (open_end is not None and key.startswith(open_end))


def test_keys_of_the_record(talk):
    """Of the last record: the speed of the arm is known from the second pose on."""
    keys = set(status_values(talk.inferences[-1].status[0]))
    assert not {k for k in keys if not any(fits(k, t) for t in INFERENCE)}
    missing = {t for t in INFERENCE if not any(fits(k, t) for k in keys)}
    # The dense policy has none of them.
    assert missing == {'pruning_<key>', 'pruning_reason', 'refresh_ms'}


def test_keys_of_the_diagnostics(talk):
    assert {n for n in talk.diagnostics if not n.endswith(': state')} == set(DIAGNOSTICS)
    for name, templates in DIAGNOSTICS.items():
        odd = {k for k in talk.diagnostics[name] if not any(fits(k, t) for t in templates)}
        assert not odd, name


def test_the_chunk_is_as_described(talk):
    chunk = talk.chunks[0]
    assert ' '.join(chunk.joint_names) == (
        'delta_x delta_y delta_z delta_rx delta_ry delta_rz gripper'
    )
    assert CHUNK_FIELDS['joint_names'].format(
        names=', '.join(chunk.joint_names)
    ) in PAGE.read_text(encoding='utf-8')
    assert chunk.header.frame_id == 'panda_link0'
    assert to_ns(chunk.header.stamp) in {to_ns(m.header.stamp) for m in talk.inferences}
    assert len(chunk.points) == 8
    for i, point in enumerate(chunk.points):
        due = point.time_from_start
        assert due.sec * 1_000_000_000 + due.nanosec == (i + 1) * 50_000_000
        assert len(point.positions) == len(point.velocities) == 7
        assert np.allclose(np.asarray(point.positions[:6]) / 0.05, point.velocities[:6])
        assert 0.0 <= point.positions[6] <= 1.0 and point.velocities[6] == 0.0
