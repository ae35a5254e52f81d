"""Many episodes to one row per method and task: success, its comparison, and what it cost.

The result of ``vla-prune evaluate`` for people: success, cost, and what to know of them.

The result of ``vla-prune evaluate`` as Markdown, for a page that quotes it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from ..statistics import Interval, paired, wilson
from .episodes import EpisodeKey, EpisodeResult

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
                versus = (
                    _versus_results(_of(chosen, methods[0]), own) if method != methods[0] else None
                )
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


def _versus_results(
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


def result_tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Success with its comparison, and what a query costs; a row per task and method."""
    setting = result['settings']
    told = f', told {setting["instruction"]!r}' if setting['instruction'] else ''
    title = f'closed loop in {setting["simulator"]}{told}{_labels(result)}'
    success = _table_results_table(
        title, ('success', '%', '95 %', 'points', '95 %', '- / +', 'p', 'wrong')
    )
    cost = _table_results_table(
        f'what a query costs, {setting["dtype"]} on {_where(result)}',
        ('tokens', '%', 'dense/coarse/fine %', 'queries', 'ms p50', 'p95', 'refresh'),
    )
    rows = result['rows']
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is not None and following['task'] != row['task']
        names = (escape(row['task']), escape(row['method']))
        success.add_row(*names, *success_cells(row), end_section=ends)
        cost.add_row(*names, *cost_cells(row), end_section=ends)
    return success, cost


def result_notes(result: Mapping[str, Any]) -> list[str]:
    """What the figures mean and leave open, one sentence each."""
    first = result['settings']['methods'][0]
    notes = []
    if result['untrained']:
        notes.append('UNTRAINED: random weights; success means nothing here, times do.')
    notes.append(
        f"points: success less that of {first} on the same seeds, with Newcombe's paired "
        f'interval. - / +: episodes that only {first} or only the method solved; p: exact '
        'McNemar test.'
    )
    notes.append(
        'queries: per solved episode. refresh: dense look between queries, not in p50. Success '
        "intervals are Wilson's."
    )
    if result['generated_assets']:
        notes.append(
            'GENERATED ASSETS: primitives in place of the published meshes and textures; not '
            'comparable with published results.'
        )
    notes.append(f'Scene: {"; ".join(result["scenes"])}.')
    short = _short(result)
    if short:
        notes.append(f'Incomplete: {short}; run the same command again to go on.')
    errors = sum(row['errors'] for row in result['rows'] if row['task'] != 'all')
    if errors:
        notes.append(f'{errors} episodes raised an error and count as failures:')
        notes += [f'  {text}' for text in result['errors']]
    return notes


def success_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Success, its interval, and the comparison with the first method, in words of the table."""
    low, high = row['success_ci95']
    wrong = row['wrong_object']
    return (
        f'{row["successes"]}/{row["episodes"]}',
        f'{100 * row["success_rate"]:.1f}',
        f'{100 * low:.1f}-{100 * high:.1f}',
        *_versus(row['versus_first']),
        ' '.join(f'{count} {how}' for how, count in wrong.items()) or '0',
    )


def _versus(versus: Mapping[str, Any] | None) -> tuple[str, ...]:
    if versus is None:
        return ('-',) * 4
    low, high = versus['points_ci95']
    return (
        f'{versus["points"]:+.1f}',
        f'{low:+.1f} {high:+.1f}',
        f'{versus["only_first"]} / {versus["only_this"]}',
        f'{versus["p_value"]:.2g}',
    )


def cost_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Tokens, modes, queries and milliseconds, in words of the table."""
    if not row['queries']:
        return ('-',) * 7
    shares = (100 * row['mode_shares'].get(mode, 0.0) for mode in ('dense', 'coarse', 'fine'))
    asked, refresh = row['queries_per_success'], row['refresh_ms']
    return (
        f'{row["visual_tokens"]:.0f}',
        f'{100 * row["visual_share"]:.0f}',
        '/'.join(f'{share:.0f}' for share in shares),
        '-' if asked is None else f'{asked:.1f}',
        f'{row["latency_ms"]["p50"]:.1f}',
        f'{row["latency_ms"]["p95"]:.1f}',
        '-' if refresh is None else f'{refresh["p50"]:.1f}',
    )


def _short(result: Mapping[str, Any]) -> str:
    """Methods and tasks that have fewer episodes than were asked for."""
    asked = result['settings']['episodes']
    there = {(r['method'], r['task']): r['episodes'] for r in result['rows']}
    wanted = [(m, t) for m in result['settings']['methods'] for t in result['settings']['tasks']]
    missing = sum(asked - there.get(pair, 0) for pair in wanted)
    return f'{missing} of {asked * len(wanted)} episodes are missing' if missing else ''


def _labels(result: Mapping[str, Any]) -> str:
    labels = ', UNTRAINED' if result['untrained'] else ''
    return labels + (', GENERATED ASSETS' if result['generated_assets'] else '')


def _where(result: Mapping[str, Any]) -> str:
    device = result['settings']['device']
    threads = result['settings']['threads']
    if device != 'cpu':
        return device
    return f'{result["machine"]["cpu"]}, {threads} thread{"s" * (threads > 1)}'


def _table_results_table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify='left', box=box.SIMPLE_HEAD, padding=0)
    table.add_column('task', overflow='fold')
    table.add_column('method', overflow='fold')
    for name in columns:
        table.add_column(name, justify='right', no_wrap=True)
    return table


_HEAD = (
    ('task', 'method', 'success', '%', '95 %', 'points', '95 %', '- / +', 'p', 'wrong cube'),
    (
        'task',
        'method',
        'tokens',
        '%',
        'dense/coarse/fine %',
        'queries',
        'ms p50',
        'p95',
        'refresh',
    ),
)


def result_markdown(result: Mapping[str, Any]) -> str:
    """Two tables with a row per task and method, and the command that made them."""
    rows = result['rows']
    tables = (
        _table(
            _HEAD[0], [(row['task'], f'`{row["method"]}`', *success_cells(row)) for row in rows]
        ),
        _table(_HEAD[1], [(row['task'], f'`{row["method"]}`', *cost_cells(row)) for row in rows]),
    )
    return '\n\n'.join((*tables, f'`{result["command"]}`')) + '\n'


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ('---',) * len(head), *rows]
    return '\n'.join(
        f'| {" | ".join(cell.replace("|", "/") for cell in line)} |' for line in lines
    )
