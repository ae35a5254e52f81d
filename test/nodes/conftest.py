"""Nodes under test in this process, and a robot whose messages a test can spoil."""

import array
import gc
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_process import Command

from vla_prune_ros.pruning.base import Pruner, PruningSite

if find_spec('rclpy') is not None:  # else every test here is skipped
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from geometry_msgs.msg import PoseStamped
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from vla_prune_ros.nodes import interface
    from vla_prune_ros.nodes.client import ACTIVATE, CONFIGURE, Client
    from vla_prune_ros.nodes.messages import build
    from vla_prune_ros.runtime.messages import status_values, to_ns

CAMERAS = ('primary', 'wrist')
SIDE = 64
PERIOD_S = 0.1
POSITION = np.array([0.05, 0.1, 1.1])
QUATERNION = np.array([0.995, -0.05, 0.03, 0.08])
FINGERS = (0.02, -0.02)
TASK = 'pick up the red cube'
# The slop is below the period: only images of one tick make a pair.
PARAMETERS = {'instruction': TASK, 'replan_period_s': 0.0, 'sync_slop_s': 0.02}
WAIT_S = 120.0  # for hangs only


class Spinning:
    """A node that is spun by a thread of its own; ``rules`` remap its topics."""

    def __init__(self, make: Callable[..., Any], *rules: str, **parameters: Any) -> None:
        self.node = make(
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
            cli_args=['--ros-args', *(word for rule in rules for word in ('-r', rule))],
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, name='spinning', daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(10.0)
        self.node.destroy_node()
        # rclpy keeps the services of a lifecycle node in the graph until the node is freed; it is
        # part of cycles, so that might be in the middle of the next test.
        del self.node, self._executor, self._thread
        gc.collect()


class Robot:
    """Sends one whole observation about ten times a second while it waits; ``spoil`` may change,
    or delete, any of its messages before they leave."""

    def __init__(self) -> None:
        self.client = Client('robot', idle=self.tick)
        self.spoil: Callable[[dict[str, Any]], None] = lambda messages: None
        self.silent = False
        self.ticks = 0
        self._next_tick = 0.0
        self.now_ns: Callable[[], int] = time.time_ns
        self.frames: dict[int, dict[str, np.ndarray]] = {}
        self.chunks: list[Any] = []
        self.inferences: list[Any] = []
        self.diagnostics: dict[str, Any] = {}
        self._random = np.random.default_rng(0)
        node = self.client
        node.watch('vla_policy')
        self._out = {c: self._sensor(Image, f'image/{c}') for c in CAMERAS}
        self._out['ee_pose'] = self._sensor(PoseStamped, 'ee_pose')
        self._out['joint_states'] = self._sensor(JointState, 'joint_states')
        self._task = self.publisher(String, 'instruction', interface.latched())
        self.listen(JointTrajectory, 'action_chunk', self.chunks.append, interface.command())
        self.listen(
            DiagnosticArray, 'inference', self.inferences.append, interface.sensor_data(10)
        )
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def publisher(self, kind: type, topic: str, profile: Any) -> Any:
        return self.client.create_publisher(kind, f'/vla_policy/{topic}', profile)

    def _sensor(self, kind: type, topic: str) -> Any:
        return self.publisher(kind, topic, interface.sensor_data())

    def listen(self, kind: type, topic: str, take: Callable[[Any], None], profile: Any) -> Any:
        return self.client.create_subscription(
            kind, f'/vla_policy/{topic}', lambda message: take(message), profile
        )

    def _on_diagnostics(self, message: Any) -> None:
        self.diagnostics.update({status.name: status for status in message.status})

    def tick(self) -> None:
        """State first, then the cameras, all of one stamp unless the test changes it."""
        if self.silent or time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + PERIOD_S
        self.ticks += 1
        messages = self._messages()
        self.spoil(messages)
        for name in ('ee_pose', 'joint_states', *CAMERAS):
            if name in messages:
                self._out[name].publish(messages[name])

    def _messages(self) -> dict[str, Any]:
        now_ns = self.now_ns()
        frames = {c: self._random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for c in CAMERAS}
        self.frames[now_ns] = frames
        joints = JointState(
            name=['panda_finger_joint2', 'panda_joint1', 'panda_finger_joint1'],
            position=array.array('d', [FINGERS[1], 0.3, FINGERS[0]]),
        )
        joints.header.stamp = build.time(now_ns)
        return {
            **{c: build.image(frame, now_ns, c) for c, frame in frames.items()},
            'ee_pose': build.pose(POSITION, QUATERNION, now_ns, 'world'),
            'joint_states': joints,
        }

    def replace_camera(self, camera: str, publisher: Any) -> None:
        self.client.destroy_publisher(self._out[camera])
        self._out[camera] = publisher

    def say(self, task: str) -> None:
        self._task.publish(String(data=task))

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Send observations until ``done``; fail with the node's own words otherwise."""
        if not self.client.wait(done, WAIT_S):
            pytest.fail(f'no {what}; the node says: {self.text}')

    def until_says(self, *words: str) -> None:
        self.until(lambda: all(w in self.text for w in words), f'status with {words}')

    def until_state(self, *states: str) -> None:
        self.until(lambda: self.state in states, f'state {states}')

    def next_chunk(self) -> Any:
        count = len(self.chunks)
        self.until(lambda: len(self.chunks) > count, 'chunk')
        return self.chunks[-1]

    def no_chunk_for(self, ticks: int) -> None:
        """Send that many more observations and see that nothing comes of them."""
        self.client.spin_for(0.1)  # what is under way arrives
        count, end = len(self.chunks), self.ticks + ticks
        assert self.client.wait(lambda: self.ticks >= end, WAIT_S)
        self.client.spin_for(0.1)
        assert len(self.chunks) == count, f'a chunk came; the node says: {self.text}'

    @property
    def status(self) -> Any:
        return self.client.status('vla_policy')

    @property
    def state(self) -> str:
        return self.client.state('vla_policy')

    @property
    def text(self) -> str:
        return f'{self.state}: {self.client.message("vla_policy")}'

    def inference_of(self, chunk: Any) -> dict[str, str]:
        """Values of ~/inference with the chunk's stamp."""
        return self.inference_at(to_ns(chunk.header.stamp))

    def inference_at(self, stamp_ns: int) -> dict[str, str]:
        def found() -> list[Any]:
            return [m for m in self.inferences if to_ns(m.header.stamp) == stamp_ns]

        self.until(lambda: bool(found()), 'inference record')
        return status_values(found()[0].status[0])


@pytest.fixture(scope='module')
def ros() -> Iterator[None]:
    """rclpy for one test module; Ctrl-C stays pytest's."""
    gc.freeze()  # what is there already is not looked through again after each node
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    yield
    rclpy.try_shutdown()


@pytest.fixture
def spinning(ros: None) -> Iterator[Callable[..., Any]]:
    """Makes a node, as :class:`Spinning`, and spins it in a thread until the test is over."""
    made = []

    def make(*how: Any, **parameters: Any) -> Any:
        made.append(Spinning(*how, **parameters))
        return made[-1].node

    yield make
    for one in made:
        one.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts ``vla-prune``; nothing of it outlives the test."""
    started = []

    def start(*arguments: Any) -> Command:
        started.append(Command(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture(scope='session')
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the published layout that infers in some ten milliseconds."""
    from vla_prune_ros.model.synthetic import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'micro', 'micro')


