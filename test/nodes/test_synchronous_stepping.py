"""Synchronous stepping: what the scene executes follows from chunks and seed, not from speed.

Expected actions are the chunk's own rows by the units of OSC_POSE (0.05 m and 0.5 rad per step
and unit); everything else is equality between runs that differ in nothing but timing.
"""

import time
from functools import partial

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_prune_ros.errors import ProfileError, VlaPruneError
from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.client import ACTIVATE, CONFIGURE, Client
from vla_prune_ros.nodes.executor import ExecutorNode
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.nodes.policy.node import PolicyNode
from vla_prune_ros.nodes.simulator import SimulatorNode
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.messages import read_chunk, read_pose, status_values, to_ns
from vla_prune_ros.sim.scene import Scene, SceneState

CAMERAS = ('primary', 'wrist')
CHUNK = 8
STEPS = 3 * CHUNK + 3  # ends within a chunk
QUERIES_NS = [0, 400_000_000, 800_000_000, 1_200_000_000]  # a chunk is 8 steps of 50 ms
WAIT_S = 120.0
SYNCHRONOUS = {'use_sim_time': True, 'stepping': 'synchronous'}
JOINTS = (*(f'panda_joint{i}' for i in range(1, 8)), 'panda_finger_joint1', 'panda_finger_joint2')
QUATERNION = np.array([0.995, -0.05, 0.03, 0.08])


class FakeScene(Scene):
    """Moves by a quarter of the command and shows pictures that depend on where the arm is."""

    control_hz, cameras, time_s = 20.0, CAMERAS, 0.0
    description = 'fake'

    def __init__(self, parameters=None):
        self.reset(0)

    def reset(self, seed):
        self._random = np.random.default_rng(seed)
        self.position = np.array([0.05, 0.1, 1.1]) + 0.01 * self._random.random(3)
        self.instruction = f'pick up the {("red", "green")[seed % 2]} cube'

    def step(self, action):
        self.position = self.position + 0.0125 * action[:3] + 1e-3 * action[3:6]

    def images(self):
        ramp = np.add.outer(np.arange(64.0), 2.0 * np.arange(64.0))
        waves = [np.sin(ramp * (k + 1) / 9 + 300.0 * self.position[k]) for k in range(3)]
        picture = (127.5 * (1.0 + np.stack(waves, axis=-1))).astype(np.uint8)
        return {'primary': picture, 'wrist': picture[::-1].copy()}

    def state(self):
        fingers = np.array([*np.zeros(7), 0.02, -0.02])
        return SceneState(self.position.copy(), QUATERNION, JOINTS, fingers, np.zeros(9))

    def success(self):
        return False

    def close(self):
        pass


class Recorded:
    """A scene that keeps what it was told and where it was before each step."""

    def __init__(self, scene):
        self._scene = scene
        self.actions, self.path, self.seeds = [], [], []

    def __getattr__(self, name):
        return getattr(self._scene, name)

    def reset(self, seed):
        self._scene.reset(seed)
        self.seeds.append(seed)
        self.actions, self.path = [], []

    def step(self, action):
        self.path.append(np.concatenate([self._scene.state().ee_position, action]))
        self._scene.step(action)
        self.actions.append(np.array(action))


class SlowPolicy(Node):
    """Answers the observation at which the chunk before is used up, after a random while."""

    def __init__(self, **kwargs):
        super().__init__('slow_policy', **kwargs)
        self.slowest_s = 0.0
        self._random = np.random.default_rng()
        self._next_ns = 0
        self._out = self.create_publisher(
            JointTrajectory, '/vla_policy/action_chunk', interface.command()
        )
        self.create_subscription(
            PoseStamped, '/simulator/ee_pose', self.on_pose, interface.lossless()
        )

    def on_pose(self, message):
        stamp_ns = to_ns(message.header.stamp)
        if stamp_ns < self._next_ns:
            return
        self._next_ns = stamp_ns + CHUNK * 50_000_000
        position, _ = read_pose(message)
        wave = np.sin(np.outer(1.0 + np.arange(CHUNK), 1e4 * np.tile(position, 2)))
        gripper = (wave[:, 0] > 0).astype(float)
        time.sleep(self.slowest_s * self._random.random())
        chunk = ActionChunk(stamp_ns, 0.05, 0.02 * wave, gripper, 'world')
        self._out.publish(build.chunk(chunk))


