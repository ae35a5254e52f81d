"""The rows of ``vla-prune bench --pruning``: what many timed queries say of a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...pruning.base import SELECTION
from ..statistics import percentiles

DENSE, PUBLISHED = 'dense', 'published'
MODES = ('dense', 'coarse', 'fine')


@dataclass(frozen=True)
class Sample:
    """One counted query.

    :param refresh_ms: None where nothing was refreshed.
    :param flops: None where the closed form does not cover the model.
    """

    mode: str
    visual_tokens: int
    timings_ms: Mapping[str, float]
    refresh_ms: float | None
    flops: int | None
    finite: bool


def bench_rows(
    samples: Mapping[str, Sequence[Sample]], first: Mapping[str, Sequence[Sample]]
) -> list[dict[str, Any]]:
    """One row per method and mode, ratios to the dense queries of the same run, and to those of
    the published execution where it was run.

    :param first: the queries behind ``Policy.warm_up``; the first of each mode is ``first_ms``.
    """
    dense, published = (
        _p50([s.timings_ms['total'] for s in samples[name]]) if name in samples else None
        for name in (DENSE, PUBLISHED)
    )
    rows = [
        {'method': method, 'mode': mode, **_row([s for s in taken if s.mode == mode], dense)}
        for method, taken in samples.items()
        for mode in MODES
        if any(s.mode == mode for s in taken)
    ]
    for row in rows:
        ratio = None if published is None else published / row['latency_ms']['p50']
        row['speedup_vs_published'] = ratio
        early = [s for s in first[row['method']] if s.mode == row['mode']]
        row['first_ms'] = early[0].timings_ms['total'] if early else None
    return rows


def whole_run(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """One row per method over all of its queries, whatever their mode, by mean times: what an
    episode gains, its dense first query included."""
    means = {
        method: float(np.mean([s.timings_ms['total'] for s in taken]))
        for method, taken in samples.items()
    }
    published = means.get(PUBLISHED)
    return [
        {
            'method': method,
            'queries': len(samples[method]),
            'modes': {m: n for m in MODES if (n := sum(s.mode == m for s in samples[method]))},
            'mean_ms': mean,
            'speedup_vs_dense': means[DENSE] / mean,
            'speedup_vs_published': None if published is None else published / mean,
        }
        for method, mean in means.items()
    ]


def _row(taken: Sequence[Sample], dense_p50: float) -> dict[str, Any]:
    stages = {n: [s.timings_ms[n] for s in taken] for n in taken[0].timings_ms}
    total = stages.pop('total')
    refreshed = [s.refresh_ms for s in taken if s.refresh_ms is not None]
    flops = [s.flops for s in taken if s.flops is not None]
    return {
        'queries': len(taken),
        'visual_tokens': float(np.mean([s.visual_tokens for s in taken])),
        'latency_ms': percentiles(total),
        'stages_ms': {name: percentiles(values) for name, values in stages.items()},
        'refresh_ms': percentiles(refreshed),
        'tflops': float(np.mean(flops)) / 1e12 if flops else None,
        'speedup_vs_dense': dense_p50 / _p50(total),
        'selection_percent_of_dense': 100.0 * _p50(stages[SELECTION]) / dense_p50,
    }


def _p50(values: Sequence[float]) -> float:
    return float(np.percentile(values, 50))
