"""Many inference records to the few numbers that go into a table and a JSON file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..records import MethodRun

STAGE_ORDER = (
    'node_pairing',
    'node_queue',
    'node_decode',
    'node_state',
    'policy_preprocess',
    'policy_vision',
    'policy_selection',
    'policy_language',
    'policy_head',
    'node_guard',
    'node_publish',
    'node_report',
)
MODES = ('coarse', 'fine', 'dense')
TOTALS = {
    'policy_total': 'policy total',
    'overhead': 'node overhead',
    'stamp_to_chunk': 'image stamp to chunk',
    'refresh': 'refresh behind the chunk',
}


@dataclass(frozen=True)
class Quantiles:
    """Median and 95th percentile (numpy's linear interpolation) in milliseconds."""

    p50: float
    p95: float


def method_row(run: MethodRun) -> dict[str, Any]:
    """One run as a JSON row."""
    stages = stage_quantiles(run.records)
    return {
        'method': run.method,
        'episodes': run.episodes,
        'successes': run.successes,
        'queries': len(run.records),
        'chunks': run.chunks,
        'moved_m': round(run.moved_m, 4),
        'visual_tokens': mean_of(run.records, 'visual_tokens') if run.records else None,
        'modes': mode_counts(run.records),
        'motion_unknown': sum(r.get('motion') == 'unknown' for r in run.records),
        'latency_ms': asdict(stages['policy_total']) if stages else {},
        'stages_ms': {name: asdict(q) for name, q in stages.items()},
    }


def mode_counts(records: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Queries per mode that happened, in the order coarse, fine, dense."""
    counts = Counter(r['mode'] for r in records if 'mode' in r)
    return {mode: counts[mode] for mode in (*MODES, *counts) if counts[mode]}


def mean_of(records: Sequence[Mapping[str, str]], key: str) -> float:
    """Mean of one value over all records; NaN without any."""
    return float(np.mean([float(r[key]) for r in records])) if records else float('nan')


def stage_quantiles(records: Iterable[Mapping[str, str]]) -> dict[str, Quantiles]:
    """Stage name (without ``_ms``) -> quantiles over the records, in the order things happen."""
    columns: dict[str, list[float]] = {}
    for record in records:
        for key, value in record.items():
            if key.endswith('_ms'):
                columns.setdefault(key.removesuffix('_ms'), []).append(float(value))
    order = [n for n in (*STAGE_ORDER, *TOTALS) if n in columns]
    order += [n for n in columns if n not in order]
    return {n: Quantiles(*(float(q) for q in np.percentile(columns[n], (50, 95)))) for n in order}


def stage_label(name: str) -> str:
    """``policy_vision`` -> ``vision``; totals have names of their own."""
    return TOTALS.get(name, name.removeprefix('node_').removeprefix('policy_'))


def demo_table(runs: Sequence[MethodRun], title: str) -> Table:
    """One column per method: counts, tokens, and milliseconds p50 / p95 by stage."""
    table = Table(title=title, title_justify='left')
    table.add_column('')
    for run in runs:
        table.add_column(run.method, justify='right')
    rows = [method_row(run) for run in runs]
    for key in ('episodes', 'queries', 'chunks'):
        table.add_row(key, *(str(r[key]) for r in rows))
    tokens = (r['visual_tokens'] for r in rows)
    table.add_row('visual tokens kept', *('-' if n is None else f'{n:.0f}' for n in tokens))
    table.add_row(
        f'queries {" / ".join(MODES)}',
        *(' / '.join(str(r['modes'].get(m, 0)) for m in MODES) for r in rows),
    )
    table.add_row('arm moved (m)', *(f'{r["moved_m"]:.2f}' for r in rows))
    table.add_row(
        'successes', *(f'{r["successes"]}/{r["episodes"]}' for r in rows), end_section=True
    )
    shown = [n for n in (*STAGE_ORDER, *TOTALS) if any(n in r['stages_ms'] for r in rows)]
    for name in shown:
        cells = (r['stages_ms'].get(name) for r in rows)
        label = f'{stage_label(name)} (ms) p50 / p95'
        table.add_row(
            label,
            *('-' if c is None else f'{c["p50"]:.2f} / {c["p95"]:.2f}' for c in cells),
            end_section=name == STAGE_ORDER[-1],
        )
    return table
