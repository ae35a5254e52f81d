"""The result of ``vla-prune replay`` as one dict: what report.json holds and the page is made of.

Its keys are listed in docs/replay.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..statistics import percentiles
from .metrics import (
    Chunks,
    Executed,
    borders,
    compare,
    compare_flips,
    execute,
    flips,
    step_error_mm,
)
from .records import Recording, ReplayedQuery

Problem = dict[str, str]


@dataclass(frozen=True, eq=False)
class BagAnswers:
    """A bag with every method's answers.

    :param name: short, different for each bag.
    :param recording: None where the bag gave nothing; ``problems`` say why.
    :param answers: method -> one answer per instant.
    :param problems: beyond those of the recording.
    :param strip: see :mod:`~.replay_pictures`.
    """

    name: str
    path: Path
    recording: Recording | None
    answers: Mapping[str, Sequence[ReplayedQuery]]
    problems: tuple[Problem, ...] = ()
    strip: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class _Part:
    """One method's share of one bag, ready to be compared."""

    queries: Sequence[ReplayedQuery]
    actions: np.ndarray
    known: np.ndarray
    executed: Executed
    dense: Chunks | None
    recorded: Chunks | None
    dense_flips: tuple[list, list] | None
    recorded_flips: tuple[list, list] | None


class ResultBuilder:
    """Figures of all methods on all bags.

    :param methods: in the order of the tables.
    :param dense: the method that the others are compared with, ``''`` for none.
    :param dt_s: control period. :param chunk: steps of a chunk.
    """

    def __init__(self, methods: Sequence[str], dense: str, dt_s: float, chunk: int) -> None:
        self._methods, self._dense = tuple(methods), dense
        self._dt_s, self._chunk = dt_s, chunk

    def build(self, bags: Sequence[BagAnswers]) -> dict[str, Any]:
        """``rows``, ``bags`` and ``problems``."""
        parts = {bag.name: self._parts(bag) for bag in bags}
        in_order = [parts[name] for name in sorted(parts)]  # sums do not depend on who came first
        rows = [
            self._row(method, [p[method] for p in in_order if method in p])
            for method in self._methods
        ]
        described = [self._bag(bag, parts[bag.name]) for bag in bags]
        problems = [{'bag': b['name'], **p} for b in described for p in b['problems']]
        return {'rows': rows, 'bags': described, 'problems': problems}

    def _parts(self, bag: BagAnswers) -> dict[str, _Part]:
        if bag.recording is None:
            return {}
        acted = self._recorded(bag.recording)
        stacked = {m: self._stack(queries) for m, queries in bag.answers.items()}
        driven = {m: self._execute(bag.answers[m], *stacked[m]) for m in bag.answers}
        base = stacked.get(self._dense)
        out = {}
        for method, (actions, known) in stacked.items():
            other = base if method != self._dense else None
            out[method] = _Part(
                bag.answers[method],
                actions,
                known,
                driven[method],
                None if other is None else Chunks(actions, other[0], known & other[1]),
                None
                if acted is None
                else Chunks(actions, bag.recording.actions, known & bag.recording.valid),
                None if other is None else (flips(driven[method]), flips(driven[self._dense])),
                None if acted is None else (flips(driven[method]), flips(acted)),
            )
        return out

    def _stack(self, queries: Sequence[ReplayedQuery]) -> tuple[np.ndarray, np.ndarray]:
        """float64 (N, K, 7), zeros where refused, and bool (N, K) where answered."""
        actions = np.zeros((len(queries), self._chunk, 7))
        known = np.zeros((len(queries), self._chunk), bool)
        for i, query in enumerate(queries):
            if query.actions is not None:
                actions[i], known[i] = query.actions, True
        return actions, known

    def _execute(
        self, queries: Sequence[ReplayedQuery], actions: np.ndarray, known: np.ndarray
    ) -> Executed:
        stamps, epochs = [q.stamp_ns for q in queries], [q.epoch for q in queries]
        return execute(stamps, epochs, actions, known, self._dt_s)

    def _recorded(self, recording: Recording) -> Executed | None:
        """What was done, taken as if each instant's steps had been a chunk."""
        if not recording.source:
            return None
        stamps = [i.stamp_ns for i in recording.instants]
        epochs = [i.epoch for i in recording.instants]
        return execute(stamps, epochs, recording.actions, recording.valid, self._dt_s)

    def _row(self, method: str, parts: Sequence[_Part]) -> dict[str, Any]:
        queries = [q for part in parts for q in part.queries]
        asked = [q for q in queries if q.mode]
        times = [q.timings_ms['total'] for q in asked]
        refreshed = [q.refresh_ms for q in asked if q.refresh_ms is not None]
        refusals = Counter(q.refusal.partition(':')[0] for q in queries if q.refusal)
        return {
            'method': method,
            'queries': len(queries),
            'refused': sum(refusals.values()),
            'refusals': dict(refusals),
            'visual_tokens': float(np.mean([q.visual_tokens for q in asked])) if asked else None,
            'latency_ms': percentiles(times),
            'refresh_ms': percentiles(refreshed),
            'modes': dict(Counter(q.mode for q in asked)),
            'versus_dense': _versus(
                [p.dense for p in parts if p.dense], [p.dense_flips for p in parts if p.dense]
            ),
            'versus_recorded': _versus(
                [p.recorded for p in parts if p.recorded],
                [p.recorded_flips for p in parts if p.recorded],
            ),
            'borders': borders([p.executed for p in parts], self._dt_s),
        }

    def _bag(self, bag: BagAnswers, parts: Mapping[str, _Part]) -> dict[str, Any]:
        found = bag.recording
        problems = list(bag.problems)
        if found is not None:
            problems = [{'code': c, 'text': t} for c, t in found.problems] + problems
        out: dict[str, Any] = {
            'name': bag.name,
            'path': str(bag.path),
            'problems': problems,
            'rows': [self._row(m, [parts[m]]) for m in self._methods if m in parts],
            'strip': list(bag.strip),
        }
        return out | (_EMPTY if found is None else self._described(found, parts))

    def _described(self, found: Recording, parts: Mapping[str, _Part]) -> dict[str, Any]:
        start, stop = found.span_ns
        seconds = [1e-9 * (i.receipt_ns - start) for i in found.instants]
        return {
            'duration_s': 1e-9 * (stop - start),
            'start_ns': start,
            'there': {n: {'type': t, 'count': c} for n, (t, c) in found.there.items()},
            'topics': dict(found.topics),
            'guessed': found.guessed,
            'instructions': list(dict.fromkeys(i.instruction for i in found.instants)),
            'queries': len(found.instants),
            'epochs': len({i.epoch for i in found.instants}),
            'losses': dict(found.losses),
            'recorded': found.source,
            'series': {m: _series(part, seconds) for m, part in parts.items()},
            'recorded_series': _recorded_series(found, seconds),
        }


