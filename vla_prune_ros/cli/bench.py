"""``vla-prune bench``: the node, the types of weights, the pruning methods, or the simulator."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .common import add_command, choose_checkpoint, positive, require_ros

if TYPE_CHECKING:
    from ..evaluate.bench.models import BenchModelOptions

METHODS = ('dense', 'uniform:128', 'specprune')
REFRESHES_PER_S = 1.0  # of the progress line: its thread takes time from what is measured


def add_bench(commands: Any) -> None:
    """Declare the sub-command and its options."""
    bench = add_command(
        commands,
        'bench',
        _bench,
        'measure; --node: the ROS 2 node with two 640x480 cameras; --dtypes: types of weights; '
        '--pruning: pruning methods; --curve: tokens, cameras and chunks; --sim: the simulator',
    )
    what = bench.add_mutually_exclusive_group()
    what.add_argument('--node', action='store_true', help='node overhead and received rates')
    what.add_argument(
        '--dtypes', nargs='+', metavar='DTYPE', help='time and memory of the policy in each dtype'
    )
    what.add_argument(
        '--pruning',
        nargs='+',
        metavar='METHOD',
        help='time of the policy with each method, selection apart; dense comes first, always '
        f'(default: {" ".join(METHODS)})',
    )
    what.add_argument(
        '--curve',
        action='store_true',
        help='time of the policy over visual tokens, cameras and steps of the chunk',
    )
    what.add_argument(
        '--sim', action='store_true', help='control steps per second of the two-cube scene'
    )
    bench.add_argument(
        '--checkpoint',
        help="checkpoint folder, 'org/name' of the hub, or reference (default: an untrained one, "
        'made here)',
    )
    bench.add_argument('--profile', default='libero', help='robot profile (--dtypes, --pruning)')
    bench.add_argument('--device', default='cpu', help='torch device (--dtypes, --pruning)')
    _add_node_and_dtypes(bench)
    _add_pruning(bench)
    _add_sim(bench)


def _add_node_and_dtypes(bench: argparse.ArgumentParser) -> None:
    bench.add_argument('--runs', type=positive, default=20, help='counted inferences (--dtypes)')
    bench.add_argument(
        '--seconds', type=float, default=15.0, help='time measured after the warm-up (--node)'
    )
    bench.add_argument('--rate', type=float, default=30.0, help='frames per second and camera')
    bench.add_argument(
        '--no-transport-profile',
        action='store_true',
        help="measure with the middleware's defaults, to see what the profile is for",
    )


def _add_pruning(bench: argparse.ArgumentParser) -> None:
    group = bench.add_argument_group('--pruning and --curve')
    group.add_argument(
        '--preset',
        default='demo',
        choices=('micro', 'demo', '7b'),
        help='shapes of the random weights; 7b: those of the published model, 15 GB in bfloat16',
    )
    group.add_argument('--layers', type=positive, help="decoder layers, instead of the preset's")
    group.add_argument(
        '--share-layers',
        action='store_true',
        help='every decoder layer uses the weights of the first: same work, memory of one',
    )
    group.add_argument('--dtype', default='bfloat16', help='dtype of the weights')
    group.add_argument(
        '--queries', type=positive, default=16, help='counted inferences of each method'
    )
    group.add_argument('--threads', type=positive, help="torch threads, instead of torch's choice")
    group.add_argument(
        '--engine',
        default='auto',
        choices=('auto', 'graphs', 'eager'),
        help='how the network is run; auto: CUDA graphs on a CUDA device',
    )
    group.add_argument('--plot', type=Path, metavar='FILE', help='picture, .png or .svg')
    group.add_argument(
        '--no-published',
        action='store_true',
        help='leave out the dense model as the published code executes it (--pruning)',
    )
    group.add_argument(
        '--no-refresh',
        action='store_true',
        help='no dense look between queries, as on a robot that has no time for it',
    )


def _add_sim(bench: argparse.ArgumentParser) -> None:
    group = bench.add_argument_group('--sim')
    group.add_argument('--size', type=positive, default=224, help='side of both views in pixels')
    group.add_argument('--steps', type=positive, default=100, help='counted control steps')
    group.add_argument(
        '--gl', default='auto', choices=('auto', 'egl', 'osmesa'), help='OpenGL backend'
    )


def _bench(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.node:
        return _bench_node(options, console)
    if options.dtypes:
        return _bench_dtypes(options, console)
    if options.sim:
        return _bench_sim(options, console)
    if options.curve:
        return _bench_curve(options, console)
    return _bench_pruning(options, console)


def _bench_pruning(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.bench.pruning import PruningBenchOptions, run_pruning_bench
    from ..evaluate.bench.tables import plot_stages, pruning_notes, pruning_tables

    bench = PruningBenchOptions(
        tuple(options.pruning or METHODS),
        _model(options, console),
        options.queries,
        not options.no_refresh,
        options.threads,
        not options.no_published,
    )
    with console.status('', refresh_per_second=REFRESHES_PER_S) as status:
        result = run_pruning_bench(bench, status.update)
    for table in pruning_tables(result):
        console.print(table)
    for note in pruning_notes(result):
        console.print(note, markup=False, highlight=False)
    if options.plot:
        plot_stages(result, options.plot)
    return result


def _bench_curve(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.bench.curve import CurveOptions, run_cost_curve
    from ..evaluate.bench.tables import curve_table, plot_curve

    curve = CurveOptions(_model(options, console), options.queries, options.threads)
    with console.status('', refresh_per_second=REFRESHES_PER_S) as status:
        result = run_cost_curve(curve, status.update)
    console.print(curve_table(result))
    if options.plot:
        plot_curve(result, options.plot)
    return result


def _model(options: argparse.Namespace, console: Console) -> 'BenchModelOptions':
    from ..evaluate.bench.models import BenchModelOptions

    given = options.checkpoint
    return BenchModelOptions(
        preset=options.preset,
        profile=options.profile,
        checkpoint=None if given is None else choose_checkpoint(given, '', console),
        layers=options.layers,
        share_layers=options.share_layers,
        dtype=options.dtype,
        device=options.device,
        engine=options.engine,
    )


def _bench_dtypes(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.bench.dtype import DtypeBenchOptions, dtype_table, run_dtype_bench

    checkpoint = choose_checkpoint(options.checkpoint, 'demo', console)
    dtypes = tuple(options.dtypes)
    bench = DtypeBenchOptions(checkpoint, options.profile, dtypes, options.device, options.runs)
    with console.status('') as status:
        result = run_dtype_bench(bench, status.update)
    console.print(dtype_table(result))
    return result


def _bench_node(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    require_ros()
    from ..evaluate.bench.node import node_result, node_table, node_verdict
    from ..nodes.tools.bench_harness import NodeBenchOptions, run_node_bench

    profile = not options.no_transport_profile
    checkpoint = choose_checkpoint(options.checkpoint, 'micro', console)
    run = run_node_bench(
        NodeBenchOptions(checkpoint, options.seconds, options.rate, profile), console
    )
    result = node_result(run.records, options.rate, run.sent_hz, run.received_hz, profile)
    console.print(node_table(result))
    console.print(node_verdict(result))
    return result


def _bench_sim(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from ..evaluate.bench.simulator import SimBenchOptions, run_sim_bench, sim_table, sim_verdict

    bench = SimBenchOptions(size=options.size, steps=options.steps, gl=options.gl)
    with console.status('', refresh_per_second=REFRESHES_PER_S) as status:
        result = run_sim_bench(bench, status.update)
    console.print(sim_table(result))
    console.print(sim_verdict(result))
    return result
