"""``vla-prune replay``: what a policy would have done on recorded bags, pruned and not."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .common import add_command, add_machine, choose_policy

if TYPE_CHECKING:
    from ..evaluate.replay import ReplayOptions, ReplayRun
    from ..evaluate.replay_robot import ReplayRobot

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
    from ..evaluate.replay import run_replay
    from ..evaluate.replay_progress import ReplayProgress

    wanted = _options(options, console)
    with ReplayProgress(console) as progress:
        run = run_replay(wanted, progress)
    _report(run, wanted, console, mcap=not options.no_mcap)
    return run.result


def _options(options: argparse.Namespace, console: Console) -> 'ReplayOptions':
    from ..evaluate.replay import ReplayOptions
    from ..evaluate.replay_setting import ReplaySetting

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
    from ..evaluate.replay_robot import ReplayRobot, load_robot

    robot = load_robot(options.params) if options.params else ReplayRobot()
    return (
        robot if options.instruction is None else replace(robot, instruction=options.instruction)
    )


def _report(run: 'ReplayRun', options: 'ReplayOptions', console: Console, mcap: bool) -> None:
    """Tables on the console; page, JSON and predictions in the folder."""
    from ..evaluate.replay_html import replay_html
    from ..evaluate.replay_mcap import write_predictions
    from ..evaluate.replay_table import replay_notes, replay_tables

    asked = any(row['queries'] for row in run.result['rows'])
    for table in replay_tables(run.result) if asked else ():
        if table.row_count:
            console.print(table)
    for note in replay_notes(run.result):
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    out, setting = options.out, options.setting
    text = json.dumps(run.result, indent=1)
    (out / 'report.json').write_text(text + '\n', encoding='utf-8')
    (out / 'report.html').write_text(replay_html(json.loads(text)), encoding='utf-8')
    written = ['report.html', 'report.json']
    dt_s = setting.load_profile().control_period_s
    for bag in run.bags if mcap else ():
        if bag.recording is not None:
            folder = out / 'predictions' / bag.name
            folder.parent.mkdir(parents=True, exist_ok=True)
            if write_predictions(folder, bag.recording, bag.answers, dt_s, setting.robot.frame_id):
                written.append(f'predictions/{bag.name}')
    console.print(f'{out}: {", ".join(written)}', markup=False, highlight=False, soft_wrap=True)
