"""Many episodes to one row per method and task, for JSON, a console and Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..statistics import Paired, paired, percentiles, wilson
from ..tables import NOTHING, Column, fixed, markdown_table, quantile, rich_table
from .episodes import EpisodeKey, EpisodeResult

MODES = ('dense', 'coarse', 'fine')
ALL = 'all'
"""Value of ``task`` in the rows over all tasks."""

Episodes = Mapping[EpisodeKey, EpisodeResult]


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A method on a task; None where there is nothing to take a mean or percentile of."""

    method: str
    task: str
    episodes: int
    successes: int
    success_rate: float
    success_ci95: tuple[float, ...]
    errors: int
    wrong_object: dict[str, int]
    steps_per_success: float | None
    queries_per_success: float | None
    moved_m: float | None
    refresh_ms: dict[str, float] | None
    motion_sources: dict[str, int]
    queries: int
    visual_tokens: float | None
    visual_share: float | None
    latency_ms: dict[str, float] | None
    stages_ms: dict[str, dict[str, float]]
    modes: dict[str, int]
    mode_shares: dict[str, float]
    motion_unknown: int
    versus_first: Paired | None


def result_rows(
    episodes: Episodes, methods: Sequence[str], tasks: Sequence[str]
) -> list[ResultRow]:
    """Per task and method, then per method over all tasks; without episodes there is no row."""
    groups = {task: (task,) for task in tasks} | ({ALL: tuple(tasks)} if len(tasks) > 1 else {})
    rows = []
    for label, names in groups.items():
        first = _run(episodes, methods[0], names)
        for method in methods:
            run = _run(episodes, method, names)
            common = [key for key in run if key in first]
            versus = None
            if common and method != methods[0]:
                versus = paired(*([of[key].success for key in common] for of in (first, run)))
            if run:
                rows.append(_row(method, label, list(run.values()), versus))
    return rows


def _run(
    episodes: Episodes, method: str, tasks: Sequence[str]
) -> dict[tuple[str, int], EpisodeResult]:
    """Episodes of one method by task and seed."""
    found = {
        (k.task, k.seed): e for k, e in episodes.items() if k.method == method and k.task in tasks
    }
    return dict(sorted(found.items()))


def _row(
    method: str, task: str, results: Sequence[EpisodeResult], versus: Paired | None
) -> ResultRow:
    solved = [e for e in results if e.success]
    queries = [q for e in results for q in e.queries]
    counts = Counter(q.mode for q in queries)
    modes = {mode: counts[mode] for mode in (*MODES, *counts) if counts[mode]}
    stages = dict.fromkeys(name for q in queries for name in q.stages_ms)
    return ResultRow(
        method=method,
        task=task,
        episodes=len(results),
        successes=len(solved),
        success_rate=len(solved) / len(results),
        success_ci95=wilson(len(solved), len(results)),
        errors=sum(bool(e.error) for e in results),
        wrong_object=dict(Counter(e.wrong_object for e in results if e.wrong_object)),
        steps_per_success=_mean([e.steps for e in solved]),
        queries_per_success=_mean([len(e.queries) for e in solved]),
        moved_m=_mean([e.moved_m for e in results]),
        refresh_ms=_percentiles([ms for e in results for ms in e.refresh_ms]),
        motion_sources=dict(Counter(e.motion_source for e in results if e.motion_source)),
        queries=len(queries),
        visual_tokens=_mean([q.visual_tokens for q in queries]),
        visual_share=_mean([q.visual_tokens / e.visual_all for e in results for q in e.queries]),
        latency_ms=_percentiles([q.total_ms for q in queries]),
        stages_ms={
            name: _percentiles([q.stages_ms[name] for q in queries if name in q.stages_ms])
            for name in stages
        },
        modes=modes,
        mode_shares={mode: count / len(queries) for mode, count in modes.items()},
        motion_unknown=sum(q.motion_m_s is None for q in queries),
        versus_first=versus,
    )


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    found = percentiles(values)
    return found and {name: round(value, 3) for name, value in found.items()}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


# --- for people --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What ``result.json`` holds; ``ok``: no episode raised an error."""

    ok: bool
    untrained: bool
    rows: list[ResultRow]
    errors: list[str]
    settings: dict[str, Any]
    command: str
    checkpoints: list[dict[str, Any]]
    scenes: list[str]
    generated_assets: bool
    versions: dict[str, str]
    machine: dict[str, Any]


def _of_versus(head: str, cell: Any) -> Column:
    return Column(head, lambda r: NOTHING if r.versus_first is None else cell(r.versus_first))


