"""``vla-prune train``: policies that are trained here."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..runtime.line_log import LineLog
from .common import add_command, positive
from .corrections import add_corrections
from .finetune import add_finetuning

if TYPE_CHECKING:
    from ..train.reference import Plan


def add_train(commands: Any) -> None:
    """The sub-command and what it can train."""
    train = commands.add_parser('train', help='train a policy', description='Train a policy.')
    kinds = train.add_subparsers(dest='kind', required=True, metavar='KIND')
    reference = add_command(
        kinds,
        'reference',
        _reference,
        'a small OpenVLA-OFT that solves the two-cube tasks: records demonstrations of the '
        'scripted expert, trains, and corrects itself on policy; goes on where it was interrupted',
    )
    reference.add_argument('--out', type=Path, default=Path('out/reference/checkpoint'))
    reference.add_argument(
        '--work', type=Path, default=Path('out/reference'), help='episodes and unfinished states'
    )
    reference.add_argument('--demonstrations', type=positive, default=1200, help='episodes')
    reference.add_argument('--steps', type=positive, default=3000, help='optimiser steps')
    reference.add_argument(
        '--corrections',
        type=positive,
        nargs='*',
        default=[240, 240],
        metavar='EPISODES',
        help='episodes of each round of on-policy correction',
    )
    reference.add_argument('--correction-steps', type=positive, default=2000)
    reference.add_argument(
        '--checks', type=positive, default=60, help='episodes that measure success in between'
    )
    reference.add_argument(
        '--workers', type=positive, default=os.cpu_count() or 1, help='processes of the simulator'
    )
    reference.add_argument('--seed', type=int, default=0)
    reference.add_argument('--device', default='cpu', help='torch device that trains')
    add_finetuning(kinds)
    add_corrections(kinds)


def _reference(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..sim.rendering import apply_gl
    from ..train.reference import train_reference

    apply_gl()  # fail here, with the mend, and not in a worker
    columns = (
        TextColumn('{task.description:26}'),
        BarColumn(20),
        TextColumn('{task.completed:.0f}/{task.total:.0f}'),
        TimeRemainingColumn(),
        TextColumn('{task.fields[text]}', style='dim'),
    )
    with Progress(*columns, console=console) as bar:
        about = train_reference(_plan(options), options.out, _Bars(bar))
    for entry in about['history']:
        if 'success' in entry:
            console.print(f'{entry["stage"]}:', entry['success'])
    console.print(f'checkpoint in {options.out}')
    return {'checkpoint': str(options.out), **about}


def _plan(options: argparse.Namespace) -> 'Plan':
    from ..train.learner import Recipe
    from ..train.reference import FURTHER_LR, Plan

    return Plan(
        options.work,
        demonstrations=options.demonstrations,
        first=Recipe(options.steps),
        corrections=tuple(options.corrections),
        further=Recipe(options.correction_steps, lr=FURTHER_LR),
        checks=options.checks,
        workers=options.workers,
        seed=options.seed,
        device=options.device,
    )


class _Bars:
    """One progress bar per stage; where no terminal draws it, a line every minute."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._log = bar, LineLog(bar.console, 60.0)
        self._task: TaskID | None = None
        self._name = ''

    def stage(self, text: str, total: int) -> None:
        """A stage of ``total`` units begins."""
        self._task = self._bar.add_task(text, total=total, text='')
        self._name = f'{text}, of {total}'
        self._log.restart()

    def at(self, done: int, text: str = '') -> None:
        """This many units of the stage are done."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
        self._log.show(f'{self._name}: {done}  {text}')
