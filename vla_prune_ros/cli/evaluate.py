"""``vla-prune evaluate``: success of pruning methods in closed loop."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..errors import VlaPruneError
from ..sim.libero.suites import TRIALS_PER_TASK
from .common import add_command, add_machine, choose_policy, positive

if TYPE_CHECKING:
    from ..evaluate.closed_loop.run import EvaluateOptions, Evaluation

METHODS = ('dense', 'uniform:128', 'fastv:128', 'specprune')
_EPISODES = 200


def add_evaluate(commands: Any) -> None:
    """Declare the sub-command and its options."""
    evaluate = add_command(
        commands,
        'evaluate',
        _evaluate,
        'run pruning methods in closed loop on the same seeds and compare their success; the '
        'same command again goes on where it was interrupted',
    )
    evaluate.add_argument(
        'checkpoint',
        nargs='?',
        help="checkpoint folder, or 'org/name' of the hub (default: the package's reference "
        'policy, or an untrained one where that is not installed)',
    )
    evaluate.add_argument(
        '--methods',
        nargs='+',
        default=list(METHODS),
        metavar='METHOD',
        help='pruning methods; the others are compared with the first. METHOD@FOLDER takes '
        'weights of its own',
    )
    evaluate.add_argument(
        '--out',
        type=Path,
        default=Path('out/evaluate'),
        help='folder for episodes, pictures and videos; what it holds is not run again',
    )
    _add_task(evaluate)
    _add_machine(evaluate)


def _add_task(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group('task')
    group.add_argument('--simulator', default='two_cubes', help='which simulator')
    group.add_argument(
        '--tasks',
        nargs='+',
        metavar='TASK',
        help="names of the simulator's tasks; all: every one (default for two_cubes: pick_red "
        'pick_green, for a suite: all)',
    )
    group.add_argument(
        '--episodes',
        type=positive,
        help=f'episodes per method and task (default: {_EPISODES}; for a suite of LIBERO '
        f'{TRIALS_PER_TASK}, each fixed initial state once)',
    )
    group.add_argument(
        '--first-seed', type=int, default=0, help='seed of the first episode, the others count on'
    )
    group.add_argument(
        '--max-steps',
        type=positive,
        help="control steps per episode (default: the scene's own limit, else 150 for picking "
        'and 250 for other tasks)',
    )
    group.add_argument(
        '--instruction',
        default='',
        metavar='other|TEXT',
        help="tell the policy this instead of the task's words; other: the same with the colours "
        'swapped, which a policy that listens must fail',
    )
    group.add_argument(
        '--no-refresh',
        action='store_true',
        help='no dense look between queries, as on a robot that has no time for it',
    )


def _add_machine(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument('--profile', default='libero', help='robot profile')
    group = add_machine(evaluate)
    group.add_argument(
        '--videos',
        type=int,
        default=0,
        metavar='N',
        help='videos of the first N episodes per method and task, while they are run',
    )


def _evaluate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.closed_loop.progress import EvaluateProgress
    from ..evaluate.closed_loop.run import run_evaluate, stored

    wanted = _options(options, console)
    each = len(wanted.tasks) * wanted.episodes
    try:
        with EvaluateProgress(console, wanted.methods, each) as progress:
            evaluation = run_evaluate(wanted, progress.add)
    except KeyboardInterrupt:
        _report(stored(wanted), wanted.out, console)
        raise
    _report(evaluation, wanted.out, console)
    return evaluation.result


def _options(options: argparse.Namespace, console: Console) -> 'EvaluateOptions':
    from ..evaluate.closed_loop.episodes import Setting
    from ..evaluate.closed_loop.run import EvaluateOptions, task_names

    usual = _EPISODES if options.simulator == 'two_cubes' else TRIALS_PER_TASK
    setting = Setting(
        simulator=options.simulator,
        instruction=options.instruction,
        profile=options.profile,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        refresh=not options.no_refresh,
        max_steps=options.max_steps,
    )
    return EvaluateOptions(
        checkpoint=choose_policy(options.checkpoint, console),
        methods=tuple(options.methods),
        tasks=task_names(options.simulator, options.tasks or ()),
        episodes=options.episodes or usual,
        first_seed=options.first_seed,
        out=options.out,
        setting=setting,
        workers=options.workers,
        ray=options.ray,
        videos=options.videos,
        command=shlex.join(['vla-prune', *sys.argv[1:]]),
    )


def _report(evaluation: 'Evaluation', out: Path, console: Console) -> None:
    """Tables and notes on the console; the same, JSON and pictures in the folder."""
    import json

    from ..evaluate.closed_loop.tables import result_markdown, result_notes, result_tables
    from ..evaluate.figures import plot_modes, plot_success

    result = evaluation.result
    if not result['rows']:
        console.print('no episode yet')
        return
    for table in result_tables(result):
        console.print(table)
    for note in result_notes(result):
        console.print(note, markup=False, highlight=False)
    (out / 'result.json').write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    (out / 'result.md').write_text(result_markdown(result), encoding='utf-8')
    try:
        plot_success(result, out / 'success.png')
        plot_modes(evaluation.episodes, out / 'modes.png')
        console.print(f'{out}: result.json, result.md, success.png, modes.png', markup=False)
    except VlaPruneError as error:
        console.print(str(error), markup=False)