def _of_queries(head: str, cell: Any) -> Column:
    return Column(head, lambda r: cell(r) if r.queries else NOTHING)


_NAMES = (
    Column('task', lambda r: r.task, is_name=True),
    Column('method', lambda r: r.method, is_name=True, is_code=True),
)
SUCCESS = (
    *_NAMES,
    Column('success', lambda r: f'{r.successes}/{r.episodes}'),
    Column('%', lambda r: f'{100 * r.success_rate:.1f}'),
    Column('95 %', lambda r: '-'.join(f'{100 * end:.1f}' for end in r.success_ci95)),
    _of_versus('points', lambda v: f'{v.points:+.1f}'),
    _of_versus('95 %', lambda v: ' '.join(f'{value:+.1f}' for value in v.points_ci95)),
    _of_versus('- / +', lambda v: f'{v.only_first} / {v.only_this}'),
    _of_versus('p', lambda v: f'{v.p_value:.2g}'),
    Column(
        'wrong cube', lambda r: ' '.join(f'{n} {how}' for how, n in r.wrong_object.items()) or '0'
    ),
)
COST = (
    *_NAMES,
    _of_queries('tokens', lambda r: f'{r.visual_tokens:.0f}'),
    _of_queries('%', lambda r: f'{100 * r.visual_share:.0f}'),
    _of_queries(
        f'{"/".join(MODES)} %',
        lambda r: '/'.join(f'{100 * r.mode_shares.get(mode, 0.0):.0f}' for mode in MODES),
    ),
    _of_queries('queries', lambda r: fixed(r.queries_per_success)),
    _of_queries('ms p50', lambda r: quantile(r.latency_ms)),
    _of_queries('p95', lambda r: quantile(r.latency_ms, 'p95')),
    _of_queries('refresh', lambda r: quantile(r.refresh_ms)),
)


def result_tables(result: EvaluateResult) -> tuple[Table, Table]:
    setting = result.settings
    instruction = f', instruction {setting["instruction"]!r}' if setting['instruction'] else ''
    labels = ', UNTRAINED' if result.untrained else ''
    labels += ', GENERATED ASSETS' if result.generated_assets else ''
    title = f'closed loop in {setting["simulator"]}{instruction}{labels}'
    device, threads = setting['device'], setting['threads']
    if device == 'cpu':
        device = f'{result.machine["cpu"]}, {threads} thread{"s" * (threads > 1)}'
    cost = f'what a query costs, {setting["dtype"]} on {device}'
    return (
        rich_table(title, SUCCESS, result.rows, section=lambda row: row.task),
        rich_table(cost, COST, result.rows, section=lambda row: row.task),
    )


def result_markdown(rows: Sequence[ResultRow], command: str) -> str:
    """The same tables and the command that made them, for a page that quotes them."""
    tables = markdown_table(SUCCESS, rows), markdown_table(COST, rows)
    return '\n\n'.join((*tables, f'`{command}`')) + '\n'


def result_notes(result: EvaluateResult) -> list[str]:
    first = result.settings['methods'][0]
    notes = []
    if result.untrained:
        notes.append('UNTRAINED: random weights; success means nothing here, times do.')
    notes += [
        f"points: success less that of {first} on the same seeds, with Newcombe's paired "
        f'interval. - / +: episodes that only {first} or only the method solved; p: exact '
        'McNemar test.',
        'queries: per solved episode. refresh: dense pass between queries, not in p50. Success '
        "intervals are Wilson's.",
    ]
    if result.generated_assets:
        notes.append(
            'GENERATED ASSETS: primitives in place of the published meshes and textures; not '
            'comparable with published results.'
        )
    notes.append(f'Scene: {"; ".join(result.scenes)}.')
    missing, wanted = missing_episodes(result)
    if missing:
        notes.append(
            f'Incomplete: {missing} of {wanted} episodes are missing; run the same command again '
            'to go on.'
        )
    errors = sum(row.errors for row in result.rows if row.task != ALL)
    if errors:
        notes.append(f'{errors} episodes raised an error and count as failures:')
        notes += [f'  {text}' for text in result.errors]
    return notes


def missing_episodes(result: EvaluateResult) -> tuple[int, int]:
    """How many episodes are not there, and how many were asked for."""
    settings = result.settings
    wanted = settings['episodes'] * len(settings['methods']) * len(settings['tasks'])
    return wanted - sum(row.episodes for row in result.rows if row.task != ALL), wanted
