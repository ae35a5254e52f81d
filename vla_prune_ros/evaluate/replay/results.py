"""The result of ``vla-prune replay``; the fields are the keys of report.json in docs/replay.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..statistics import percentiles
from ..tables import NOTHING
from .columns import Column, counts, figures, shown
from .metrics import Borders, ChunkSeries, Comparison, Figures, borders, compare, step_error_mm
from .store import Instant, Recording, ReplayedQuery

_MODES = 'dense/coarse/fine %'


def _mode_percentages(modes: Mapping[str, int]) -> str:
    total, named = sum(modes.values()), ('dense', 'coarse', 'fine')
    if not total:
        return NOTHING
    text = '/'.join(f'{100 * modes.get(mode, 0) / total:.0f}' for mode in named)
    others = {mode: count for mode, count in modes.items() if mode not in named}
    return f'{text}, {counts(others)}' if others else text


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
        Column('queries in each mode of the method', _mode_percentages, _MODES, _MODES)
    )
    latency_ms: Figures | None = shown(*figures('time of a query', p50='ms p50', p95='p95'))
    refresh_ms: Figures | None = shown(
        *figures('dense pass after a query, not in the latency', p50='refresh', p95='')
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
class Moment:
    """:param image: what the model saw of the camera, JPEG of 224 x 224 as data URI.
    :param kept: method -> 256 characters 0 or 1, row-major; ``mode``: method -> mode.
    """

    t_s: float
    camera: str
    image: str
    kept: dict[str, str]
    mode: dict[str, str]


@dataclass(frozen=True)
class BagResult:
    """One bag; the defaults are those of a bag that could not be read.

    :param problems: ``code`` and ``text``.
    :param there: topic -> ``type`` and ``count`` of messages; ``topics``: stream -> topic.
    :param losses: reason -> messages and pairs that were not used.
    :param recorded: stream of the recorded actions, empty where there are none;
        ``recorded_series``: ``t_s`` and ``gripper`` of it.
    """

    name: str
    path: str
    problems: tuple[dict[str, str], ...]
    rows: tuple[MethodRow, ...] = ()
    strip: tuple[Moment, ...] = ()
    duration_s: float | None = None
    start_ns: int | None = None
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    guessed: bool = False
    instructions: tuple[str, ...] = ()
    queries: int = 0
    epochs: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    recorded: str = ''
    series: dict[str, Series] = field(default_factory=dict)
    recorded_series: dict[str, list[float | None]] | None = None


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
    problems: tuple[dict[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class BagAnswers:
    """:param recording: None where the bag gave nothing.
    :param answers: method -> one answer per instant.
    :param problems: (code, one line), beyond those of the recording.
    """

    name: str
    path: Path
    recording: Recording | None
    answers: Mapping[str, Sequence[ReplayedQuery]]
    problems: Sequence[tuple[str, str]] = ()
    moments: tuple[Moment, ...] = ()


class ResultBuilder:
    """:param dense: method that the others are compared with; empty where it was not replayed.
    :param chunk: steps of a chunk, ``dt_s`` apart.
    """

    def __init__(
        self,
        bags: Sequence[BagAnswers],
        *,
        methods: Sequence[str],
        dense: str,
        dt_s: float,
        chunk: int,
    ) -> None:
        self._bags, self._methods = bags, methods
        # Bag and method -> its chunks, those of dense, and what was done.
        self._sides: dict[tuple[str, str], tuple[ChunkSeries | None, ...]] = {}
        for bag in bags:
            found, recorded = bag.recording, None
            if found is not None and found.source:
                recorded = _series(found.instants, found.actions, found.valid, dt_s)
            every = {m: _chunks(queries, chunk, dt_s) for m, queries in bag.answers.items()}
            for method, own in every.items():
                other = None if method == dense else every.get(dense)
                self._sides[bag.name, method] = own, other, recorded

    def rows(self) -> tuple[MethodRow, ...]:
        in_order = sorted(self._bags, key=lambda b: b.name)  # sums do not depend on who came first
        return tuple(self._row(m, [b for b in in_order if m in b.answers]) for m in self._methods)

    def bags(self) -> tuple[BagResult, ...]:
        return tuple(map(self._bag, self._bags))

    def _row(self, method: str, bags: Sequence[BagAnswers]) -> MethodRow:
        queries = [q for bag in bags for q in bag.answers[method]]
        ran = [q.record for q in queries if q.record.mode]
        refusals = Counter(q.refusal.partition(':')[0] for q in queries if q.refusal)
        sides = [self._sides[bag.name, method] for bag in bags]
        return MethodRow(
            method=method,
            queries=len(queries),
            refused=sum(refusals.values()),
            refusals=dict(refusals),
            visual_tokens=float(np.mean([q.visual_tokens for q in ran])) if ran else None,
            modes=dict(Counter(q.mode for q in ran)),
            latency_ms=percentiles([q.total_ms for q in ran]),
            refresh_ms=percentiles([q.refresh_ms for q in ran if q.refresh_ms is not None]),
            versus_dense=compare([(own, dense) for own, dense, _ in sides if dense]),
            versus_recorded=compare([(own, done) for own, _, done in sides if done]),
            borders=borders([own for own, *_ in sides]),
        )

    def _bag(self, bag: BagAnswers) -> BagResult:
        found, name, path = bag.recording, bag.name, str(bag.path)
        pairs = (*(() if found is None else found.problems), *bag.problems)
        problems = tuple({'code': code, 'text': text} for code, text in pairs)
        if found is None:
            return BagResult(name=name, path=path, problems=problems)
        start, stop = found.span_ns
        t_s = [1e-9 * (i.receipt_ns - start) for i in found.instants]
        first = zip(found.actions[:, 0, 6], found.valid[:, 0], strict=True)
        gripper = [float(value) if known else None for value, known in first]
        return BagResult(
            name=name,
            path=path,
            problems=problems,
            rows=tuple(self._row(m, [bag]) for m in self._methods if m in bag.answers),
            strip=bag.moments,
            duration_s=1e-9 * (stop - start),
            start_ns=start,
            there={topic: {'type': t, 'count': n} for topic, (t, n) in found.there.items()},
            topics=dict(found.topics),
            guessed=found.guessed,
            instructions=tuple(dict.fromkeys(i.instruction for i in found.instants)),
            queries=len(found.instants),
            epochs=len({i.epoch for i in found.instants}),
            losses=dict(found.losses),
            recorded=found.source,
            series={m: self._series(bag, m, t_s) for m in bag.answers},
            recorded_series={'t_s': t_s, 'gripper': gripper} if found.source else None,
        )

    def _series(self, bag: BagAnswers, method: str, t_s: list[float]) -> Series:
        queries = bag.answers[method]
        records = [q.record for q in queries]
        own, dense, recorded = self._sides[bag.name, method]
        unknown = [None] * len(queries)
        return Series(
            t_s=t_s,
            latency_ms=[r.total_ms for r in records],
            visual_tokens=[r.visual_tokens for r in records],
            mode=[r.mode for r in records],
            speed_m_s=[r.motion_m_s for r in records],
            dense_mm=step_error_mm(own, dense) if dense else unknown,
            recorded_mm=step_error_mm(own, recorded) if recorded else unknown,
            gripper=[None if q.actions is None else float(q.actions[0, 6]) for q in queries],
            refusal=[q.refusal for q in queries],
        )


def _series(
    at: Sequence[Instant | ReplayedQuery], actions: np.ndarray, known: np.ndarray, dt_s: float
) -> ChunkSeries:
    stamps_ns, epochs = [one.stamp_ns for one in at], [one.epoch for one in at]
    return ChunkSeries(stamps_ns, epochs, actions=actions, known=known, dt_s=dt_s)


def _chunks(queries: Sequence[ReplayedQuery], chunk: int, dt_s: float) -> ChunkSeries:
    actions = np.zeros((len(queries), chunk, 7))
    known = np.array([q.actions is not None for q in queries], bool)
    for i in np.flatnonzero(known):
        actions[i] = queries[i].actions
    return _series(queries, actions, np.repeat(known[:, None], chunk, axis=1), dt_s)
