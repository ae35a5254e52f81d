"""Records of ``~/inference`` as figures: the results of ``demo`` and of ``bench --node``."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..records import MethodRun
from .machine import machine, where
from .statistics import percentiles
from .tables import Column, fixed, quantile, rich_table
from .video import VideoWriter

STAGE_ORDER = (
    *(f'node_{name}' for name in ('pairing', 'queue', 'decode', 'state')),
    *(f'policy_{name}' for name in ('preprocess', 'vision', 'selection', 'language', 'head')),
    *(f'node_{name}' for name in ('guard', 'publish', 'report')),
)
MODES = ('coarse', 'fine', 'dense')
TOTALS = {
    'policy_total': 'policy total',
    'overhead': 'node overhead',
    'stamp_to_chunk': 'image stamp to chunk',
    'refresh': 'refresh behind the chunk',
}


def stage_percentiles(records: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Stage name (without ``_ms``) -> p50 and p95, in the order in which things happen."""
    columns: dict[str, list[float]] = {}
    for record in records:
        for key, value in record.items():
            if key.endswith('_ms'):
                columns.setdefault(key.removesuffix('_ms'), []).append(float(value))
    order = [n for n in (*STAGE_ORDER, *TOTALS) if n in columns]
    order += [n for n in columns if n not in order]
    return {name: percentiles(columns[name]) for name in order}


def stage_label(name: str) -> str:
    return TOTALS.get(name, name.removeprefix('node_').removeprefix('policy_'))


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    method: str
    episodes: int
    successes: int
    queries: int
    chunks: int
    moved_m: float
    visual_tokens: float | None
    modes: dict[str, int]
    motion_unknown: int
    latency_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]


def demo_row(run: MethodRun) -> DemoRow:
    records = run.records
    tokens = [float(r['visual_tokens']) for r in records]
    modes = Counter(r['mode'] for r in records if 'mode' in r)
    stages = stage_percentiles(records)
    return DemoRow(
        method=run.method,
        episodes=run.episodes,
        successes=run.successes,
        queries=len(records),
        chunks=run.chunks,
        moved_m=round(run.moved_m, 4),
        visual_tokens=float(np.mean(tokens)) if tokens else None,
        modes={mode: modes[mode] for mode in (*MODES, *modes) if modes[mode]},
        motion_unknown=sum(r.get('motion') == 'unknown' for r in records),
        latency_ms=stages.get('policy_total', {}),
        stages_ms=stages,
    )


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    ok: bool  # every method gave chunks
    untrained: bool
    rows: list[DemoRow]
    machine: dict[str, Any]
    policy: dict[str, str]  # how it describes itself
    video: str


def report_demo(
    runs: Sequence[MethodRun],
    about: Mapping[str, str],
    video: VideoWriter,
    out: Path,
    console: Console,
) -> DemoResult:
    result = DemoResult(
        ok=all(run.chunks for run in runs),
        untrained=about.get('untrained') == 'True',
        rows=[demo_row(run) for run in runs],
        machine=machine(),
        policy=dict(about),
        video=str(video.path),
    )
    path = out / 'demo.json'
    path.write_text(json.dumps(asdict(result), indent=2) + '\n', encoding='utf-8')
    console.print(demo_table(result.rows, f'vla-prune demo on {where(result.machine)}'))
    if result.untrained:
        console.print(
            '[bold yellow]UNTRAINED random weights: the arm moves, it does not solve the task[/]'
        )
    console.print(f'video  {video.path} ({video.frames} frames)')
    console.print(f'result {path}\nlogs   {out / "logs"}')
    return result


def demo_table(rows: Sequence[DemoRow], title: str) -> Table:
    """A column per method, a line per figure: methods are few, and figures are many."""
    lines: list[tuple[str, list[str]]] = [
        ('episodes', [str(r.episodes) for r in rows]),
        ('queries', [str(r.queries) for r in rows]),
        ('chunks', [str(r.chunks) for r in rows]),
        ('visual tokens kept', [fixed(r.visual_tokens, '.0f') for r in rows]),
        (' / '.join(MODES), [' / '.join(str(r.modes.get(m, 0)) for m in MODES) for r in rows]),
        ('arm moved (m)', [f'{r.moved_m:.2f}' for r in rows]),
        ('successes', [f'{r.successes}/{r.episodes}' for r in rows]),
    ]
    for name in (*STAGE_ORDER, *TOTALS):
        found = [r.stages_ms.get(name) for r in rows]
        if any(found):
            cells = [f'{f["p50"]:.2f} / {f["p95"]:.2f}' if f else '-' for f in found]
            lines.append((f'{stage_label(name)} (ms) p50 / p95', cells))
    columns = [Column('', lambda line: line[0], is_name=True)]
    columns += [Column(row.method, lambda line, i=i: line[1][i]) for i, row in enumerate(rows)]
    return rich_table(title, columns, lines, section=lambda line: ' (ms)' in line[0])


# --- bench --node --------------------------------------------------------------------------------

TARGET_MS = 5.0
ARRIVED = 0.97  # of the asked rate: a slower publisher must not pass as a good transport


@dataclass(frozen=True, kw_only=True)
class NodeBench:
    ok: bool
    queries: int
    asked_hz: float
    sent_hz: dict[str, float]
    received_hz: dict[str, float]
    overhead_ms: dict[str, float]
    target_ms: float
    stages_ms: dict[str, dict[str, float]]
    transport_profile: bool
    machine: dict[str, Any]


def node_result(
    records: Sequence[Mapping[str, str]],
    *,
    asked_hz: float,
    sent_hz: Mapping[str, float],
    received_hz: Mapping[str, float],
    transport_profile: bool,
) -> NodeBench:
    stages = stage_percentiles(records)
    arrived = all(rate >= ARRIVED * asked_hz for rate in received_hz.values())
    return NodeBench(
        ok=stages['overhead']['p50'] < TARGET_MS and arrived,
        queries=len(records),
        asked_hz=asked_hz,
        sent_hz=dict(sent_hz),
        received_hz=dict(received_hz),
        overhead_ms=stages['overhead'],
        target_ms=TARGET_MS,
        stages_ms=stages,
        transport_profile=transport_profile,
        machine=machine(),
    )


def node_report(result: NodeBench) -> list[Any]:
    totals = ('overhead', 'policy_total', 'age_primary', 'age_wrist')
    names = [name for name in result.stages_ms if name.startswith('node_')]
    columns = (
        Column('ms', stage_label, is_name=True),
        Column('p50', lambda name: quantile(result.stages_ms[name], 'p50', '.2f')),
        Column('p95', lambda name: quantile(result.stages_ms[name], 'p95', '.2f')),
    )
    title = f'node overhead on {where(result.machine)}: {result.queries} queries'
    rates = ', '.join(
        f'{c} {sent:.1f} -> {result.received_hz[c]:.1f}' for c, sent in result.sent_hz.items()
    )
    return [
        rich_table(title, columns, [*names, *totals], section=lambda name: name in totals),
        f'640x480 images per second, sent -> received: {rates}\n'
        f'target: overhead p50 below {TARGET_MS:g} ms and all images received: '
        f'{"met" if result.ok else "MISSED"}',
    ]
