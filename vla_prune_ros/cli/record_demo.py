"""``vla-prune record-demo``: a bag to try ``vla-prune replay`` on, from the simulator."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from .common import add_command, choose_policy, positive

if TYPE_CHECKING:
    from ..evaluate.record_demo import RecordedEpisode, RecordOptions


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
    from ..evaluate.record_demo import record_demo

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
    from ..evaluate.record_demo import RecordOptions

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
