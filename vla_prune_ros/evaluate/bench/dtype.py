"""``vla-prune bench --dtypes``: what each type of weights costs and saves on this machine."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.load import load_policy
from ...engine.policy import Policy
from ...records import Observation
from ..machine import machine, where
from ..options import DtypeBenchOptions
from ..statistics import percentiles
from ..tables import Column, fixed, quantile, rich_table

REFERENCE = 'bfloat16'
WARM_UP_RUNS = 3


@dataclass(kw_only=True)
class DtypeRow:
    dtype: str
    latency_ms: dict[str, float]
    weights_mib: float
    time_vs_bfloat16: float | None = None


@dataclass(frozen=True, kw_only=True)
class DtypeBench:
    ok: bool
    rows: list[DtypeRow]
    untrained: bool
    machine: dict[str, Any]


def run_dtype_bench(
    options: DtypeBenchOptions, progress: Callable[[str], None] = lambda text: None
) -> DtypeBench:
    """Whole inferences of one checkpoint; one policy is in memory at a time."""
    rows = []
    for dtype in options.dtypes:
        progress(f'{dtype}: loading')
        policy = load_policy(
            options.checkpoint, options.profile, device=options.device, dtype=dtype
        )
        progress(f'{dtype}: {options.runs} inferences')
        observation = _observation(policy)
        for _ in range(WARM_UP_RUNS):
            policy.infer(observation)
        totals = [policy.infer(observation).timings_ms['total'] for _ in range(options.runs)]
        weights_mib = _weights_mib(policy)
        rows.append(DtypeRow(dtype=dtype, latency_ms=percentiles(totals), weights_mib=weights_mib))
        about = policy.describe()
        del policy
        gc.collect()
    reference = next((row.latency_ms['p50'] for row in rows if row.dtype == REFERENCE), None)
    for row in rows:
        row.time_vs_bfloat16 = row.latency_ms['p50'] / reference if reference else None
    return DtypeBench(ok=True, rows=rows, untrained=about['untrained'], machine=machine())


def _observation(policy: Policy) -> Observation:
    """Noise: timings do not depend on what is seen."""
    random = np.random.default_rng(0)
    frames = {c: random.integers(0, 256, (256, 256, 3), np.uint8) for c in policy.profile.cameras}
    proprio = policy.statistics.proprio
    return Observation(frames, None if proprio is None else proprio.mean, 'pick up the red cube')


def _weights_mib(policy: Policy) -> float:
    """Of all parameters and buffers, each storage once: layers may share theirs."""
    tensors = (*policy.model.parameters(), *policy.model.buffers())
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / 2**20


_COLUMNS = (
    Column('dtype', lambda r: r.dtype, is_name=True),
    Column('weights MiB', lambda r: f'{r.weights_mib:.0f}'),
    Column('p50 ms', lambda r: quantile(r.latency_ms)),
    Column('p95 ms', lambda r: quantile(r.latency_ms, 'p95')),
    Column('time / bfloat16', lambda r: fixed(r.time_vs_bfloat16, '.2f')),
)


def dtype_report(result: DtypeBench) -> list[Any]:
    return [rich_table(f'whole policy by dtype on {where(result.machine)}', _COLUMNS, result.rows)]
