"""``vla-prune``: every tool of the package behind one command.

Sub-commands import what they need when they run, so that ``--help`` is instant. Exit codes: 0
good, 1 the result is bad (one line says why), 2 wrong usage, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import __version__
from ..errors import VlaPruneError
from .bench import add_bench
from .common import add_command, choose_policy, positive, require_ros
from .evaluate import add_evaluate
from .replay import add_play, add_record_demo, add_replay
from .train import add_train


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the sub-command and return the exit code."""
    options = build_parser().parse_args(argv)
    console = Console(stderr=False)
    try:
        result = options.run(options, console)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
        return 0 if result.get('ok', True) else 1
    except (VlaPruneError, OSError) as error:  # a folder that cannot be written has its own words
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog='vla-prune', description='Token-pruned OpenVLA-OFT for ROS 2.'
    )
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    demo = add_command(
        commands, 'demo', _demo, 'run simulator, policy and executor and print what was measured'
    )
    demo.add_argument(
        '--checkpoint',
        help="checkpoint folder, or 'org/name' of the hub (default: the package's reference "
        'policy, or an untrained one where that is not installed)',
    )
    demo.add_argument(
        '--out', type=Path, default=Path('out/demo'), help='folder for video, JSON and logs'
    )
    demo.add_argument(
        '--methods', nargs='+', default=['dense', 'uniform:128', 'specprune'], metavar='METHOD'
    )
    demo.add_argument('--episodes', type=positive, default=2, help='episodes per method')
    demo.add_argument(
        '--steps', type=positive, default=120, help='control steps per episode, 20 per second'
    )
    demo.add_argument('--real-time-factor', type=float, default=1.0, help='0: as fast as possible')
    demo.add_argument('--seed', type=int, default=0)
    check = add_command(
        commands, 'check', _check, 'load a checkpoint and probe it for silent mistakes'
    )
    check.add_argument(
        'checkpoint', help="checkpoint folder, or a name on the Hugging Face hub ('org/name')"
    )
    check.add_argument('--profile', default='libero', help='libero, aloha, bridge or a YAML file')
    check.add_argument('--unnorm-key', help='key of the statistics, where there are several')
    check.add_argument('--tokenizer', type=Path, metavar='DIR', help="default: the checkpoint's")
    check.add_argument('--dtype', default='bfloat16', help='dtype of the weights')
    check.add_argument('--head', default='auto', choices=('auto', 'l1', 'diffusion', 'discrete'))
    check.add_argument('--device', default='cpu', help='cpu or cuda')
    make = add_command(
        commands,
        'make-checkpoint',
        _make_checkpoint,
        'write a seeded, untrained checkpoint in the published layout',
    )
    make.add_argument('folder', type=Path)
    make.add_argument(
        '--preset', default='demo', choices=('demo', 'micro'), help='size of the model'
    )
    make.add_argument('--seed', type=int, default=0, help='of the weights')
    add_bench(commands)
    add_evaluate(commands)
    add_play(commands)
    add_record_demo(commands)
    add_replay(commands)
    add_train(commands)
    return parser


def _demo(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    require_ros()
    from ..evaluate.demo_report import report_demo
    from ..evaluate.video import VideoWriter
    from ..nodes.tools.demo import DemoOptions, run_demo
    from ..sim.rendering import apply_gl

    checkpoint = choose_policy(options.checkpoint, console)
    apply_gl()  # fail here, with the mend, and not in a child's log
    demo = DemoOptions(
        checkpoint,
        options.out,
        tuple(options.methods),
        options.episodes,
        options.steps,
        options.real_time_factor,
        options.seed,
    )
    with VideoWriter(options.out / 'demo.mp4', fps=5.0) as video:
        runs, about = run_demo(demo, console, video.add)
    return report_demo(runs, about, video, options.out, console)


def _check(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.check import CheckOptions, check_checkpoint, check_table, check_verdict

    wanted = CheckOptions(
        options.checkpoint,
        options.profile,
        options.unnorm_key,
        options.tokenizer,
        options.dtype,
        options.head,
        options.device,
    )
    try:
        result = check_checkpoint(wanted, lambda text: console.print(text, markup=False))
    except VlaPruneError as error:  # one line here, and the same in the JSON
        print(f'error: {error}', file=sys.stderr)
        return {'ok': False, 'error': str(error)}
    console.print(check_table(result))
    console.print(check_verdict(result))
    return result


def _make_checkpoint(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..model.synthetic import make_checkpoint

    folder = make_checkpoint(options.folder, options.preset, options.seed)
    console.print(f'untrained checkpoint ({options.preset}, seed {options.seed}) in {folder}')
    return {
        'folder': str(folder),
        'preset': options.preset,
        'seed': options.seed,
        'trained': False,
    }
