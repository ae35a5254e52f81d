"""The commands: dataclasses whose fields are the options and whose docstring is the help.

They import what they need when they run, so that ``--help`` is instant.
"""

import os
import shlex
import sys
from argparse import ArgumentTypeError
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from ..config import from_arguments, option
from ..errors import ProfileError, VlaPruneError
from ..evaluate.options import (
    MACHINE,
    METHODS,
    NO_REFRESH,
    POLICY,
    CheckOptions,
    DtypeBenchOptions,
    EvaluateOptions,
    MachineOptions,
    PruningBenchOptions,
    RecordOptions,
    SimBenchOptions,
    WorkerOptions,
)
from ..runtime.progress import Progress
from . import output

_CORES = os.cpu_count() or 1


def this_command() -> str:
    return shlex.join(['vla-prune', *sys.argv[1:]])


@dataclass(frozen=True)
class Demo:
    """run simulator, policy and executor and print what was measured"""

    checkpoint: str | None = option(None, POLICY)
    out: Path = option(Path('out/demo'), 'folder for video, JSON and logs')
    methods: tuple[str, ...] = option(METHODS, flags={'metavar': 'METHOD'})
    episodes: int = option(2, 'episodes per method', low=1)
    steps: int = option(120, 'control steps per episode, 20 per second', low=1)
    real_time_factor: float = option(1.0, '0: as fast as possible')
    seed: int = option(0)

    def run(self, console: Console) -> Any:
        output.require_ros()
        from ..evaluate.demo import report_demo
        from ..evaluate.video import VideoWriter
        from ..nodes.tools.demo import DemoOptions, run_demo
        from ..sim.rendering import apply_gl

        checkpoint = output.choose_policy(self.checkpoint, console)
        apply_gl()  # fail here, with the remedy, and not in a child's log
        options = from_arguments(DemoOptions, self, checkpoint=checkpoint)
        with VideoWriter(self.out / 'demo.mp4', fps=5.0) as video:
            runs, about = run_demo(options, console, video.add)
        return report_demo(runs, about, video, self.out, console)


@dataclass(frozen=True)
class Check(CheckOptions):
    """load a checkpoint and probe it for silent mistakes"""

    def run(self, console: Console) -> Any:
        from ..evaluate.check import check_checkpoint, check_report

        try:
            result = check_checkpoint(self, lambda text: console.print(text, markup=False))
        except VlaPruneError as error:  # one line here, and the same in the JSON
            print(f'error: {error}', file=sys.stderr)
            return {'ok': False, 'error': str(error)}
        output.show(console, *check_report(result))
        return result


@dataclass(frozen=True)
class MakeCheckpoint:
    """write a seeded, untrained checkpoint in the published layout"""

    folder: Path = option(flags={'positional': True})
    preset: str = option('demo', 'size of the model', choices=('demo', 'micro'))
    seed: int = option(0, 'of the weights')

    def run(self, console: Console) -> Any:
        from ..model.synthetic import make_checkpoint

        folder = make_checkpoint(self.folder, self.preset, self.seed)
        console.print(f'untrained checkpoint ({self.preset}, seed {self.seed}) in {folder}')
        return {**asdict(self), 'folder': str(folder), 'trained': False}


@dataclass(frozen=True)
class Bench(PruningBenchOptions, SimBenchOptions, DtypeBenchOptions):
    """measure; --node: the ROS 2 node with two 640x480 cameras; --dtypes: types of weights;
    --pruning: pruning methods; --curve: tokens, cameras and chunks; --sim: the simulator"""

    node: bool = option(False, 'node overhead and received rates', flags={'exclusive': True})
    curve: bool = option(
        False,
        'time of the policy over visual tokens, cameras and steps of the chunk',
        flags={'exclusive': True},
    )
    sim: bool = option(
        False, 'control steps per second of the two-cube scene', flags={'exclusive': True}
    )
    seconds: float = option(15.0, 'time measured after the warm-up (--node)')
    rate_hz: float = option(30.0, 'frames per second and camera', flags={'flag': '--rate'})
    transport_profile: bool = option(
        True, "measure with the middleware's defaults, to see what the profile is for"
    )
    plot: Path | None = option(
        None,
        'figure, .png or .svg',
        flags={'group': '--pruning and --curve', 'metavar': 'FILE'},
    )

    # What is measured -> module, and its functions that measure, show and draw.
    BENCHES: ClassVar = {
        'pruning': ('pruning', 'run_pruning_bench', 'pruning_report', 'plot_stages'),
        'curve': ('curve', 'run_cost_curve', 'curve_report', 'plot_curve'),
        'dtypes': ('dtype', 'run_dtype_bench', 'dtype_report', ''),
        'sim': ('simulator', 'run_sim_bench', 'sim_report', ''),
    }

    def run(self, console: Console) -> Any:
        if self.node:
            return self._run_node(console)
        asked = {'dtypes': self.dtypes, 'sim': self.sim, 'curve': self.curve}
        kind = next((kind for kind, given in asked.items() if given), 'pruning')
        checkpoint = self.checkpoint
        if checkpoint is not None or kind == 'dtypes':
            checkpoint = output.choose_checkpoint(checkpoint, 'demo', console)
        module, measure, report, plot = self.BENCHES[kind]
        bench = import_module(f'..evaluate.bench.{module}', __package__)
        with Progress(console) as progress:
            progress.stage(f'bench --{kind}')
            options = replace(self, checkpoint=checkpoint)
            result = getattr(bench, measure)(options, progress.note)
        output.show(console, *getattr(bench, report)(result))
        if self.plot and plot:
            getattr(bench, plot)(result, self.plot)
        return result

    def _run_node(self, console: Console) -> Any:
        output.require_ros()
        from ..evaluate.demo import node_report, node_result
        from ..nodes.tools.bench_harness import NodeBenchOptions, run_node_bench

        checkpoint = output.choose_checkpoint(self.checkpoint, 'micro', console)
        run = run_node_bench(
            from_arguments(NodeBenchOptions, self, checkpoint=checkpoint), console
        )
        result = node_result(
            run.records,
            asked_hz=self.rate_hz,
            sent_hz=run.sent_hz,
            received_hz=run.received_hz,
            transport_profile=self.transport_profile,
        )
        output.show(console, *node_report(result))
        return result


