"""``vla-prune train lightvla`` and ``scorer``: fine-tuning of a checkpoint by a YAML file."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ProfileError
from ..runtime.line_log import LineLog
from .common import add_command

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
    from ..train.finetune import FineTuner
    from ..train.settings import read_settings

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
