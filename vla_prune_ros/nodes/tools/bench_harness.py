"""``vla-prune bench --node``: the node's cost beside the policy, and whether images arrive."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console

from ...errors import VlaPruneError
from ...runtime.messages import status_values, to_ns
from ...runtime.processes import Processes
from ...runtime.progress import Progress
from ..client import Client
from ..process import ros_context
from ..qos import sensor_data
from ..status import ERROR
from .environment import local_environment, remap_inputs, ros_arguments
from .fake_robot import CAMERAS

WARM_UP_S = 3.0


@dataclass(frozen=True)
class NodeBenchOptions:
    """What is measured.

    :param rate_hz: frames per second and camera, 640 x 480 x 3.
    :param transport_profile: use the shipped transport profile; False shows the middleware's
        defaults.
    """

    checkpoint: Path
    seconds: float
    rate_hz: float
    transport_profile: bool


class _Counter:
    """First and last count of messages with their stamps: a mean rate without an own clock."""

    def __init__(self) -> None:
        self._first: tuple[int, dict[str, int]] | None = None
        self._last: tuple[int, dict[str, int]] | None = None

    def add(self, stamp_ns: int, counts: dict[str, int]) -> None:
        """One report of running counts."""
        self._first = self._first or (stamp_ns, counts)
        self._last = (stamp_ns, counts)

    def rates(self) -> dict[str, float]:
        """Camera -> messages per second between the first and the last report."""
        if self._first is None or self._last is None or self._last[0] == self._first[0]:
            return dict.fromkeys(CAMERAS, 0.0)
        seconds = 1e-9 * (self._last[0] - self._first[0])
        return {c: (self._last[1][c] - self._first[1][c]) / seconds for c in CAMERAS}


class _Listener(Client):
    def __init__(self, idle: Callable[[], None]) -> None:
        super().__init__('node_bench', idle)
        self.records: list[dict[str, str]] = []
        self.measuring = False
        self.sent, self.received = _Counter(), _Counter()
        self.watch('vla_policy')
        self.create_subscription(
            DiagnosticArray, '/vla_policy/inference', self._on_inference, sensor_data(50)
        )
        self.create_subscription(DiagnosticArray, '/fake_robot/published', self._on_published, 10)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_inference(self, message: DiagnosticArray) -> None:
        if self.measuring:
            self.records.append(status_values(message.status[0]))

    def _on_published(self, message: DiagnosticArray) -> None:
        if self.measuring:
            values = status_values(message.status[0])
            self.sent.add(to_ns(message.header.stamp), {c: int(values[c]) for c in CAMERAS})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        status = next((s for s in message.status if s.name == 'vla_policy: inputs'), None)
        if self.measuring and status is not None:
            values = status_values(status)
            self.received.add(
                to_ns(message.header.stamp), {c: int(values[f'{c}_received']) for c in CAMERAS}
            )


@dataclass(frozen=True)
class NodeBenchRun:
    """Raw result.

    :param records: values of ``~/inference``, one mapping per query.
    :param sent_hz: camera -> images published per second; ``received_hz`` likewise in the node.
    """

    records: list[dict[str, str]]
    sent_hz: dict[str, float]
    received_hz: dict[str, float]


def run_node_bench(options: NodeBenchOptions, console: Console) -> NodeBenchRun:
    """Measure.

    :raises VlaPruneError: a process ended, or no inference came.
    """
    env = local_environment(options.transport_profile)
    os.environ.update(env)
    with tempfile.TemporaryDirectory() as logs, Processes(Path(logs), env) as processes:
        _start(processes, options)
        with ros_context(processes.check) as idle:
            listener = _Listener(idle)
            _measure(listener, options, console)
            listener.destroy_node()
    return NodeBenchRun(listener.records, listener.sent.rates(), listener.received.rates())


def _start(processes: Processes, options: NodeBenchOptions) -> None:
    nodes = 'vla_prune_ros.nodes'
    processes.start(
        'fake_robot',
        f'{nodes}.tools.fake_robot',
        ros_arguments(None, {'rate_hz': float(options.rate_hz)}),
    )
    processes.start(
        'vla_policy',
        f'{nodes}.policy.node',
        ros_arguments(
            'libero.yaml',
            # The URDF of libero.yaml comes with the simulator, which is not needed here.
            {
                'checkpoint': str(options.checkpoint),
                'autostart': True,
                'threads': 1,
                'motion_source': 'pose',
            },
            remap_inputs('fake_robot'),
        ),
    )


def _measure(listener: _Listener, options: NodeBenchOptions, console: Console) -> None:
    with Progress(console) as progress:
        progress.stage('loading')
        listener.wait(lambda: _settled(listener), 60.0)
        if listener.state('vla_policy') != 'RUNNING':
            status = listener.status('vla_policy')
            said = status.message if status else 'nothing; run it alone to see its log'
            what, _, remedy = said.rpartition('; ')
            raise VlaPruneError(f'vla_policy does not run, it says: {what}', remedy)
        progress.stage('warming up')
        listener.spin_for(WARM_UP_S)
        listener.measuring = True
        progress.stage('measuring', options.seconds)
        for half in range(max(1, round(options.seconds * 2))):
            listener.spin_for(0.5)
            progress.at((half + 1) / 2)
        listener.measuring = False
    if not listener.records:
        raise VlaPruneError('no inference was reported', 'measure longer with --seconds')


def _settled(listener: _Listener) -> bool:
    status = listener.status('vla_policy')
    return status is not None and (
        status.level == ERROR or listener.state('vla_policy') == 'RUNNING'
    )