@dataclass(frozen=True)
class Evaluate(EvaluateOptions):
    """run pruning methods in closed loop on the same seeds and compare their success; the same
    command again goes on where it was interrupted"""

    def run(self, console: Console) -> Any:
        from ..evaluate.closed_loop.run import (
            count_episodes,
            report_evaluation,
            run_evaluate,
            stored,
            task_names,
        )
        from ..sim.libero.suites import TRIALS_PER_TASK

        usual = 200 if self.simulator == 'two_cubes' else TRIALS_PER_TASK
        wanted = replace(
            self,
            checkpoint=output.choose_policy(self.checkpoint, console),
            tasks=task_names(self.simulator, self.tasks),
            episodes=self.episodes or usual,
            command=this_command(),
        )
        try:
            with Progress(console) as progress:
                evaluation = run_evaluate(wanted, count_episodes(progress, wanted))
        except KeyboardInterrupt:
            report_evaluation(stored(wanted), wanted.out, console)
            raise
        report_evaluation(evaluation, wanted.out, console)
        return evaluation.result


@dataclass(frozen=True)
class RecordDemo(RecordOptions):
    """record a bag of the two-cube scene, with the topics of a robot; needs no ROS"""

    def run(self, console: Console) -> Any:
        from ..evaluate.closed_loop.record_demo import record_demo

        checkpoint = self.checkpoint
        if self.driver == 'policy':
            checkpoint = output.choose_policy(checkpoint, console)
        with Progress(console) as progress:
            progress.stage('recording episodes', self.episodes)

            def done(episode: Any) -> None:
                progress.at(episode.seed - self.seed + 1)
                how = 'solved' if episode.success else 'not solved'
                progress.say(
                    f'seed {episode.seed}, {episode.instruction!r}: {how} in {episode.steps} steps'
                )

            result = record_demo(replace(self, checkpoint=checkpoint), done)
        output.show_bag(result, console)
        return result


def method_names(text: str) -> tuple[str, ...]:
    """Methods between commas; those inside braces and of budgets (``uniform:128,64``) stay."""
    out: list[str] = []
    for part in text.split(','):
        inside = out and (out[-1].count('{') > out[-1].count('}') or part.strip().isdigit())
        if inside:
            out[-1] += f',{part}'
        else:
            out.append(part)
    names = tuple(name.strip() for name in out if name.strip())
    if not names:
        raise ArgumentTypeError('name a method')
    return names


_READING = {'group': 'how bags are read'}


