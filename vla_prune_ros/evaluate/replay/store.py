"""What a replay knows of a bag and of each query on it; on disk, so that it can be interrupted."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...bags.reader import Place
from ...errors import VlaPruneError
from ...records import InferenceRecord

if TYPE_CHECKING:
    from ..methods import Method
    from .scan import ReplaySetting

Key = dict[str, Any]
"""Says what an answer is of: bag, method, setting, versions."""


@dataclass(frozen=True, eq=False)
class Instant:
    """A moment at which the node would have asked the policy; the same for every method.

    :param epoch: grows with every jump of time and every new instruction.
    :param stamp_ns: of the newest image; ``receipt_ns``: of the image that completed the pair.
    :param images: camera -> where its image lies in the bag.
    :param position: float64 (3,) measured end effector in m, None where unknown.
    """

    epoch: int
    stamp_ns: int
    receipt_ns: int
    instruction: str
    images: Mapping[str, Place]
    position: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ReplayedQuery:
    """What one method answered at one instant.

    :param number: of the instant in its bag.
    :param actions: float64 (K, 7) as the node would have published it: m, rad (rotation vector)
        per step, gripper 0 closed ... 1 open; None if the query was refused.
    :param refusal: ``'reason: what'`` of a refused query, else empty.
    :param kept: camera -> bool (patches,), visual tokens that reached the last layer.
    :param record: as of ``~/inference``; its ``refresh_ms`` is that of the refresh behind this
        query, and its ``mode`` is empty if no query was run.
    """

    number: int
    epoch: int
    stamp_ns: int
    actions: np.ndarray | None
    refusal: str = ''
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: InferenceRecord = field(default_factory=InferenceRecord)


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """What one pass over a bag found, without asking a policy.

    :param topics: stream -> topic; ``guessed`` by type and name, or named by the user.
    :param there: topic -> (type, messages) of the bag.
    :param span_ns: first and last time of receipt.
    :param losses: reason -> messages and pairs not used.
    :param problems: (code, one line).
    :param source: stream of the recorded actions; empty where there are none.
    :param actions: float64 (N, K, 7) what was done from each instant on, in the units of
        :class:`ReplayedQuery`; ``valid``: bool (N, K), where that is known.
    """

    topics: Mapping[str, str]
    guessed: bool
    there: Mapping[str, tuple[str, int]]
    span_ns: tuple[int, int]
    instants: Sequence[Instant]
    losses: Mapping[str, int]
    problems: Sequence[tuple[str, str]]
    source: str
    actions: np.ndarray
    valid: np.ndarray


_KINDS = {kind.__name__: kind for kind in (Instant, ReplayedQuery, Recording, InferenceRecord)}
Record = TypeVar('Record', Recording, ReplayedQuery)


def dumps(record: Recording | ReplayedQuery) -> bytes:
    """One line of JSON; numbers survive to the last bit."""
    return json.dumps(record, default=_plain).encode() + b'\n'


def loads(data: bytes, kind: type[Record]) -> Record | None:
    """Inverse of :func:`dumps`, with lists for tuples; None where it is torn, or of other code."""
    try:
        found = json.loads(data, object_hook=_revive)
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, kind) else None


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        data = value.tobytes().hex()
        return {'__array__': value.dtype.str, 'shape': value.shape, 'data': data}
    return {'__record__': type(value).__name__, **vars(value)}


def _revive(data: dict[str, Any]) -> Any:
    if '__array__' in data:
        numbers = np.frombuffer(bytes.fromhex(data['data']), data['__array__'])
        return numbers.reshape(data['shape']).copy()
    if '__record__' not in data:
        return data
    kind = _KINDS[data.pop('__record__')]
    if kind is Instant:
        data['images'] = {camera: Place(*place) for camera, place in data['images'].items()}
    return kind(**data)


def bag_name(path: Path) -> str:
    """A folder name for a bag, the same whatever else is replayed."""
    full = path.expanduser().resolve()
    return f'{full.name.partition(".")[0] or "bag"}-{sha256(str(full).encode()).hexdigest()[:8]}'


def bag_key(path: Path, setting: 'ReplaySetting', versions: dict[str, str]) -> Key:
    """What a pass over a bag depends on: its files, and how it is read."""
    full = path.expanduser().resolve()
    files = sorted(p for p in full.rglob('*') if p.is_file()) if full.is_dir() else [full]
    sizes = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    topics = Path(setting.topics).expanduser().read_text('utf-8') if setting.topics else ''
    return {'bag': sizes, 'topics': topics, 'setting': asdict(setting), 'versions': versions}


def load_recording(folder: Path, key: Key) -> Recording | None:
    return loads(_read(folder / 'recording.json', key), Recording)


def save_recording(folder: Path, key: Key, recording: Recording) -> None:
    _write(folder / 'recording.json', key, dumps(recording))


class Answers:
    """One method's answers on one bag, a line of JSON each; beside them the policy's memory."""

    def __init__(self, folder: Path, key: Key) -> None:
        name = sha256(key['method'].encode()).hexdigest()[:12]
        self.path, self._key = folder / f'{name}.jsonl', key
        self._memory = self.path.with_suffix('.memory')

    def done(self) -> list[ReplayedQuery] | None:
        queries, ended = self._queries()
        return queries if ended else None

    def so_far(self) -> tuple[list[ReplayedQuery], bytes | None]:
        """Where an interrupted replay can go on: answers, and the memory behind the last."""
        count, _, memory = _read(self._memory, self._key).partition(b'\n')
        queries, _ = self._queries()
        if not count.isdigit() or len(queries) < int(count):
            return [], None
        return queries[: int(count)], memory

    def begin(self, queries: Sequence[ReplayedQuery]) -> None:
        _write(self.path, self._key, b''.join(map(dumps, queries)))

    def append(self, query: ReplayedQuery) -> None:
        self._append(dumps(query))

    def remember(self, count: int, memory: bytes) -> None:
        _write(self._memory, self._key, b'%d\n' % count + memory)

    def end(self) -> None:
        self._append(b'end\n')
        self._memory.unlink(missing_ok=True)

    def count(self) -> int:
        return _read(self.path, self._key).count(b'"ReplayedQuery"')

    def _append(self, line: bytes) -> None:
        with self.path.open('ab') as file:
            file.write(line)

    def _queries(self) -> tuple[list[ReplayedQuery], bool]:
        queries: list[ReplayedQuery] = []
        for line in _read(self.path, self._key).split(b'\n'):
            if line == b'end':
                return queries, True
            query = loads(line, ReplayedQuery)
            if query is None:
                break  # torn by whatever ended the run
            queries.append(query)
        return queries, False


def _read(path: Path, key: Key) -> bytes:
    """What stands behind the key's line; empty where the file is missing or of another key."""
    try:
        first, _, rest = path.read_bytes().partition(b'\n')
        return rest if json.loads(first) == json.loads(json.dumps(key)) else b''
    except (OSError, ValueError):
        return b''


