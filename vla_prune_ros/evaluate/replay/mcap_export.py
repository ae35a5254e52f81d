"""What each method answered on a bag, as a bag that Foxglove, PlotJuggler and RViz open.

Every message is logged at the time of receipt of its instant, so that both bags lie on one time
axis, and carries the stamp of its query, which joins it to images and to other methods.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...bags.writer import BagWriter, message_builder
from ...records import ActionChunk
from .records import Instant, Recording, ReplayedQuery

ROOT = '/replay'
RECORDED = 'recorded'
"""What stands in the place of a method for what was done when the bag was recorded."""

Row = tuple[str, Any]
"""A topic and a message."""


def write_predictions(
    path: str | Path,
    recording: Recording,
    answers: Mapping[str, Sequence[ReplayedQuery]],
    dt_s: float,
    frame_id: str = 'base_link',
) -> int:
    """Write the answers of all methods as one MCAP bag, in order of time.

    For each method, named by :func:`topic_names`, below ``/replay/<method>``:

    - ``action_chunk``, ``chunk_path`` and ``inference``, as ``vla_policy`` publishes them; the
      path where the position of the end effector is known. A refused query has only the last, at
      WARN with the refusal.
    - ``first_step``: TwistStamped, velocity of the first step in m/s and rad/s.
    - ``visual_tokens`` and ``latency_ms``: Float64, of queries that were run.

    Below ``/replay/recorded`` chunk, path and first step of what was recorded, as far as the steps
    from an instant on are known without a gap.

    :param path: folder of the bag; a bag that is there is replaced.
    :param answers: method -> queries, by their numbers in the recording.
    :param dt_s: seconds per step.
    :param frame_id: frame of chunks and paths.
    :returns: number of messages; where it would be 0, no bag is made.
    :raises DataError: see :class:`~vla_prune_ros.bags.writer.BagWriter`.
    """
    rows = _rows(recording, answers, dt_s, frame_id)
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


def _rows(
    recording: Recording,
    answers: Mapping[str, Sequence[ReplayedQuery]],
    dt_s: float,
    frame_id: str,
) -> Iterator[tuple[int, str, Any]]:
    names = topic_names(answers)
    by_number = {m: {query.number: query for query in queries} for m, queries in answers.items()}
    for number, instant in enumerate(recording.instants):
        rows = list(_recorded(recording, number, dt_s, frame_id))
        for method, queries in by_number.items():
            query = queries.get(number)
            if query is not None:
                rows += _query(method, names[method], query, instant, dt_s, frame_id)
        for topic, message in rows:
            yield instant.receipt_ns, topic, message


def _recorded(recording: Recording, number: int, dt_s: float, frame_id: str) -> Iterator[Row]:
    if not recording.source:
        return
    known = int(np.logical_and.accumulate(recording.valid[number]).sum())
    if known:
        actions = recording.actions[number][:known]
        yield from _chunk(RECORDED, actions, recording.instants[number], dt_s, frame_id)


def _query(
    method: str, name: str, query: ReplayedQuery, instant: Instant, dt_s: float, frame_id: str
) -> Iterator[Row]:
    build = message_builder()
    if query.actions is not None:
        yield from _chunk(name, query.actions, instant, dt_s, frame_id)
    level = build.WARN if query.refusal else build.OK
    refusal = {'refusal': query.refusal} if query.refusal else {}
    status = build.status(
        f'{method}: inference',
        {**refusal, **query.record.flat()},
        message=query.refusal or 'replayed',
        level=level,
        hardware_id='replay',
    )
    yield f'{ROOT}/{name}/inference', build.diagnostics([status], instant.stamp_ns)
    if query.record.mode:
        yield f'{ROOT}/{name}/visual_tokens', build.number(query.record.visual_tokens)
        yield f'{ROOT}/{name}/latency_ms', build.number(query.record.total_ms)


def _chunk(
    name: str, actions: np.ndarray, instant: Instant, dt_s: float, frame_id: str
) -> Iterator[Row]:
    build = message_builder()
    chunk = ActionChunk(instant.stamp_ns, dt_s, actions[:, :6], actions[:, 6], frame_id)
    yield f'{ROOT}/{name}/action_chunk', build.chunk(chunk)
    first = build.twist(actions[0, :6] / dt_s, instant.stamp_ns, frame_id)
    yield f'{ROOT}/{name}/first_step', first
    if instant.position is not None:
        yield f'{ROOT}/{name}/chunk_path', build.path(chunk, instant.position)