class Loop:
    """The simulator and other nodes, each spun by a thread of its own, and a client."""

    def __init__(self, spinning, make_scene=FakeScene, **parameters):
        self.spin = spinning
        self.scene = None

        def make(parameters):
            self.scene = Recorded(make_scene(parameters))
            return self.scene

        values = {'stepping': 'synchronous', 'real_time_factor': 0.0, **parameters}
        spinning(partial(SimulatorNode, make), **values)
        self.client = Client('client')
        self.episode, self.chunks, self.queries, self.waits = {}, [], [], []
        self.start_ns = 0
        listen = self.client.create_subscription
        listen(DiagnosticArray, '/simulator/episode', self._on_episode, interface.lossless())
        listen(JointTrajectory, '/vla_policy/action_chunk', self._on_chunk, interface.lossless())
        listen(DiagnosticArray, '/vla_policy/inference', self._on_query, interface.sensor_data(50))
        self.client.watch('chunk_executor')
        self.client.watch('vla_policy')

    def _on_episode(self, message):
        self.episode = status_values(message.status[0])
        if self.episode['step'] == '0':
            self.start_ns = to_ns(message.header.stamp)
        if message.status[0].message.startswith('no '):
            self.waits.append(message.status[0].message)

    def _on_chunk(self, message):
        self.chunks.append(read_chunk(message))

    def _on_query(self, message):
        self.queries.append(to_ns(message.header.stamp))

    def add_executor(self):
        rules = ['~/action_chunk:=/vla_policy/action_chunk']
        rules += [f'~/{t}:=/simulator/{t}' for t in ('twist', 'gripper', 'ee_pose')]
        limits = {'max_linear_m_s': 5.0, 'close_below': 0.5, 'open_above': 0.5}
        return self.spin(ExecutorNode, *rules, **SYNCHRONOUS, output='twist', **limits)

    def add_policy(self, checkpoint, **parameters):
        topics = (*(f'image/{c}' for c in CAMERAS), 'ee_pose', 'joint_states', 'instruction')
        rules = [f'~/{t}:=/simulator/{t}' for t in topics]
        parameters = {**SYNCHRONOUS, 'checkpoint': str(checkpoint), **parameters}
        self.spin(PolicyNode, *rules, **parameters)
        for transition in (CONFIGURE, ACTIVATE):
            assert self.client.change_state('vla_policy', transition), self.state('vla_policy')

    def state(self, node):
        return f'{node}: {self.client.state(node)} {self.client.message(node)}'

    def until(self, done, what):
        if not self.client.wait(done, WAIT_S):
            states = f'{self.state("vla_policy")}; {self.state("chunk_executor")}'
            pytest.fail(f'no {what}; {states}; {self.episode}')

    def run_episode(self, seed, steps=STEPS):
        """Position and action of each step, (steps, 10), and what was answered meanwhile."""
        assert self.client.set_parameter('simulator', 'seed', seed) == ''
        number = self.client.trigger('/simulator/reset').split()[1]
        self.until(lambda: self.episode.get('episode') == number, 'episode')
        self.arm()
        self.until(lambda: len(self.scene.actions) >= steps, f'{steps} steps')
        self.client.set_bool('/chunk_executor/arm', False)
        self.until_still()
        assert self.scene.seeds[-1] == seed
        return np.array(self.scene.path[:steps])

    def answers(self):
        """Chunks of this episode."""
        return [c for c in self.chunks if c.stamp_ns >= self.start_ns]

    def since_start(self, stamps_ns):
        """Times after the start of the episode; it may run on until it is disarmed."""
        end_ns = STEPS * 50_000_000
        return [t - self.start_ns for t in stamps_ns if 0 <= t - self.start_ns < end_ns]

    def until_still(self):
        seen = -1
        while seen != len(self.scene.actions):
            seen = len(self.scene.actions)
            self.client.spin_for(0.3)

    def arm(self):
        """As soon as the graph has forgotten the executor of the test before."""

        def armed():
            request = SetBool.Request(data=True)
            return self.client.call(SetBool, '/chunk_executor/arm', request).success

        self.until(armed, 'armed executor')

    def close(self):
        self.client.destroy_node()


