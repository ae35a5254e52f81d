"""Answers on disk while they come, so that an interrupted replay goes on where it was.

Beside them, what a worker is given and gives back, and the worker that asks no policy: without
torch its processes start in a fraction of a second.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import VlaPruneError
from .records import Recording, ReplayedQuery
from .scan import scan
from .settings import ReplaySetting

if TYPE_CHECKING:
    from ..methods import Method


Key = dict[str, Any]
"""Says what an answer is of: bag, method, setting, versions."""
Record = TypeVar('Record', Recording, ReplayedQuery)


def bag_name(path: Path) -> str:
    """A folder name for a bag, the same whatever else is replayed; bags of one name differ."""
    full = path.expanduser().resolve()
    return f'{full.name.partition(".")[0] or "bag"}-{sha256(str(full).encode()).hexdigest()[:8]}'


def bag_key(path: Path, setting: ReplaySetting, versions: dict[str, str]) -> Key:
    """What a pass over a bag depends on: its files, and how it is read."""
    full = path.expanduser().resolve()
    files = sorted(p for p in full.rglob('*') if p.is_file()) if full.is_dir() else [full]
    sizes = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    topics = Path(setting.topics).expanduser().read_text('utf-8') if setting.topics else ''
    return {'bag': sizes, 'topics': topics, 'setting': setting.text(), 'versions': versions}


def method_key(bag: Key, method: 'Method') -> Key:
    return {**bag, 'method': method.name, 'fingerprint': method.fingerprint}


class ReplayStore:
    """What is known of one bag, in a folder that is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def recording(self, key: Key) -> Recording | None:
        rest = _behind(self._folder / 'recording.json', key)
        return None if rest is None else _parsed(Recording, rest)

    def put_recording(self, key: Key, recording: Recording) -> None:
        text = json.dumps(recording.to_json()).encode()
        _replace(self._folder / 'recording.json', _line(key) + text)

    def answers(self, key: Key) -> 'Answers':
        name = sha256(key['method'].encode()).hexdigest()[:12]
        return Answers(self._folder / f'{name}.jsonl', key)


class Answers:
    """One method's answers on one bag, a line of JSON each; beside them the policy's memory."""

    def __init__(self, path: Path, key: Key) -> None:
        self.path, self._key = path, key
        self._memory = path.with_suffix('.memory')

    def done(self) -> list[ReplayedQuery] | None:
        queries, ended = self._read()
        return queries if ended else None

    def so_far(self) -> tuple[list[ReplayedQuery], bytes | None]:
        """Where an interrupted replay can go on: answers, and the memory behind the last."""
        count, _, memory = (_behind(self._memory, self._key) or b'').partition(b'\n')
        queries, _ = self._read()
        if not count.isdigit() or len(queries) < int(count):
            return [], None
        return queries[: int(count)], memory

    def begin(self, queries: Sequence[ReplayedQuery]) -> None:
        lines = ''.join(json.dumps(q.to_json()) + '\n' for q in queries)
        _replace(self.path, _line(self._key) + lines.encode())

    def append(self, query: ReplayedQuery) -> None:
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(query.to_json()) + '\n')

    def remember(self, count: int, memory: bytes) -> None:
        _replace(self._memory, _line(self._key) + b'%d\n' % count + memory)

    def end(self) -> None:
        with self.path.open('a', encoding='utf-8') as file:
            file.write('end\n')
        self._memory.unlink(missing_ok=True)

    def count(self) -> int:
        return (_behind(self.path, self._key) or b'').count(b'{"number"')

    def _read(self) -> tuple[list[ReplayedQuery], bool]:
        queries: list[ReplayedQuery] = []
        for line in (_behind(self.path, self._key) or b'').split(b'\n'):
            if line == b'end':
                return queries, True
            query = _parsed(ReplayedQuery, line)
            if query is None:
                break  # torn by whatever ended the run
            queries.append(query)
        return queries, False


def _line(key: Key) -> bytes:
    """Every file begins with what it is of."""
    return json.dumps(key).encode() + b'\n'


def _behind(path: Path, key: Key) -> bytes | None:
    """What stands behind the key's line; None where the file is missing or of another key."""
    try:
        first, _, rest = path.read_bytes().partition(b'\n')
        return rest if json.loads(first) == json.loads(json.dumps(key)) else None
    except (OSError, ValueError):
        return None


def _parsed(kind: type[Record], data: bytes) -> Record | None:
    """A record from its JSON; None where it is torn, or of another version of the package."""
    try:
        return kind.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is the old one or the new one, never half of it."""
    part = path.with_name(path.name + '.part')
    part.write_bytes(data)
    os.replace(part, path)


@dataclass(frozen=True)
class ReplayJob:
    """A method on a bag, or without a method the pass that asks no policy."""

    bag: Path
    folder: Path
    key: Key
    method: 'Method | None' = None


@dataclass(frozen=True)
class ReplayOutcome:
    """What became of a job: what it found, or why it found nothing and the remedy.

    An exception crosses no process: not every one can be pickled.
    """

    job: ReplayJob
    recording: Recording | None = None
    answers: tuple[ReplayedQuery, ...] | None = None
    wrong: tuple[str, str] | None = None


class ScanWorker:
    def __init__(self, setting: ReplaySetting) -> None:
        self._setting = setting

    def run(self, job: ReplayJob) -> ReplayOutcome:
        try:
            return ReplayOutcome(job, recording=self._scan(job))
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.remedy))

    def close(self) -> None:
        pass

    def _scan(self, job: ReplayJob) -> Recording:
        store = ReplayStore(job.folder)
        found = store.recording(job.key)
        if found is None:
            found = scan(job.bag, self._setting)
            store.put_recording(job.key, found)
        return found