def _write(path: Path, key: Key, data: bytes) -> None:
    """Write a file that begins with its key, so that it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_bytes(json.dumps(key).encode() + b'\n' + data)
    os.replace(part, path)


@dataclass(frozen=True)
class ReplayJob:
    """Without a method the pass over the bag that asks no policy."""

    bag: Path
    folder: Path
    key: Key
    method: 'Method | None' = None

    def of(self, method: 'Method') -> 'ReplayJob':
        key = {**self.key, 'method': method.name, 'fingerprint': method.fingerprint}
        return replace(self, key=key, method=method)

    @property
    def answers(self) -> Answers:
        return Answers(self.folder, self.key)


@dataclass(frozen=True)
class ReplayOutcome:
    """What a job found, or why it found nothing and the remedy: not every exception crosses a
    process."""

    job: ReplayJob
    recording: Recording | None = None
    answers: Sequence[ReplayedQuery] = ()
    wrong: tuple[str, str] | None = None


class JobWorker(ABC):
    """Does jobs of one setting, or takes what an earlier run has done of them."""

    def __init__(self, setting: 'ReplaySetting') -> None:
        self._setting = setting

    def run(self, job: ReplayJob) -> ReplayOutcome:
        try:
            return self._outcome(job)
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.remedy))

    def close(self) -> None: ...  # noqa: B027 - nothing is open between jobs

    @abstractmethod
    def _outcome(self, job: ReplayJob) -> ReplayOutcome: ...
