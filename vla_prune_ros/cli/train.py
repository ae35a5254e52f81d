"""``vla-prune train``: policies that are trained here.

``vla-prune train corrections``: where a policy goes wrong, and what the expert does there.

``vla-prune train lightvla`` and ``scorer``: fine-tuning of a checkpoint by a YAML file.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..errors import ProfileError
from ..runtime.progress import LineLog
from .common import add_command, positive

if TYPE_CHECKING:
    from ..train.reference import Plan


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
    from ..sim.two_cubes import TASKS

    if given == ['all']:
        return tuple(TASKS)
    for name in given:
        if name not in TASKS:
            raise ProfileError(f'task {name!r} is unknown', f'use all, or of {list(TASKS)}')
    return tuple(given)


_METHODS = {'lightvla': 'lightvla', 'scorer': 'vla_acl'}


def add_finetuning(kinds: Any) -> None:
    """Both sub-commands."""
    for kind, text in (
        (
            'lightvla',
            'a policy that learns which visual tokens to keep (LightVLA, and LightVLA* with '
            'learned queries); goes on where it was interrupted; several GPUs: accelerate launch '
            '-m vla_prune_ros.cli train lightvla ...',
        ),
        (
            'scorer',
            'a small network that scores the visual tokens of a policy that stays as it is '
            '(VLA-ACL); goes on where it was interrupted',
        ),
    ):
        command = add_command(kinds, kind, _finetune, text)
        command.add_argument(
            '--config', type=Path, required=True, metavar='FILE', help='YAML, see docs/training.md'
        )
        command.add_argument('--device', help='torch device; default: what accelerate chooses')


def _finetune(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..train.config import read_settings
    from ..train.finetune import FineTuner

    settings = read_settings(options.config)
    wanted = _METHODS[options.kind]
    if settings.train.method != wanted:
        raise ProfileError(
            f'{options.config}: train.method is {settings.train.method!r}, not {wanted!r}',
            f'run vla-prune train {_kind_of(settings.train.method)}',
        )
    tuner = FineTuner(settings, options.device)
    main = tuner.accelerator.is_main_process
    columns = (
        TextColumn('{task.description}'),
        BarColumn(20),
        TextColumn('{task.completed:.0f}/{task.total:.0f}'),
        TimeRemainingColumn(),
        TextColumn('{task.fields[text]}', style='dim'),
    )
    with Progress(*columns, console=console, disable=not main) as bar:
        task = bar.add_task(f'training {options.kind}', total=settings.steps, text='')
        log = LineLog(console, 60.0)

        def report(step: int, metrics: Mapping[str, float]) -> None:
            text = '  '.join(f'{k} {v:.4g}' for k, v in metrics.items() if k != 'lr')
            bar.update(task, completed=step, text=text)
            if main:
                log.show(f'step {step} of {settings.steps}  {text}')

        result = tuner.run(report)
    if main:
        console.print(
            f'{"checkpoint" if options.kind == "lightvla" else "scorer"} in {settings.out}'
        )
    return {'out': str(settings.out), **result}


def _kind_of(method: str) -> str:
    return next(kind for kind, name in _METHODS.items() if name == method)


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
    from ..train.reference import FURTHER_LR, Plan, Recipe

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
