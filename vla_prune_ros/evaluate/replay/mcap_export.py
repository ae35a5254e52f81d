"""What each method answered on a bag, as a bag that Foxglove, PlotJuggler and RViz open.

Messages are logged at the time of receipt of their instant, with the stamp of the query: both bags
lie on one time axis, and the stamp joins images and methods.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...bags.writer import BagWriter, message_builder
from ...records import ActionChunk
from .store import Instant, Recording, ReplayedQuery

RECORDED = 'recorded'
"""In the place of a method: what was done when the bag was recorded."""


def write_predictions(
    path: str | Path,
    recording: Recording,
    answers: Mapping[str, Sequence[ReplayedQuery]],
    dt_s: float,
    frame_id: str = 'base_link',
) -> int:
    """Write the answers of all methods as one MCAP bag; docs/replay.md lists the topics.

    :param path: folder of the bag; a bag that is there is replaced.
    :returns: number of messages; where it would be 0, no bag is made.
    :raises DataError: see :class:`~vla_prune_ros.bags.writer.BagWriter`.
    """
    rows = _Messages(recording, dt_s, frame_id).rows(answers)
    first = next(rows, None)
    if first is None:
        return 0
    with BagWriter(path, overwrite=True) as writer:
        for receipt_ns, topic, message in chain([first], rows):
            writer.write(topic, receipt_ns, message)
    return sum(topic.count for topic in writer.topics.values())


def topic_names(methods: Collection[str]) -> dict[str, str]:
    """Method -> its name in topics: letters, digits and single underscores, a letter in front.

    Of a folder behind ``@`` only the last part counts. Names that would meet get numbers.
    """
    found: dict[str, str] = {}
    for method in methods:
        base = re.sub(r'@.*/(?=.)', '@', method.rstrip('/'))
        base = re.sub(r'[^A-Za-z0-9]+', '_', base).strip('_')
        base = base if base[:1].isalpha() else f'method_{base}'.rstrip('_')
        name, number = base, 1
        while name == RECORDED or name in found.values():
            number += 1
            name = f'{base}_{number}'
        found[method] = name
    return found


class _Messages:
    def __init__(self, recording: Recording, dt_s: float, frame_id: str) -> None:
        self._recording, self._dt_s, self._frame_id = recording, dt_s, frame_id
        self._build = message_builder()

    def rows(
        self, answers: Mapping[str, Sequence[ReplayedQuery]]
    ) -> Iterator[tuple[int, str, Any]]:
        """Time of receipt, topic and message."""
        names, recording = topic_names(answers), self._recording
        by_number = {m: {q.number: q for q in queries} for m, queries in answers.items()}
        for number, instant in enumerate(recording.instants):
            messages = {}
            known = np.logical_and.accumulate(recording.valid[number]).sum()
            if recording.source and known:
                messages |= self._chunk(RECORDED, recording.actions[number][:known], instant)
            for method, queries in by_number.items():
                if number in queries:
                    messages |= self._query(method, names[method], queries[number], instant)
            for topic, message in messages.items():
                yield instant.receipt_ns, f'/replay/{topic}', message

    def _query(
        self, method: str, name: str, query: ReplayedQuery, instant: Instant
    ) -> dict[str, Any]:
        build, record = self._build, query.record
        out = {} if query.actions is None else self._chunk(name, query.actions, instant)
        refusal = {'refusal': query.refusal} if query.refusal else {}
        status = build.status(
            f'{method}: inference',
            refusal | record.flat(),
            message=query.refusal or 'replayed',
            level=build.WARN if query.refusal else build.OK,
            hardware_id='replay',
        )
        out[f'{name}/inference'] = build.diagnostics([status], instant.stamp_ns)
        if record.mode:
            out[f'{name}/visual_tokens'] = build.number(record.visual_tokens)
            out[f'{name}/latency_ms'] = build.number(record.total_ms)
        return out

    def _chunk(self, name: str, actions: np.ndarray, instant: Instant) -> dict[str, Any]:
        build, frame_id = self._build, self._frame_id
        chunk = ActionChunk(instant.stamp_ns, self._dt_s, actions[:, :6], actions[:, 6], frame_id)
        velocity = actions[0, :6] / self._dt_s
        out = {
            f'{name}/action_chunk': build.chunk(chunk),
            f'{name}/first_step': build.twist(velocity, instant.stamp_ns, frame_id),
        }
        if instant.position is not None:
            out[f'{name}/chunk_path'] = build.path(chunk, instant.position)
        return out