class PolicyRig:
    """A policy node and the robot it listens to; ``rules`` remap its topics."""

    def __init__(self, *rules: str, **parameters: Any) -> None:
        from vla_prune_ros.nodes.policy.node import PolicyNode

        self.spinning = Spinning(PolicyNode, *rules, **parameters)
        self.node = self.spinning.node
        self.robot = Robot()
        self.robot.silent = True
        self.robot.until(lambda: self.robot.state != '', 'first status')
        self.robot.silent = False

    @property
    def pipeline(self) -> Any:
        return self.node._pipeline

    @property
    def policy(self) -> Any:
        return self.pipeline.session.policy

    def change(self, transition: int) -> bool:
        return self.robot.client.change_state('vla_policy', transition)

    def bring_up(self) -> 'PolicyRig':
        assert self.change(CONFIGURE), self.robot.text
        assert self.change(ACTIVATE), self.robot.text
        return self

    def set(self, name: str, value: Any) -> str:
        return self.robot.client.set_parameter('vla_policy', name, value)

    def refusal(self) -> str:
        """What the node says when it refuses to configure."""
        assert not self.change(CONFIGURE)
        self.robot.until(lambda: self.robot.status.level == DiagnosticStatus.ERROR, 'refusal')
        assert self.robot.state == 'UNCONFIGURED'
        return self.robot.status.message

    def close(self) -> None:
        del self.node
        self.spinning.close()
        self.robot.client.destroy_node()