_EMPTY: dict[str, Any] = {
    'duration_s': None,
    'start_ns': None,
    'there': {},
    'topics': {},
    'guessed': False,
    'instructions': [],
    'queries': 0,
    'epochs': 0,
    'losses': {},
    'recorded': '',
    'series': {},
    'recorded_series': None,
}


def _versus(
    chunks: Sequence[Chunks], turns: Sequence[tuple[list, list] | None]
) -> dict[str, Any] | None:
    figures = compare(Chunks.together(chunks)) if chunks else None
    return None if figures is None else {**figures, 'flips': compare_flips(turns)}


def _series(part: _Part, seconds: Sequence[float]) -> dict[str, list[Any]]:
    queries = part.queries
    count = len(queries)
    none: list[float | None] = [None] * count
    return {
        't_s': list(seconds[:count]),
        'latency_ms': [q.timings_ms.get('total') for q in queries],
        'visual_tokens': [q.visual_tokens if q.mode else None for q in queries],
        'mode': [q.mode for q in queries],
        'speed_m_s': [None if q.motion is None else q.motion.linear_m_s for q in queries],
        'dense_mm': none if part.dense is None else step_error_mm(part.dense),
        'recorded_mm': none if part.recorded is None else step_error_mm(part.recorded),
        'gripper': [None if q.actions is None else float(q.actions[0, 6]) for q in queries],
        'refusal': [q.refusal for q in queries],
    }


def _recorded_series(found: Recording, seconds: Sequence[float]) -> dict[str, list[Any]] | None:
    if not found.source:
        return None
    first = zip(found.actions[:, 0, 6], found.valid[:, 0], strict=True)
    return {'t_s': list(seconds), 'gripper': [float(g) if known else None for g, known in first]}
