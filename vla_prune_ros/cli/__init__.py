"""``vla-prune``: every tool of the package behind one command.

Exit codes: 0 good, 1 the result is bad (one line says why), 2 wrong usage, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__
from ..config import add_arguments, from_arguments
from ..errors import VlaPruneError
from .commands import COMMANDS, TRAININGS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return the exit code."""
    options = build_parser().parse_args(argv)
    try:
        result = from_arguments(options.record, options).run(Console())
        plain = asdict(result) if is_dataclass(result) else result
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(plain, indent=2) + '\n', encoding='utf-8')
        return 0 if plain.get('ok', True) else 1
    except (VlaPruneError, OSError) as error:  # an OSError names the file that it is about
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='vla-prune', description='Token-pruned OpenVLA-OFT for ROS 2.'
    )
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(dest='name', required=True, metavar='COMMAND')
    for name, record in COMMANDS.items():
        _add(commands, name, record)
    train = commands.add_parser('train', help='train a policy', description='Train a policy.')
    kinds = train.add_subparsers(dest='kind', required=True, metavar='KIND')
    for name, record in TRAININGS.items():
        _add(kinds, name, record)
    return parser


def _add(commands: Any, name: str, record: type) -> None:
    text = ' '.join(record.__doc__.split())
    parser = commands.add_parser(name, help=text, description=text, formatter_class=_Defaults)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the result as JSON')
    parser.set_defaults(record=record)
    add_arguments(parser, record)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help, except those that say nothing and those of switches."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.nargs == 0 or action.default in (None, '', ())
        if silent or '(default' in (action.help or ''):
            return action.help
        return super()._get_help_string(action)