@dataclass(frozen=True, kw_only=True)
class Replay(MachineOptions, WorkerOptions):
    """run a policy on recorded bags, offline: how far pruned and recorded actions are apart, as a
    page and as an MCAP bag"""

    bags: tuple[Path, ...] = option(
        doc='bag, or folder of bags', flags={'positional': True, 'metavar': 'BAG'}
    )
    checkpoint: str | None = option(
        None,
        "checkpoint folder, or 'org/name' of the hub (default: the package's reference policy)",
    )
    profile: str = option('libero', 'robot profile')
    methods: Any = option(
        'dense,specprune',
        'methods, separated by commas; the others are compared with dense; METHOD@FOLDER takes '
        'weights of its own',
        flags={'flag': '--pruning', 'type': method_names, 'metavar': 'METHODS'},
    )
    topics: str = option('', 'YAML: stream -> topic (default: guessed)', flags={'metavar': 'FILE'})
    params: Path | None = option(
        None,
        'parameter file of vla_policy: cameras, gripper, motion source, limits (default: the '
        "node's defaults)",
        flags={'metavar': 'FILE'},
    )
    instruction: str | None = option(None, 'the task until a bag names one')
    out: Path = option(
        Path('out/replay'),
        'folder for results; the same command goes on where it was interrupted',
    )
    period_s: float | None = option(
        None,
        'least time between two queries, 0 for one at every pair of images (default: the '
        "node's replan_period_s)",
        flags=_READING | {'flag': '--period', 'metavar': 'S'},
    )
    actions: str = option(
        'auto',
        'where recorded actions come from; auto: commands, else measured poses',
        choices=('auto', 'twist', 'pose_target', 'ee_pose', 'none'),
        flags=_READING,
    )
    gripper_closed: float | None = option(
        None,
        'recorded position of the closed gripper (default: 0)',
        flags=_READING | {'metavar': 'X'},
    )
    gripper_open: float | None = option(
        None,
        'of the open one (default: 1 of commands, 0.04 m of a finger)',
        flags=_READING | {'metavar': 'X'},
    )
    clock: str = option(
        'auto',
        'what ROS time is; auto: header where stamps and receipt are a minute apart',
        choices=('auto', 'receipt', 'header'),
        flags=_READING,
    )
    refresh: bool = option(True, NO_REFRESH, flags=_READING)
    mcap: bool = option(True, 'no MCAP bag of the predictions', flags=MACHINE)

    def run(self, console: Console) -> Any:
        from ..evaluate.replay.run import ReplayOptions, ReplayProgress, run_replay
        from ..evaluate.replay.scan import ReplaySetting
        from ..runtime.params import SessionParams, load_params

        robot = load_params(self.params) if self.params else SessionParams()
        if self.instruction is not None:
            robot = replace(robot, instruction=self.instruction)
        options = from_arguments(
            ReplayOptions,
            self,
            checkpoint=output.choose_policy(self.checkpoint, console),
            setting=from_arguments(ReplaySetting, self, robot=robot),
            command=this_command(),
        )
        with ReplayProgress(console) as progress:
            run = run_replay(options, progress)
        output.report_replay(run, options, console, mcap=self.mcap)
        return run.result.to_json()


@dataclass(frozen=True)
class Play:
    """publish a recorded bag in real time, as inputs of a live policy"""

    bag: str = option(
        doc='folder or file: rosbag2 (sqlite3, MCAP) or ROS 1', flags={'positional': True}
    )
    topics: str = option(
        '',
        'YAML that names the topics of the bag; without it they are guessed by type and name',
        flags={'metavar': 'FILE'},
    )
    profile: str = option('libero', 'libero, aloha, bridge or a YAML file')
    target: str = option('/vla_policy', 'the node whose inputs are fed', flags={'metavar': 'NAME'})
    rate: float = option(1.0, 'recorded seconds per second')
    loop: bool = option(False, 'begin again at the end, for ever')
    start_offset_s: float = option(
        0.0, 'seconds that are left out', flags={'flag': '--start-offset', 'metavar': 'S'}
    )
    clock: bool = option(
        True,
        'without the time of the bag on /clock, which a policy with use_sim_time needs',
    )
    restamp: bool = option(
        False, 'shift header stamps to now, for a policy on wall time; needs --no-clock'
    )
    wait_for_subscribers_s: float = option(
        60.0,
        'longest wait for the policy to subscribe; 0: none',
        flags={'flag': '--wait', 'metavar': 'S'},
    )

    def run(self, console: Console) -> Any:
        output.require_ros()
        from ..nodes.tools.bag_player import play

        result = play(asdict(self))
        if result['ok'] and not (result['finished'] or self.loop):
            raise KeyboardInterrupt
        return result


# --- train ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainReference:
    """a small OpenVLA-OFT that solves the two-cube tasks: records demonstrations of the scripted
    expert, trains, and corrects itself on policy; goes on where it was interrupted"""

    out: Path = option(Path('out/reference/checkpoint'))
    work: Path = option(Path('out/reference'), 'episodes and unfinished states')
    demonstrations: int = option(1200, 'episodes', low=1)
    steps: int = option(3000, 'optimiser steps', low=1)
    corrections: tuple[int, ...] = option(
        (240, 240),
        'episodes of each round of on-policy correction',
        low=1,
        flags={'nargs': '*', 'metavar': 'EPISODES'},
    )
    correction_steps: int = option(2000, low=1)
    checks: int = option(60, 'episodes that measure success in between', low=1)
    workers: int = option(_CORES, 'processes of the simulator', low=1)
    seed: int = option(0)
    device: str = option('cpu', 'torch device that trains')

    def run(self, console: Console) -> Any:
        from ..sim.rendering import apply_gl
        from ..train.reference import FURTHER_LR, Plan, Recipe, train_reference

        apply_gl()  # fail here, with the remedy, and not in a worker
        plan = from_arguments(
            Plan,
            self,
            first=Recipe(self.steps),
            further=Recipe(self.correction_steps, lr=FURTHER_LR),
        )
        with Progress(console) as progress:
            about = train_reference(plan, self.out, progress)
        for entry in about['history']:
            if 'success' in entry:
                console.print(f'{entry["stage"]}:', entry['success'])
        console.print(f'checkpoint in {self.out}')
        return {'checkpoint': str(self.out), **about}


