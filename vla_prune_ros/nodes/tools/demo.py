"""``vla-prune demo``: simulator, policy and executor as three processes, measured."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from ...errors import VlaPruneError
from ...records import MethodRun
from ...runtime.messages import status_values, to_ns
from ...runtime.processes import Processes
from ...runtime.progress import Progress
from ..client import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Client
from ..interface import command, sensor_data
from ..process import ros_context
from .environment import local_environment, remap_inputs, start_node

CAMERAS = ('primary', 'wrist')
REHEARSAL_S = 30.0
Images = list[np.ndarray]


@dataclass(frozen=True)
class DemoOptions:
    """:param steps: control steps per episode, 20 per simulated second."""

    checkpoint: Path
    out: Path
    methods: tuple[str, ...]
    episodes: int
    steps: int
    real_time_factor: float
    seed: int


class Recorder(Client):
    def __init__(self, idle: Callable[[], None], on_images: Callable[[Images], None]) -> None:
        super().__init__('demo', idle)
        self.run: MethodRun | None = None
        self.episode: dict[str, str] = {}
        self.about: dict[str, str] = {}
        self._on_images = on_images
        self._images: dict[int, dict[str, np.ndarray]] = {}
        listen = self.create_subscription
        listen(DiagnosticArray, '/vla_policy/inference', self._on_inference, sensor_data(50))
        listen(JointTrajectory, '/vla_policy/action_chunk', self._on_chunk, command())
        listen(DiagnosticArray, '/simulator/episode', self._on_episode, sensor_data(10))
        for camera in CAMERAS:
            listen(
                CompressedImage,
                f'/vla_policy/overlay/{camera}',
                lambda m, c=camera: self._on_overlay(m, c),
                sensor_data(10),
            )
        for node in ('vla_policy', 'chunk_executor'):
            self.watch(node)

    def _on_inference(self, message: DiagnosticArray) -> None:
        if self.run is not None:
            self.run.records.append(status_values(message.status[0]))

    def _on_chunk(self, message: JointTrajectory) -> None:
        if self.run is not None:
            self.run.chunks += 1

    def _on_episode(self, message: DiagnosticArray) -> None:
        self.episode = status_values(message.status[0])

    def _on_overlay(self, message: CompressedImage, camera: str) -> None:
        stamp = to_ns(message.header.stamp)
        bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        images = self._images.setdefault(stamp, {})
        images[camera] = bgr[..., ::-1]
        if len(images) == len(CAMERAS):
            self._on_images([images[c] for c in CAMERAS])
            self._images = {s: p for s, p in self._images.items() if s > stamp}


def run_demo(
    options: DemoOptions, console: Console, on_images: Callable[[Images], None]
) -> tuple[list[MethodRun], dict[str, str]]:
    """Run all methods; what was recorded of each, and the policy's own status values.

    :param on_images: takes the overlays of each query, uint8 (224, 224, 3) RGB per camera.
    :raises VlaPruneError: a process ended or a node refused, with its message.
    """
    env = local_environment()
    os.environ.update(env)  # this process talks to the others
    with Processes(options.out / 'logs', env) as processes:
        _start(processes, options)
        with ros_context(processes.check) as idle:
            recorder = Recorder(idle, on_images)
            with Progress(console) as progress:
                progress.stage('starting simulator, policy and executor')
                _expect(recorder, lambda: bool(recorder.episode), 60.0, 'simulator')
                _expect(recorder, lambda: recorder.state('vla_policy') != '', 60.0, 'vla_policy')
                runs = [_run_method(recorder, options, m, progress) for m in options.methods]
            recorder.destroy_node()
    return runs, recorder.about


def _start(processes: Processes, options: DemoOptions) -> None:
    scene = {'seed': options.seed, 'real_time_factor': options.real_time_factor}
    start_node(processes, 'simulator', 'simulator.yaml', scene)
    policy = {'checkpoint': str(options.checkpoint), 'use_sim_time': True}
    start_node(processes, 'vla_policy', 'libero.yaml', policy, remap_inputs('simulator'))
    remaps = [f'~/{t}:=/simulator/{t}' for t in ('ee_pose', 'twist', 'gripper')]
    start_node(
        processes,
        'chunk_executor',
        'libero.yaml',
        {'output': 'twist', 'use_sim_time': True},
        ['~/action_chunk:=/vla_policy/action_chunk', *remaps],
    )


def _run_method(
    recorder: Recorder, options: DemoOptions, method: str, progress: Progress
) -> MethodRun:
    """All episodes of one pruning method, from loading the checkpoint to giving it back."""
    progress.stage(method, options.episodes * options.steps)
    progress.at(0, 'loading the checkpoint')
    _load(recorder, method)
    progress.at(0, 'waiting for all to find each other')
    _rehearse(recorder)
    recorder.set_parameter('simulator', 'seed', options.seed)  # the same scenes for each method
    run = MethodRun(method)
    for episode in range(options.episodes):

        def at_step(step: int, before: int = episode * options.steps) -> None:
            state = recorder.state('vla_policy').lower()
            done = f'{len(run.records)} queries, {run.moved_m:.2f} m'
            progress.at(before + step, f'{state}, {done}')

        _episode(recorder, run, options.steps, at_step)
    for transition in (DEACTIVATE, CLEANUP):
        recorder.change_state('vla_policy', transition)
    return run


def _expect(recorder: Recorder, done: Callable[[], bool], seconds: float, node: str) -> None:
    if not recorder.wait(done, seconds):
        message = recorder.message('vla_policy')
        reason = f' (vla_policy: {message})' if message else ''
        raise VlaPruneError(
            f'{node} gave no sign within {seconds:g} s{reason}', f'see logs/{node}.log'
        )


def _load(recorder: Recorder, method: str) -> None:
    refused = recorder.set_parameter('vla_policy', 'pruning', method)
    if not refused and recorder.change_state('vla_policy', CONFIGURE):
        recorder.change_state('vla_policy', ACTIVATE)
        recorder.about = recorder.values('vla_policy')
        return
    recorder.spin_for(0.5)  # the status that says why
    raise VlaPruneError(
        refused or recorder.message('vla_policy') or 'vla_policy did not configure',
        'see logs/vla_policy.log',
    )


def _rehearse(recorder: Recorder) -> None:
    """Run until a chunk moves the arm: an episode that began before the executor had found the
    policy's new publishers would be counted as a failure of the policy. What keeps all chunks away
    is reported by the episode that follows."""
    _reset_and_arm(recorder)
    recorder.wait(lambda: recorder.state('chunk_executor') == 'MOVING', REHEARSAL_S)
    recorder.set_bool('/chunk_executor/arm', False)


def _reset_and_arm(recorder: Recorder) -> str:
    """The number of the episode that begins."""
    number = recorder.trigger('/simulator/reset').split()[1]
    recorder.trigger('/vla_policy/reset')
    recorder.set_bool('/chunk_executor/arm', True)
    return number


def _episode(
    recorder: Recorder, run: MethodRun, steps: int, at_step: Callable[[int], None]
) -> None:
    """One episode: a fresh scene, the arm armed, until success or the last step."""
    number = _reset_and_arm(recorder)
    recorder.run = run
    before = run.moved_m

    def over() -> bool:
        step = int(recorder.episode['step'])
        run.moved_m = before + float(recorder.episode['moved_m'])
        at_step(min(step, steps))
        return step >= steps or recorder.episode['success'] == 'true'

    _expect(recorder, lambda: recorder.episode['episode'] == number, 10.0, 'simulator')
    _expect(recorder, over, 60.0 + steps, 'simulator')
    recorder.set_bool('/chunk_executor/arm', False)
    recorder.run = None
    if not run.chunks:
        message = recorder.message('vla_policy') or 'silent'
        raise VlaPruneError(
            f'{run.method}: no chunk came (vla_policy: {message})', 'see logs/vla_policy.log'
        )
    run.episodes += 1
    run.successes += recorder.episode['success'] == 'true'
