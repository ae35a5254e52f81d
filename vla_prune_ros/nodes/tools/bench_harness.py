"""``vla-prune bench --node``: the node's cost beside the policy, and whether images arrive."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console

from ...errors import VlaPruneError
from ...runtime.messages import status_values, to_ns
from ...runtime.processes import Processes
from ...runtime.progress import Progress
from ..client import Client
from ..interface import sensor_data
from ..process import ros_context
from ..status import ERROR
from .environment import local_environment, remap_inputs, start_node
from .fake_robot import CAMERAS

WARM_UP_S = 3.0


@dataclass(frozen=True)
class NodeBenchOptions:
    """
    :param rate_hz: frames per second and camera, 640 x 480 x 3.
    :param transport_profile: False shows the middleware's defaults.
    """

    checkpoint: Path
    seconds: float
    rate_hz: float
    transport_profile: bool


class _Counter:
    """Running counts of messages with their stamps: a mean rate without an own clock."""

    def __init__(self) -> None:
        self._reports: list[tuple[int, dict[str, int]]] = []

    def add(self, stamp: Any, values: Mapping[str, str], suffix: str = '') -> None:
        self._reports.append((to_ns(stamp), {c: int(values[f'{c}{suffix}']) for c in CAMERAS}))

    def rates(self) -> dict[str, float]:
        """Camera -> messages per second between the first and the last report."""
        if len(self._reports) < 2:
            return dict.fromkeys(CAMERAS, 0.0)
        (begin_ns, first), *_, (end_ns, last) = self._reports
        return {c: 1e9 * (last[c] - first[c]) / (end_ns - begin_ns) for c in CAMERAS}


class _Listener(Client):
    def __init__(self, idle: Callable[[], None]) -> None:
        super().__init__('node_bench', idle)
        self.records: list[dict[str, str]] = []
        self.measuring = False
        self.sent, self.received = _Counter(), _Counter()
        self.watch('vla_policy')
        listen = self.create_subscription
        listen(DiagnosticArray, '/vla_policy/inference', self._on_inference, sensor_data(50))
        listen(DiagnosticArray, '/fake_robot/published', self._on_published, 10)
        listen(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_inference(self, message: DiagnosticArray) -> None:
        if self.measuring:
            self.records.append(status_values(message.status[0]))

    def _on_published(self, message: DiagnosticArray) -> None:
        if self.measuring:
            self.sent.add(message.header.stamp, status_values(message.status[0]))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        status = next((s for s in message.status if s.name == 'vla_policy: inputs'), None)
        if self.measuring and status is not None:
            self.received.add(message.header.stamp, status_values(status), '_received')


@dataclass(frozen=True)
class NodeBenchRun:
    """
    :param records: values of ``~/inference``, one mapping per query.
    :param sent_hz: camera -> images published per second; ``received_hz`` likewise in the node.
    """

    records: list[dict[str, str]]
    sent_hz: dict[str, float]
    received_hz: dict[str, float]


def run_node_bench(options: NodeBenchOptions, console: Console) -> NodeBenchRun:
    """:raises VlaPruneError: a process ended, or no inference came."""
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
    start_node(processes, 'fake_robot', None, {'rate_hz': float(options.rate_hz)})
    policy = {
        'checkpoint': str(options.checkpoint),
        'autostart': True,
        'threads': 1,
        'motion_source': 'pose',  # the URDF of libero.yaml comes with the simulator
    }
    start_node(processes, 'vla_policy', 'libero.yaml', policy, remap_inputs('fake_robot'))


def _measure(listener: _Listener, options: NodeBenchOptions, console: Console) -> None:
    with Progress(console) as progress:
        progress.stage('loading')
        listener.wait(lambda: _settled(listener), 60.0)
        if listener.state('vla_policy') != 'RUNNING':
            nothing = 'nothing; run it alone to see its log'
            what, _, remedy = (listener.message('vla_policy') or nothing).rpartition('; ')
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
