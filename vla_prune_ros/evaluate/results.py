"""Many episodes to one row per method and task: success, its comparison, and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .episode import EpisodeKey, EpisodeResult
from .statistics import Interval, paired, wilson

MODES = ('dense', 'coarse', 'fine')
ALL = 'all'
"""Value of ``task`` in the rows over all tasks."""

Episodes = Mapping[EpisodeKey, EpisodeResult]


def result_rows(
    episodes: Episodes, methods: Sequence[str], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """One JSON row per task and method, then per method over all tasks where there are several.

    Each method is compared with the first over the episodes that both have run. A method without
    episodes of a task has no row for it.
    """
    groups = [(task, (task,)) for task in tasks]
    groups += [(ALL, tuple(tasks))] if len(tasks) > 1 else []
    rows = []
    for label, names in groups:
        chosen = {k: e for k, e in episodes.items() if k.task in names}
        for method in methods:
            own = _of(chosen, method)
            if own:
                row = {'method': method, 'task': label, **_row(list(own.values()))}
                versus = _versus(_of(chosen, methods[0]), own) if method != methods[0] else None
                rows.append({**row, 'versus_first': versus})
    return rows


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Median and 95th percentile (numpy's linear interpolation); None without values."""
    if not values:
        return None
    p50, p95 = np.percentile(np.asarray(values, np.float64), (50, 95))
    return {'p50': round(float(p50), 3), 'p95': round(float(p95), 3)}


def _of(episodes: Episodes, method: str) -> dict[tuple[str, int], EpisodeResult]:
    found = {(k.task, k.seed): e for k, e in episodes.items() if k.method == method}
    return dict(sorted(found.items()))


def _row(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    good = [e for e in results if e.success]
    return {
        'episodes': len(results),
        'successes': len(good),
        'success_rate': len(good) / len(results),
        'success_ci95': _pair(wilson(len(good), len(results))),
        'errors': sum(bool(e.error) for e in results),
        'wrong_object': dict(Counter(e.wrong_object for e in results if e.wrong_object)),
        'steps_per_success': _mean([e.steps for e in good]),
        'queries_per_success': _mean([len(e.queries) for e in good]),
        'moved_m': _mean([e.moved_m for e in results]),
        'refresh_ms': quantiles([ms for e in results for ms in e.refresh_ms]),
        'motion_sources': dict(Counter(e.motion_source for e in results if e.motion_source)),
        **_query_values(results),
    }


def _query_values(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    queries = [q for e in results for q in e.queries]
    shares = [q.visual_tokens / e.visual_all for e in results for q in e.queries]
    counts = Counter(q.mode for q in queries)
    modes = {mode: counts[mode] for mode in (*MODES, *counts) if counts[mode]}
    names = dict.fromkeys(name for q in queries for name in q.stages_ms)
    columns = {n: [q.stages_ms[n] for q in queries if n in q.stages_ms] for n in names}
    return {
        'queries': len(queries),
        'visual_tokens': _mean([q.visual_tokens for q in queries]),
        'visual_share': _mean(shares),
        'latency_ms': quantiles([q.total_ms for q in queries]),
        'stages_ms': {name: quantiles(values) for name, values in columns.items()},
        'modes': modes,
        'mode_shares': {mode: count / len(queries) for mode, count in modes.items()},
        'motion_unknown': sum(q.motion_m_s is None for q in queries),
    }


def _versus(
    first: Mapping[tuple[str, int], EpisodeResult], own: Mapping[tuple[str, int], EpisodeResult]
) -> dict[str, Any] | None:
    """The paired comparison in points (per cent of episodes); None with no common episode."""
    common = [key for key in own if key in first]
    if not common:
        return None
    found = paired([first[k].success for k in common], [own[k].success for k in common])
    return {
        'pairs': found.pairs,
        'only_first': found.only_baseline,
        'only_this': found.only_method,
        'points': 100.0 * found.difference,
        'points_ci95': [100.0 * value for value in _pair(found.interval)],
        'p_value': found.p_value,
    }


def _pair(interval: Interval) -> list[float]:
    return list(asdict(interval).values())


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