@pytest.fixture
def loop(spinning):
    """Makes the simulator with a fake scene, or with another."""
    made = []

    def make(make_scene=FakeScene, **parameters):
        made.append(Loop(spinning, make_scene, **parameters))
        return made[-1]

    yield make
    for one in made:
        one.close()


def commanded(chunks, steps=STEPS):
    """Actions (steps, 7) that the chunks ask for, one row after the other."""
    rows = [
        np.column_stack(
            [c.deltas[:, :3] / 0.05, c.deltas[:, 3:] / 0.5, 1.0 - 2.0 * (c.gripper > 0.5)]
        )
        for c in chunks
    ]
    return np.clip(np.concatenate(rows)[:steps], -1.0, 1.0)


def test_every_action_of_every_chunk_is_one_step_whatever_the_policy_takes(loop):
    one = loop()
    one.add_executor()
    policy = one.spin(SlowPolicy)
    paths = []
    for policy.slowest_s in (0.0, 0.15):
        path = one.run_episode(seed=7)
        np.testing.assert_allclose(path[:, 3:], commanded(one.answers()), atol=1e-9)
        assert one.since_start(c.stamp_ns for c in one.chunks) == QUERIES_NS
        paths.append(path)
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize('pruning', ['dense', 'specprune'])
def test_the_real_nodes_repeat_an_episode_to_the_last_bit(loop, micro, pruning):
    """Also where the pruner compares the frames between queries and looks back after each."""
    one = loop()
    one.add_executor()
    one.add_policy(micro, pruning=pruning)
    runs = []
    for seed in (3, 4, 3):
        path = one.run_episode(seed)
        np.testing.assert_allclose(path[:, 3:], commanded(one.answers()), atol=1e-9)
        assert one.since_start(one.queries) == QUERIES_NS
        runs.append(path)
    np.testing.assert_array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[1])


def test_time_stands_still_without_a_command_and_the_reason_is_reported(loop):
    one = loop(step_timeout_s=0.3)
    one.until(lambda: len(one.waits) > 2, 'warning in the episode')
    assert 'twist and gripper stamped 1.000 s' in one.waits[0]
    assert 'publishers of /simulator/twist' in one.waits[0]
    assert one.scene.actions == [] and one.episode['step'] == '0'


def test_a_policy_that_joins_late_gets_the_observation_that_waits(loop):
    one = loop()
    one.until(lambda: one.episode, 'episode')
    one.client.spin_for(0.6)  # everything of the first instant went out long ago
    one.add_executor()
    one.spin(SlowPolicy)
    one.arm()
    one.until(lambda: len(one.scene.actions) >= 10, 'steps')


def test_disarming_pauses_and_no_step_is_lost_or_doubled(loop):
    one = loop()
    one.add_executor()
    one.spin(SlowPolicy)
    one.run_episode(seed=1, steps=5)
    before = len(one.scene.actions)
    one.client.spin_for(0.3)
    assert len(one.scene.actions) == before
    one.arm()
    one.until(lambda: len(one.scene.actions) >= before + STEPS, 'steps')
    steps = before + STEPS
    got = np.array(one.scene.actions[:steps])
    np.testing.assert_allclose(got, commanded(one.answers(), steps), atol=1e-9)


def test_commands_of_another_time_or_of_one_kind_move_nothing(loop):
    one = loop()
    twist = one.client.create_publisher(TwistStamped, '/simulator/twist', interface.command())
    gripper = one.client.create_publisher(
        JointTrajectory, '/simulator/gripper', interface.command()
    )
    outs = (twist, gripper)
    one.until(lambda: all(o.get_subscription_count() for o in outs), 'subscriptions')

    def send(stamp_ns, kinds):
        parts = (build.twist((0.4, 0, 0, 0, 0, 0), stamp_ns), build.gripper(0.0, stamp_ns))
        for _ in range(4):  # as the executor repeats itself
            for out, part in zip(outs, parts, strict=True):
                if out in kinds:
                    out.publish(part)
            one.client.spin_for(0.1)

    now_ns = 1_000_000_000
    for wrong_ns in (now_ns - 50_000_000, now_ns + 50_000_000):
        send(wrong_ns, outs)
    send(now_ns, (gripper,))
    assert one.scene.actions == []
    send(now_ns, (twist,))
    one.until(lambda: len(one.scene.actions) == 1, 'step')
    np.testing.assert_allclose(one.scene.actions[0], [0.4, 0, 0, 0, 0, 0, 1.0])
    send(now_ns, outs)
    assert len(one.scene.actions) == 1


