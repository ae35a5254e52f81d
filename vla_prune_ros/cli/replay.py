"""``vla-prune replay``: what a policy would have done on recorded bags, pruned and not.

``vla-prune play``: a recorded bag for a live policy, without a ROS distribution.

``vla-prune record-demo``: a bag to try ``vla-prune replay`` on, from the simulator.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .common import add_command, add_machine, choose_policy, positive, require_ros

if TYPE_CHECKING:
    from ..evaluate.closed_loop.record_demo import RecordedEpisode, RecordOptions
    from ..evaluate.replay.run import ReplayOptions, ReplayRun
    from ..evaluate.replay.settings import ReplayRobot


METHODS = 'dense,specprune'
ACTIONS = ('auto', 'twist', 'pose_target', 'ee_pose', 'none')


def add_replay(commands: Any) -> None:
    """Declare the sub-command and its options."""
    replay = add_command(
        commands,
        'replay',
        _replay,
        'run a policy on recorded bags, offline: how far pruned and recorded actions are apart, '
        'as a page and as an MCAP bag',
    )
    replay.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='bag, or folder of bags')
    replay.add_argument(
        '--checkpoint',
        help="checkpoint folder, or 'org/name' of the hub (default: the package's reference "
        'policy)',
    )
    replay.add_argument('--profile', default='libero', help='robot profile')
    replay.add_argument(
        '--pruning',
        type=method_names,
        default=METHODS,
        metavar='METHODS',
        help='methods, separated by commas; the others are compared with dense; METHOD@FOLDER '
        'takes weights of its own',
    )
    replay.add_argument(
        '--topics', default='', metavar='FILE', help='YAML: stream -> topic (default: guessed)'
    )
    replay.add_argument(
        '--params',
        type=Path,
        metavar='FILE',
        help='parameter file of vla_policy: cameras, gripper, motion source, limits '
        "(default: the node's defaults)",
    )
    replay.add_argument('--instruction', help='the task until a bag names one')
    replay.add_argument(
        '--out',
        type=Path,
        default=Path('out/replay'),
        help='folder for results; the same command goes on where it was interrupted',
    )
    _add_reading(replay)
    _add_machine(replay)


def _add_reading(replay: argparse.ArgumentParser) -> None:
    group = replay.add_argument_group('how bags are read')
    group.add_argument(
        '--period',
        type=float,
        metavar='S',
        help='least time between two queries, 0 for one at every pair of images (default: the '
        "node's replan_period_s)",
    )
    group.add_argument(
        '--actions',
        default='auto',
        choices=ACTIONS,
        help='where recorded actions come from; auto: commands, else measured poses',
    )
    group.add_argument(
        '--gripper-closed',
        type=float,
        metavar='X',
        help='recorded position of the closed gripper (default: 0)',
    )
    group.add_argument(
        '--gripper-open',
        type=float,
        metavar='X',
        help='of the open one (default: 1 of commands, 0.04 m of a finger)',
    )
    group.add_argument(
        '--clock',
        default='auto',
        choices=('auto', 'receipt', 'header'),
        help='what ROS time is; auto: header where stamps and receipt are a minute apart',
    )
    group.add_argument(
        '--no-refresh',
        action='store_true',
        help='no dense look between queries, as on a robot that has no time for it',
    )


def _add_machine(replay: argparse.ArgumentParser) -> None:
    group = add_machine(replay)
    group.add_argument('--no-mcap', action='store_true', help='no MCAP bag of the predictions')


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
        raise argparse.ArgumentTypeError('name a method')
    return names


def _replay(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.replay.progress import ReplayProgress
    from ..evaluate.replay.run import run_replay

    wanted = _options_replay(options, console)
    with ReplayProgress(console) as progress:
        run = run_replay(wanted, progress)
    _report(run, wanted, console, mcap=not options.no_mcap)
    return run.result.to_json()


def _options_replay(options: argparse.Namespace, console: Console) -> 'ReplayOptions':
    from ..evaluate.replay.run import ReplayOptions
    from ..evaluate.replay.settings import ReplaySetting

    setting = ReplaySetting(
        profile=options.profile,
        device=options.device,
        dtype=options.dtype,
        robot=_robot(options),
        topics=options.topics,
        actions=options.actions,
        gripper_closed=options.gripper_closed,
        gripper_open=options.gripper_open,
        period_s=options.period,
        clock=options.clock,
        refresh=not options.no_refresh,
        threads=options.threads,
    )
    return ReplayOptions(
        bags=tuple(options.bags),
        checkpoint=choose_policy(options.checkpoint, console),
        methods=options.pruning,
        out=options.out,
        setting=setting,
        workers=options.workers,
        ray=options.ray,
        command=shlex.join(['vla-prune', *sys.argv[1:]]),
    )


def _robot(options: argparse.Namespace) -> 'ReplayRobot':
    from ..evaluate.replay.settings import ReplayRobot, load_robot

    robot = load_robot(options.params) if options.params else ReplayRobot()
    return (
        robot if options.instruction is None else replace(robot, instruction=options.instruction)
    )


def _report(run: 'ReplayRun', options: 'ReplayOptions', console: Console, mcap: bool) -> None:
    """Tables on the console; page, JSON and predictions in the folder."""
    from ..evaluate.replay.mcap_export import write_predictions
    from ..evaluate.replay.report import replay_html
    from ..evaluate.replay.table import replay_notes, replay_tables

    asked = any(row.queries for row in run.result.rows)
    for table in replay_tables(run.result) if asked else ():
        if table.row_count:
            console.print(table)
    for note in replay_notes(run.result):
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    out, setting = options.out, options.setting
    text = json.dumps(run.result.to_json(), indent=1)
    (out / 'report.json').write_text(text + '\n', encoding='utf-8')
    (out / 'report.html').write_text(replay_html(run.result), encoding='utf-8')
    written = ['report.html', 'report.json']
    dt_s = setting.load_profile().control_period_s
    for bag in run.bags if mcap else ():
        if bag.recording is not None:
            folder = out / 'predictions' / bag.name
            folder.parent.mkdir(parents=True, exist_ok=True)
            if write_predictions(folder, bag.recording, bag.answers, dt_s, setting.robot.frame_id):
                written.append(f'predictions/{bag.name}')
    console.print(f'{out}: {", ".join(written)}', markup=False, highlight=False, soft_wrap=True)


def add_play(commands: Any) -> None:
    """The sub-command."""
    play = add_command(
        commands, 'play', _play, 'publish a recorded bag in real time, as inputs of a live policy'
    )
    play.add_argument('bag', help='folder or file: rosbag2 (sqlite3, MCAP) or ROS 1')
    play.add_argument(
        '--topics',
        default='',
        metavar='FILE',
        help='YAML that names the topics of the bag; without it they are guessed by type and name',
    )
    play.add_argument('--profile', default='libero', help='libero, aloha, bridge or a YAML file')
    play.add_argument(
        '--target', default='/vla_policy', metavar='NAME', help='the node whose inputs are fed'
    )
    play.add_argument('--rate', type=float, default=1.0, help='recorded seconds per second')
    play.add_argument('--loop', action='store_true', help='begin again at the end, for ever')
    play.add_argument(
        '--start-offset', type=float, default=0.0, metavar='S', help='seconds that are left out'
    )
    play.add_argument(
        '--no-clock',
        action='store_true',
        help='without the time of the bag on /clock, which a policy with use_sim_time needs',
    )
    play.add_argument(
        '--restamp',
        action='store_true',
        help='shift header stamps to now, for a policy on wall time; needs --no-clock',
    )
    play.add_argument(
        '--wait',
        type=float,
        default=60.0,
        metavar='S',
        help='longest wait for the policy to subscribe; 0: none',
    )


def _play(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    require_ros()
    from ..nodes.tools.bag_player import play

    result = play(
        {
            'bag': options.bag,
            'topics': options.topics,
            'profile': options.profile,
            'target': options.target,
            'rate': options.rate,
            'loop': options.loop,
            'start_offset_s': options.start_offset,
            'clock': not options.no_clock,
            'restamp': options.restamp,
            'wait_for_subscribers_s': options.wait,
        }
    )
    if result['ok'] and not (result['finished'] or options.loop):
        raise KeyboardInterrupt
    return result


def add_record_demo(commands: Any) -> None:
    """Declare the sub-command and its options."""
    record = add_command(
        commands,
        'record-demo',
        _record_demo,
        'record a bag of the two-cube scene, with the topics of a robot; needs no ROS',
    )
    record.add_argument(
        '--out', type=Path, default=Path('out/demo-bag'), help='folder of the bag, made new'
    )
    record.add_argument('--overwrite', action='store_true', help='replace the bag that is there')
    record.add_argument(
        '--task', default='pick_red', help='task of the scene, as for vla-prune evaluate --tasks'
    )
    record.add_argument(
        '--episodes', type=positive, default=1, help='one behind the other, 2 s apart'
    )
    record.add_argument(
        '--driver',
        choices=('expert', 'policy'),
        default='expert',
        help='who moves the arm: the scripted expert, or a policy',
    )
    record.add_argument(
        '--checkpoint',
        help="of the policy that drives: a folder, or 'org/name' of the hub (default: the "
        "package's reference policy, or an untrained one where that is not installed)",
    )
    record.add_argument('--method', default='dense', help='how the policy that drives is pruned')
    record.add_argument('--seed', type=int, default=0, help='of the first episode')
    record.add_argument(
        '--steps',
        type=positive,
        help='control steps per episode at most, 20 per second (default: 150 for picking and 250 '
        'for other tasks)',
    )
    record.add_argument(
        '--size', type=positive, default=256, help='side of the pictures in pixels'
    )
    record.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    record.add_argument('--compressed', action='store_true', help='images as JPEG')


def _record_demo(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.closed_loop.record_demo import record_demo

    wanted = _options(options, console)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    hidden = not console.is_terminal  # there the lines of the episodes tell it all
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task('recording episodes', total=wanted.episodes)

        def done(episode: 'RecordedEpisode') -> None:
            bar.advance(task)
            how = 'solved' if episode.success else 'not solved'
            console.print(
                f'seed {episode.seed}, {episode.instruction!r}: {how} in {episode.steps} steps',
                highlight=False,
            )

        result = record_demo(wanted, done)
    _show(result, console)
    return result


def _options(options: argparse.Namespace, console: Console) -> 'RecordOptions':
    from ..evaluate.closed_loop.record_demo import RecordOptions

    checkpoint = options.checkpoint
    if options.driver == 'policy':
        checkpoint = choose_policy(checkpoint, console)
    return RecordOptions(
        out=options.out,
        task=options.task,
        episodes=options.episodes,
        driver=options.driver,
        seed=options.seed,
        steps=options.steps,
        size=options.size,
        storage=options.storage,
        compressed=options.compressed,
        overwrite=options.overwrite,
        checkpoint=checkpoint,
        method=options.method,
    )


def _show(result: dict[str, Any], console: Console) -> None:
    table = Table(*(Column(name, overflow='fold') for name in ('topic', 'type', 'messages')))
    for name, topic in result['topics'].items():
        table.add_row(name, topic['type'], str(topic['count']))
    console.print(table)
    console.print(
        f'{result["path"]}: {result["bytes"] / 1e6:.1f} MB, {result["seconds"]:.2f} s, recorded '
        f'in {result["wall_s"]:.1f} s',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print(f'next: {result["next"]}', highlight=False, markup=False, soft_wrap=True)