@dataclass(frozen=True)
class TrainLightVla:
    """a policy that learns which visual tokens to keep (LightVLA, and LightVLA* with learned
    queries); goes on where it was interrupted; several GPUs: accelerate launch -m
    vla_prune_ros.cli train lightvla ..."""

    config: Path = option(doc='YAML, see docs/training.md', flags={'metavar': 'FILE'})
    device: str | None = option(None, 'torch device; default: what accelerate chooses')
    kind: ClassVar = 'lightvla'

    def run(self, console: Console) -> Any:
        from ..train.config import read_settings
        from ..train.finetune import FineTuner

        methods = {'lightvla': 'lightvla', 'scorer': 'vla_acl'}  # command -> method in the file
        settings = read_settings(self.config)
        method = settings.train.method
        if method != methods[self.kind]:
            (other,) = (kind for kind, name in methods.items() if name == method)
            raise ProfileError(
                f'{self.config}: train.method is {method!r}, not {methods[self.kind]!r}',
                f'run vla-prune train {other}',
            )
        tuner = FineTuner(settings, self.device)
        # Every process of accelerate runs this; one of them reports.
        console.quiet = not tuner.accelerator.is_main_process
        with Progress(console) as progress:
            progress.stage(f'training {self.kind}', settings.steps)
            result = tuner.run(
                lambda step, metrics: progress.at(
                    step, '  '.join(f'{k} {v:.4g}' for k, v in metrics.items() if k != 'lr')
                )
            )
        made = 'checkpoint' if self.kind == 'lightvla' else 'scorer'
        console.print(f'{made} in {settings.out}')
        return {'out': str(settings.out), **result}


@dataclass(frozen=True)
class TrainScorer(TrainLightVla):
    """a small network that scores the visual tokens of a policy that stays as it is (VLA-ACL);
    goes on where it was interrupted"""

    kind: ClassVar = 'scorer'


@dataclass(frozen=True, kw_only=True)
class TrainCorrections:
    """record episodes of a policy, pruned as it will run, with what the scripted expert would
    have done (DAgger): further data for vla-prune train lightvla; two-cube scene; goes on where
    it was interrupted"""

    checkpoint: Path = option(doc='folder', flags={'positional': True})
    pruning: str = option('dense', 'method that the policy runs with')
    out: Path = option(doc='folder of the episodes')
    episodes: int = option(240, low=1)
    tasks: tuple[str, ...] = option(('all',), 'names of tasks, or all; in turn')
    first_seed: int = option(
        2_300_000,
        'evaluation counts from 0, the reference policy was corrected at 2 100 000 and more',
        low=1,
    )
    workers: int = option(_CORES, 'processes of the simulator', low=1)

    def run(self, console: Console) -> Any:
        from ..sim.rendering import apply_gl
        from ..sim.two_cubes import TASKS
        from ..train.collect import Collection, collect, episodes, seeds_of

        names = tuple(TASKS) if self.tasks == ('all',) else self.tasks
        for name in names:
            if name not in TASKS:
                raise ProfileError(f'task {name!r} is unknown', f'use all, or of {list(TASKS)}')
        apply_gl()  # fail here, with the remedy, and not in a worker
        seeds = seeds_of(names, self.first_seed, self.episodes)
        wanted = Collection(self.out, seeds, self.checkpoint, self.pruning)
        with Progress(console) as progress:
            progress.stage('recording corrections', len(seeds))
            collect(wanted, self.workers, progress.at)
        kept = len(episodes(self.out, seeds))
        console.print(f'{kept} episodes in {self.out}')
        return {'out': str(self.out), 'episodes': kept}


COMMANDS = {
    'demo': Demo,
    'check': Check,
    'make-checkpoint': MakeCheckpoint,
    'bench': Bench,
    'evaluate': Evaluate,
    'play': Play,
    'record-demo': RecordDemo,
    'replay': Replay,
}
TRAININGS = {
    'reference': TrainReference,
    'lightvla': TrainLightVla,
    'scorer': TrainScorer,
    'corrections': TrainCorrections,
}