def test_synchronous_on_wall_time_is_refused(ros):
    with pytest.raises(ProfileError, match='use_sim_time'):
        ExecutorNode(parameter_overrides=[Parameter('stepping', value='synchronous')])


def test_a_chunk_that_is_there_before_its_time_survives_the_jump_to_it(ros, spinning):
    """The clock's message may be the slower one; time would stand still for ever."""
    spinning(ExecutorNode, **SYNCHRONOUS, output='twist')
    client, twists = Client('client'), []
    client.watch('chunk_executor')
    client.create_subscription(
        TwistStamped, '/chunk_executor/twist', lambda m: twists.append(m), interface.lossless()
    )
    clock = client.create_publisher(Clock, '/clock', interface.command())
    out = client.create_publisher(
        JointTrajectory, '/chunk_executor/action_chunk', interface.command()
    )

    def until(done, now_s):
        def tick():
            clock.publish(Clock(clock=build.time(round(now_s * 1e9))))
            return done()

        assert client.wait(tick, WAIT_S)

    def says(text):
        return text in client.message('chunk_executor')

    until(lambda: says('DISARMED') and clock.get_subscription_count(), 1)
    until(lambda: out.get_subscription_count() > 0, 1)
    assert client.set_bool('/chunk_executor/arm', True)
    until(lambda: says('no chunk yet'), 1)
    deltas = np.outer(np.arange(1, CHUNK + 1), np.full(6, 1e-3))
    chunk = ActionChunk(5_000_000_000, 0.05, deltas, np.ones(CHUNK), 'world')
    out.publish(build.chunk(chunk))
    until(lambda: says('has not begun'), 1)
    assert twists == []
    until(lambda: len(twists) > 2, 5)
    stamps = {to_ns(m.header.stamp) for m in twists}
    assert stamps == {5_000_000_000}
    assert {m.twist.linear.x for m in twists} == {0.001 / 0.05}
    client.destroy_node()


class Choosy(FakeScene):
    """Knows one task, and is made of generated shapes."""

    generated_assets = True

    def __init__(self, parameters):
        if parameters.tasks not in ((), ('pick_red',)):
            raise VlaPruneError(f'task {parameters.tasks[0]!r} is unknown', 'choose from pick_red')
        super().__init__()


def test_a_wrong_task_at_the_start_is_logged_and_can_be_set_right(loop):
    one = loop(Choosy, tasks=['pick_blue'], stepping='free')
    assert one.scene is None
    refused = one.client.set_parameter('simulator', 'tasks', ['pick_grey'])
    assert "task 'pick_grey' is unknown" in refused and 'pick_red' in refused
    assert not one.client.call(Trigger, '/simulator/reset', Trigger.Request()).success
    assert one.client.set_parameter('simulator', 'tasks', ['pick_red']) == ''
    one.until(lambda: one.episode.get('generated_assets') == 'true', 'episode')
    assert one.episode['simulator'] == 'two_cubes'


def test_a_wrong_task_later_leaves_the_scene_and_another_one_goes_on_in_time(loop):
    clocks, instructions = [], []
    one = loop(Choosy, stepping='free', real_time_factor=1.0, seed=1)
    listen, first = one.client.create_subscription, one.scene
    listen(
        PoseStamped,
        '/simulator/ee_pose',
        lambda m: clocks.append(to_ns(m.header.stamp)),
        interface.sensor_data(),
    )
    listen(
        String,
        '/simulator/instruction',
        lambda m: instructions.append(m.data),
        interface.latched(),
    )
    assert 'pick_grey' in one.client.set_parameter('simulator', 'tasks', ['pick_grey'])
    one.until(lambda: clocks and instructions, 'pose and instruction')
    assert one.scene is first
    assert one.client.set_parameter('simulator', 'seed', 2) == ''
    assert one.client.set_parameter('simulator', 'tasks', ['pick_red']) == ''
    assert one.scene is not first
    count = len(clocks)
    one.until(lambda: len(clocks) > count + 3, 'pose')
    one.until(lambda: instructions[-1] == 'pick up the red cube', 'instruction of seed 2')
    assert (np.diff(clocks) > 0).all() and np.diff(clocks).max() >= 2_000_000_000