class RecordingPruner(Pruner):
    """Keeps everything, asks for motion and frames, and remembers its queries; ``harvest`` is
    called at every layer of a refresh."""

    name = 'recorder'
    sites = ()
    history_s = 0.5

    def __init__(self, options: Any, target: Any) -> None:
        self.queries: list[Any] = []
        self.counts: list[dict[str, int]] = []
        self.before: list[dict[str, Any]] = []
        self.resets = 0
        self.harvest: Callable[[int], None] | None = None

    def begin(self, query: Any) -> str:
        cameras = query.layout.cameras
        if not query.stamp_ns:  # the query that warms up
            return 'fine'
        self.counts.append({c: query.history.count(c) for c in cameras})
        back_ns = 150_000_000
        self.before.append({c: query.history.before(c, query.stamp_ns, back_ns) for c in cameras})
        self.queries.append(query)
        return 'fine'

    def keep(self, view: Any) -> None:
        return None

    def reset(self) -> None:
        self.resets += 1

    def report(self) -> dict[str, Any]:
        motion = self.queries[-1].motion if self.queries else None
        return {'reason': 'recorded', 'motion': 'unknown' if motion is None else motion.source}

    def refresher(self) -> Any:
        return None if self.harvest is None else _Refresher(self.harvest)


class _Refresher(Pruner):
    """Sees every layer of the micro checkpoint, which has three."""

    name = 'refresher'

    def __init__(self, harvest: Callable[[int], None]) -> None:
        self.sites = tuple(PruningSite(layer) for layer in range(3))
        self._harvest = harvest

    def begin(self, query: Any) -> str:
        return 'dense'

    def keep(self, view: Any) -> None:
        self._harvest(view.site.layer)


class Hold:
    """Replaces a function; each call says that it has begun and waits for ``go``."""

    def __init__(self, function=lambda *args: None):
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls = []
        self._function = function

    def __call__(self, *args):
        self.calls.append(args)
        self.begun.set()
        assert self.go.wait(60.0)
        return self._function(*args)


@pytest.fixture
def hold():
    """Makes holds that are let go when the test ends, however it ends."""
    made = []

    def make(*args):
        made.append(Hold(*args))
        return made[-1]

    yield make
    for one in made:
        one.go.set()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``pruning: recorder`` a method."""
    from vla_prune_ros.pruning import registry

    known = {**registry.PRUNERS, 'recorder': RecordingPruner}
    monkeypatch.setattr(registry, 'PRUNERS', known)


@pytest.fixture
def rig(ros: None, micro: Path) -> Iterator[Callable[..., PolicyRig]]:
    """Makes a policy node of the micro checkpoint, without a pause between queries."""
    made = []

    def make(*rules: str, **parameters: Any) -> PolicyRig:
        made.append(PolicyRig(*rules, **{'checkpoint': str(micro), **PARAMETERS, **parameters}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope='module')
def idle_rig(ros: None, micro: Path) -> Iterator[PolicyRig]:
    """One policy node for all tests of a module: it has to live through everything."""
    rig = PolicyRig(checkpoint=str(micro), **PARAMETERS)
    yield rig
    rig.close()


@pytest.fixture(scope='module')
def one(idle_rig: PolicyRig) -> PolicyRig:
    """The module's node, which nobody talks to: it only has to configure, or refuse."""
    idle_rig.robot.silent = True
    return idle_rig


@pytest.fixture(scope='module')
def running(idle_rig: PolicyRig) -> PolicyRig:
    """The module's node, active."""
    return idle_rig.bring_up()
