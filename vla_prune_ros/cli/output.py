"""What commands need before they run, and what they print and write when they have run."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from .. import __version__
from ..errors import CheckpointError, VlaPruneError

if TYPE_CHECKING:
    from ..evaluate.closed_loop.record_demo import RecordedBag
    from ..evaluate.replay.run import ReplayOptions, ReplayRun


def require_ros() -> None:
    if find_spec('rclpy') is None:
        raise VlaPruneError(
            'rclpy is not importable',
            'source a ROS 2 distribution, or install the wheels with '
            "pip install 'vla_prune_ros[ros]' (never both)",
        )


def choose_checkpoint(given: str | Path | None, preset: str, console: Console) -> Path:
    """The given folder, or a synthetic one in the user's cache, made on first use.

    :param given: a folder, ``'org/name'`` of the hub, or ``'reference'``.
    :raises CheckpointError: it is not there; found before any process starts.
    """
    if given is not None:
        from ..model.hub import checkpoint_folder

        return checkpoint_folder(given, lambda text: console.print(text, markup=False))
    folder = Path.home() / '.cache' / 'vla_prune_ros' / f'untrained-{preset}-{__version__}'
    if not (folder / 'vla_prune.json').is_file():
        from ..model.synthetic import make_checkpoint

        console.print(f'making an untrained checkpoint in {folder}')
        make_checkpoint(folder, preset)
    return folder


def choose_policy(given: str | Path | None, console: Console) -> Path:
    """The given checkpoint; else the reference policy, or an untrained one where that is not
    installed.

    :raises CheckpointError: the given one is not there.
    """
    if given is None:
        from ..model.hub import reference_folder

        try:
            return reference_folder()
        except CheckpointError as error:
            console.print(str(error), markup=False)
    return choose_checkpoint(given, 'demo', console)


def show(console: Console, *items: Any) -> None:
    """Tables as they are, text as it is: no markup, no colours of numbers, no line breaks in a
    log, where somebody may search for what is said."""
    for item in items:
        if isinstance(item, str):
            wrap = not console.is_terminal
            console.print(item, markup=False, highlight=False, soft_wrap=wrap)
        else:
            console.print(item)


def show_bag(bag: 'RecordedBag', console: Console) -> None:
    table = Table(*(Column(name, overflow='fold') for name in ('topic', 'type', 'messages')))
    for name, topic in bag.topics.items():
        table.add_row(name, topic['type'], str(topic['count']))
    size = f'{bag.bytes / 1e6:.1f} MB, {bag.seconds:.2f} s'
    show(
        console,
        table,
        f'{bag.path}: {size}, recorded in {bag.wall_s:.1f} s',
        f'next: {bag.next}',
    )


def report_replay(
    run: 'ReplayRun', options: 'ReplayOptions', console: Console, mcap: bool
) -> None:
    """Tables on the console; page, JSON and predictions in the folder."""
    from ..evaluate.replay.mcap_export import write_predictions
    from ..evaluate.replay.report import replay_html, replay_notes, replay_tables

    if any(row.queries for row in run.result.rows):
        show(console, *(table for table in replay_tables(run.result) if table.row_count))
    show(console, *replay_notes(run.result))
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
    show(console, f'{out}: {", ".join(written)}')
