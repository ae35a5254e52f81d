"""``vla-prune train corrections``: where a policy goes wrong, and what the expert does there."""

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ProfileError
from ..runtime.line_log import LineLog
from .common import add_command, positive


def add_corrections(kinds: Any) -> None:
    """The sub-command."""
    command = add_command(
        kinds,
        'corrections',
        _corrections,
        'record episodes of a policy, pruned as it will run, with what the scripted expert would '
        'have done (DAgger): further data for vla-prune train lightvla; two-cube scene; goes on '
        'where it was interrupted',
    )
    command.add_argument('checkpoint', type=Path, help='folder')
    command.add_argument('--pruning', default='dense', help='method that the policy runs with')
    command.add_argument('--out', type=Path, required=True, help='folder of the episodes')
    command.add_argument('--episodes', type=positive, default=240)
    command.add_argument(
        '--tasks', nargs='+', default=['all'], help='names of tasks, or all; in turn'
    )
    command.add_argument(
        '--first-seed',
        type=positive,
        default=2_300_000,
        help='evaluation counts from 0, the reference policy was corrected at 2 100 000 and more',
    )
    command.add_argument(
        '--workers', type=positive, default=os.cpu_count() or 1, help='processes of the simulator'
    )


def _corrections(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..sim.rendering import apply_gl
    from ..train.collect import Collection, collect, episodes, seeds_of

    names = _tasks(options.tasks)
    apply_gl()  # fail here, with the mend, and not in a worker
    seeds = seeds_of(names, options.first_seed, options.episodes)
    wanted = Collection(options.out, seeds, options.checkpoint, options.pruning)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(20),
        TextColumn('{task.completed:.0f}/{task.total:.0f}'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task('recording corrections', total=len(seeds))
        log = LineLog(console, 60.0)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done)
            log.show(f'{done} of {total} episodes')

        collect(wanted, options.workers, report)
    kept = len(episodes(options.out, seeds))
    console.print(f'{kept} episodes in {options.out}')
    return {'out': str(options.out), 'episodes': kept}


def _tasks(given: list[str]) -> tuple[str, ...]:
    from ..sim.tasks import TASKS

    if given == ['all']:
        return tuple(TASKS)
    for name in given:
        if name not in TASKS:
            raise ProfileError(f'task {name!r} is unknown', f'use all, or of {list(TASKS)}')
    return tuple(given)
