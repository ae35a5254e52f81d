"""The result of ``vla-prune replay``: what report.json, the page and the console show.

The fields are the keys of report.json, which docs/replay.md lists.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..tables import NOTHING
from .columns import Column, counts, parts, shown
from .metrics import (
    Borders,
    ChunkSeries,
    Comparison,
    Percentiles,
    borders,
    compare,
    middle_and_tail,
    step_error_mm,
)
from .records import Recording, ReplayedQuery

_MODES = 'dense/coarse/fine'


def _mode_percentages(modes: Mapping[str, int]) -> str:
    total, named = sum(modes.values()), _MODES.split('/')
    if not total:
        return NOTHING
    text = '/'.join(f'{100 * modes.get(mode, 0) / total:.0f}' for mode in named)
    others = {mode: count for mode, count in modes.items() if mode not in named}
    return f'{text}, {counts(others)}' if others else text


@dataclass(frozen=True)
class Problem:
    code: str
    text: str


@dataclass(frozen=True)
class BagProblem:
    bag: str
    code: str
    text: str


@dataclass(frozen=True)
class MethodRow:
    method: str
    queries: int = shown(Column('times the policy was asked', str, short='queries'))
    refused: int = shown(
        Column('queries that gave no chunk: input or answer was refused', str, short='refused')
    )
    refusals: dict[str, int] = shown(Column('refusals by reason', counts))
    visual_tokens: float | None = shown(
        Column('tokens of all cameras that reach the last layer, mean', short='tokens')
    )
    modes: dict[str, int] = shown(
        Column(
            'queries in each mode of the method', _mode_percentages, f'{_MODES} %', f'{_MODES} %'
        )
    )
    latency_ms: Percentiles | None = shown(*parts('time of a query', p50='ms p50', p95='p95'))
    refresh_ms: Percentiles | None = shown(
        *parts('dense pass after a query, not in the latency', p50='refresh', p95='')
    )
    versus_dense: Comparison | None
    versus_recorded: Comparison | None
    borders: Borders


@dataclass(frozen=True)
class Series:
    """A value per query of one method on one bag; None where it is unknown.

    :param dense_mm: mean distance of the steps to dense; ``recorded_mm``: to what was recorded.
    :param gripper: first command of the chunk.
    """

    t_s: list[float]
    latency_ms: list[float | None]
    visual_tokens: list[int | None]
    mode: list[str]
    speed_m_s: list[float | None]
    dense_mm: list[float | None]
    recorded_mm: list[float | None]
    gripper: list[float | None]
    refusal: list[str]


@dataclass(frozen=True)
class RecordedSeries:
    t_s: list[float]
    gripper: list[float | None]


@dataclass(frozen=True)
class Moment:
    """What the model saw of one camera at one query: JPEG of 224 x 224 as data URI.

    :param kept: method -> 256 characters 0 or 1, row-major; ``mode``: method -> mode.
    """

    t_s: float
    camera: str
    image: str
    kept: dict[str, str]
    mode: dict[str, str]


@dataclass(frozen=True)
class TopicCount:
    type: str
    count: int


@dataclass(frozen=True)
class BagResult:
    """One bag; the defaults are those of a bag that could not be read.

    :param topics: stream -> topic; ``there``: topic -> what the bag has of it.
    :param losses: reason -> messages and pairs that were not used.
    :param recorded: stream of the recorded actions; empty where there are none.
    """

    name: str
    path: str
    problems: tuple[Problem, ...]
    rows: tuple[MethodRow, ...] = ()
    strip: tuple[Moment, ...] = ()
    duration_s: float | None = None
    start_ns: int | None = None
    there: dict[str, TopicCount] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    guessed: bool = False
    instructions: tuple[str, ...] = ()
    queries: int = 0
    epochs: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    recorded: str = ''
    series: dict[str, Series] = field(default_factory=dict)
    recorded_series: RecordedSeries | None = None


@dataclass(frozen=True)
class ReplayResult:
    ok: bool
    command: str
    untrained: bool
    checkpoint: str
    checkpoints: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: tuple[MethodRow, ...]
    bags: tuple[BagResult, ...]
    problems: tuple[BagProblem, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class BagAnswers:
    """:param recording: None where the bag gave nothing; ``problems`` say why.
    :param answers: method -> one answer per instant.
    :param problems: beyond those of the recording.
    """

    name: str
    path: Path
    recording: Recording | None
    answers: Mapping[str, Sequence[ReplayedQuery]]
    problems: tuple[Problem, ...] = ()
    moments: tuple[Moment, ...] = ()


class ResultBuilder:
    def __init__(
        self,
        bags: Sequence[BagAnswers],
        *,
        methods: Sequence[str],
        dense: str,
        dt_s: float,
        chunk: int,
    ) -> None:
        self._bags = tuple(bags)
        self._methods, self._dense = tuple(methods), dense
        self._dt_s, self._chunk = dt_s, chunk
        self._chunks = {
            (bag.name, method): self._series_of(queries)
            for bag in bags
            for method, queries in bag.answers.items()
        }
        self._recorded = {
            bag.name: self._recorded_of(bag.recording)
            for bag in bags
            if bag.recording is not None and bag.recording.source
        }

    def rows(self) -> tuple[MethodRow, ...]:
        in_order = sorted(self._bags, key=lambda b: b.name)  # sums do not depend on who came first
        return tuple(self._row(m, [b for b in in_order if m in b.answers]) for m in self._methods)

    def bags(self) -> tuple[BagResult, ...]:
        return tuple(map(self._bag, self._bags))

    def _series_of(self, queries: Sequence[ReplayedQuery]) -> ChunkSeries:
        actions = np.zeros((len(queries), self._chunk, 7))
        known = np.zeros((len(queries), self._chunk), bool)
        for i, query in enumerate(queries):
            if query.actions is not None:
                actions[i], known[i] = query.actions, True
        return ChunkSeries(
            stamps_ns=[q.stamp_ns for q in queries],
            epochs=[q.epoch for q in queries],
            actions=actions,
            known=known,
            dt_s=self._dt_s,
        )

    def _recorded_of(self, recording: Recording) -> ChunkSeries:
        """What was done, taken as if each instant's steps had been a chunk."""
        return ChunkSeries(
            stamps_ns=[i.stamp_ns for i in recording.instants],
            epochs=[i.epoch for i in recording.instants],
            actions=recording.actions,
            known=recording.valid,
            dt_s=self._dt_s,
        )

    def _other(self, bag: str, method: str) -> ChunkSeries | None:
        return None if method == self._dense else self._chunks.get((bag, self._dense))

    def _row(self, method: str, bags: Sequence[BagAnswers]) -> MethodRow:
        queries = [q for bag in bags for q in bag.answers[method]]
        ran = [q.record for q in queries if q.record.mode]
        refusals = Counter(q.refusal.partition(':')[0] for q in queries if q.refusal)
        mine = {bag.name: self._chunks[bag.name, method] for bag in bags}
        dense = {name: self._other(name, method) for name in mine}
        return MethodRow(
            method=method,
            queries=len(queries),
            refused=sum(refusals.values()),
            refusals=dict(refusals),
            visual_tokens=float(np.mean([q.visual_tokens for q in ran])) if ran else None,
            modes=dict(Counter(q.mode for q in ran)),
            latency_ms=middle_and_tail([q.total_ms for q in ran]),
            refresh_ms=middle_and_tail([q.refresh_ms for q in ran if q.refresh_ms is not None]),
            versus_dense=compare([(mine[n], other) for n, other in dense.items() if other]),
            versus_recorded=compare(
                [(mine[n], self._recorded[n]) for n in mine if n in self._recorded]
            ),
            borders=borders(list(mine.values())),
        )

    def _bag(self, bag: BagAnswers) -> BagResult:
        found = bag.recording
        if found is None:
            return BagResult(name=bag.name, path=str(bag.path), problems=bag.problems)
        start, stop = found.span_ns
        seconds = [1e-9 * (i.receipt_ns - start) for i in found.instants]
        return BagResult(
            name=bag.name,
            path=str(bag.path),
            problems=(*(Problem(code, text) for code, text in found.problems), *bag.problems),
            rows=tuple(self._row(m, [bag]) for m in self._methods if m in bag.answers),
            strip=bag.moments,
            duration_s=1e-9 * (stop - start),
            start_ns=start,
            there={name: TopicCount(type_, count) for name, (type_, count) in found.there.items()},
            topics=dict(found.topics),
            guessed=found.guessed,
            instructions=tuple(dict.fromkeys(i.instruction for i in found.instants)),
            queries=len(found.instants),
            epochs=len({i.epoch for i in found.instants}),
            losses=dict(found.losses),
            recorded=found.source,
            series={m: self._series(bag, m, seconds) for m in bag.answers},
            recorded_series=_recorded_series(found, seconds) if found.source else None,
        )

    def _series(self, bag: BagAnswers, method: str, seconds: Sequence[float]) -> Series:
        queries, chunks = bag.answers[method], self._chunks[bag.name, method]

        def error_mm(other: ChunkSeries | None) -> list[float | None]:
            return [None] * len(queries) if other is None else step_error_mm(chunks, other)

        return Series(
            t_s=list(seconds),
            latency_ms=[q.record.total_ms for q in queries],
            visual_tokens=[q.record.visual_tokens for q in queries],
            mode=[q.record.mode for q in queries],
            speed_m_s=[q.record.motion_m_s for q in queries],
            dense_mm=error_mm(self._other(bag.name, method)),
            recorded_mm=error_mm(self._recorded.get(bag.name)),
            gripper=[None if q.actions is None else float(q.actions[0, 6]) for q in queries],
            refusal=[q.refusal for q in queries],
        )


def _recorded_series(found: Recording, seconds: Sequence[float]) -> RecordedSeries:
    first = zip(found.actions[:, 0, 6], found.valid[:, 0], strict=True)
    return RecordedSeries(
        t_s=list(seconds), gripper=[float(g) if known else None for g, known in first]
    )
