"""What all sub-commands share: options, the default checkpoint, and ROS or no ROS."""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__
from ..errors import CheckpointError, VlaPruneError

Run = Callable[[argparse.Namespace, Console], dict[str, Any]]
"""A sub-command: options and where to print -> what ``--json`` writes."""

NO_ROS = (
    'rclpy is not importable',
    'source a ROS 2 distribution, or install the wheels with '
    "pip install 'vla_prune_ros[ros]' (never both)",
)


def add_command(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """A sub-command's parser: defaults in its help, and ``--json FILE``."""
    parser = commands.add_parser(name, help=text, description=text, formatter_class=_Defaults)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the result as JSON')
    parser.set_defaults(run=run)
    return parser


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help, where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == ''
        if silent or '(default' in (action.help or ''):
            return action.help
        return super()._get_help_string(action)


def add_machine(parser: argparse.ArgumentParser) -> Any:
    """Options of commands that spread work over processes and machines; the group, for more."""
    group = parser.add_argument_group('machine')
    group.add_argument('--dtype', default='float32', help='dtype of the weights')
    group.add_argument('--device', default='cpu', help='torch device')
    group.add_argument('--workers', type=positive, default=1, help='processes')
    group.add_argument(
        '--threads',
        type=positive,
        default=1,
        help='torch threads of each worker; results are the same for any number of workers, and '
        'may differ in the last bit between numbers of threads',
    )
    group.add_argument(
        '--ray',
        default='',
        metavar='ADDRESS|auto|local',
        help='run the workers on a Ray cluster; files and --out where they lie here',
    )
    return group


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError('use 1 or more')
    return value


def require_ros() -> None:
    """Fail with the mend where rclpy is not installed.

    :raises VlaPruneError: it is not.
    """
    if find_spec('rclpy') is None:
        raise VlaPruneError(*NO_ROS)


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
