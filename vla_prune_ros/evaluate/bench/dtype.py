"""``vla-prune bench --dtypes``: what each type of weights costs and saves on this machine."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from ...engine.load import load_policy
from ...engine.policy import Policy
from ...records import Observation
from ..machine import machine
from ..statistics import percentiles

REFERENCE = 'bfloat16'


@dataclass(frozen=True)
class DtypeBenchOptions:
    """What is measured.

    :param runs: counted inferences per dtype, after three that are not.
    """

    checkpoint: Path
    profile: str
    dtypes: tuple[str, ...]
    device: str
    runs: int


def run_dtype_bench(
    options: DtypeBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Time whole inferences of one checkpoint in each dtype, one policy in memory at a time.

    :raises VlaPruneError: the checkpoint, a dtype or the device is not usable.
    """
    rows = []
    for dtype in options.dtypes:
        progress(f'{dtype}: loading')
        policy = load_policy(
            options.checkpoint, options.profile, device=options.device, dtype=dtype
        )
        progress(f'{dtype}: {options.runs} inferences')
        rows.append({'dtype': dtype, **_measure(policy, options.runs)})
        about = policy.describe()
        del policy
        gc.collect()
    reference = next((r['latency_ms']['p50'] for r in rows if r['dtype'] == REFERENCE), None)
    for row in rows:
        row['time_vs_bfloat16'] = row['latency_ms']['p50'] / reference if reference else None
    return {'ok': True, 'rows': rows, 'untrained': about['untrained'], 'machine': machine()}


def dtype_table(result: Mapping[str, Any]) -> Table:
    """One row per dtype: weights, latency, and the ratio to bfloat16 of the same run."""
    where = f'{result["machine"]["cpu"]}, {result["machine"]["cores"]} cores'
    table = Table(title=f'whole policy by dtype on {where}', title_justify='left')
    table.add_column('dtype')
    for name in ('weights MiB', 'p50 ms', 'p95 ms', 'time / bfloat16'):
        table.add_column(name, justify='right')
    for row in result['rows']:
        ratio = row['time_vs_bfloat16']
        table.add_row(
            row['dtype'],
            f'{row["weights_mib"]:.0f}',
            f'{row["latency_ms"]["p50"]:.1f}',
            f'{row["latency_ms"]["p95"]:.1f}',
            '-' if ratio is None else f'{ratio:.2f}',
        )
    return table


def _measure(policy: Policy, runs: int) -> dict[str, Any]:
    observation = _observation(policy)
    for _ in range(3):
        policy.infer(observation)
    totals = [policy.infer(observation).timings_ms['total'] for _ in range(runs)]
    return {'latency_ms': percentiles(totals), 'weights_mib': _weights_mib(policy)}


def _observation(policy: Policy) -> Observation:
    """Noise frames of 256 x 256 and the mean state: timings do not depend on what is seen."""
    random = np.random.default_rng(0)
    frames = {c: random.integers(0, 256, (256, 256, 3), np.uint8) for c in policy.profile.cameras}
    proprio = policy.statistics.proprio
    return Observation(frames, None if proprio is None else proprio.mean, 'pick up the red cube')


def _weights_mib(policy: Policy) -> float:
    """Storage of all parameters and buffers, each storage once."""
    tensors: Sequence[torch.Tensor] = (*policy.model.parameters(), *policy.model.buffers())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / 2**20
