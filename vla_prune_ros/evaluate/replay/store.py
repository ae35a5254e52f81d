"""Answers on disk while they come, so that an interrupted replay goes on where it was.

What a worker of a replay is given and gives back, and the worker that asks no policy: without
torch its processes start in a fraction of a second.
"""

import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import VlaPruneError
from .records import Recording, ReplayedQuery
from .scan import scan
from .settings import ReplaySetting

if TYPE_CHECKING:
    from ..methods import Method


Key = dict[str, Any]
"""Says what an answer is of: bag, method, setting, versions."""


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
    """The same with the method and its weights."""
    return {**bag, 'method': method.name, 'fingerprint': method.fingerprint}


class ReplayStore:
    """What is known of one bag.

    :param folder: of the bag, made where missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def recording(self, key: Key) -> Recording | None:
        """The pass over the bag, if it was made like this."""
        try:
            known, recording = pickle.loads((self._folder / 'recording').read_bytes())
        except Exception:  # missing, torn, or of another version of the package
            return None
        return recording if known == key else None

    def put_recording(self, key: Key, recording: Recording) -> None:
        """Keep it."""
        _replace(self._folder / 'recording', pickle.dumps((key, recording)))

    def answers(self, key: Key) -> 'Answers':
        """Those of the method that the key names."""
        name = sha256(key['method'].encode()).hexdigest()[:12]
        return Answers(self._folder / f'{name}.jsonl', key)


class Answers:
    """One method's answers on one bag: a line of JSON each, and the policy's memory beside them.

    A file with another key is replaced by the first answer.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path, self._key = path, key
        self._memory = path.with_suffix('.memory')

    def done(self) -> list[ReplayedQuery] | None:
        """All of them, where the bag was replayed to its end."""
        queries, ended = self._read()
        return queries if ended else None

    def so_far(self) -> tuple[list[ReplayedQuery], bytes | None]:
        """Where an interrupted replay can go on: answers, and the memory behind the last."""
        try:
            key, count, memory = pickle.loads(self._memory.read_bytes())
        except Exception:  # missing, torn, or of another version
            return [], None
        queries, _ = self._read()
        if key != self._key or len(queries) < count:
            return [], None
        return queries[:count], memory

    def begin(self, queries: Sequence[ReplayedQuery]) -> None:
        """Start the file with these."""
        lines = [json.dumps(self._key), *(json.dumps(q.to_json()) for q in queries)]
        _replace(self.path, ('\n'.join(lines) + '\n').encode())

    def append(self, query: ReplayedQuery) -> None:
        """Write one down."""
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(query.to_json()) + '\n')

    def remember(self, count: int, memory: bytes) -> None:
        """Keep the policy's memory behind so many answers."""
        _replace(self._memory, pickle.dumps((self._key, count, memory)))

    def end(self) -> None:
        """The bag is over; the memory is of no use any more."""
        with self.path.open('a', encoding='utf-8') as file:
            file.write('end\n')
        self._memory.unlink(missing_ok=True)

    def count(self) -> int:
        """Answers so far, for a progress bar."""
        try:
            with self.path.open('rb') as file:
                return file.read().count(b'{"number"') if self._is_mine(file.readline()) else 0
        except OSError:
            return 0

    def _read(self) -> tuple[list[ReplayedQuery], bool]:
        """Whole lines of this key, and whether the end is among them."""
        try:
            first, *lines = self.path.read_text('utf-8').split('\n')
        except (OSError, ValueError):
            return [], False
        if not self._is_mine(first):
            return [], False
        queries = []
        for line in lines:
            if line == 'end':
                return queries, True
            try:
                queries.append(ReplayedQuery.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # torn by whatever ended the run
        return queries, False

    def _is_mine(self, first: str | bytes) -> bool:
        """Whether the first line of a file is this key."""
        try:
            return json.loads(first) == json.loads(json.dumps(self._key))
        except ValueError:
            return False


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is the old one or the new one, never half of it."""
    part = path.with_name(path.name + '.part')
    part.write_bytes(data)
    os.replace(part, path)


@dataclass(frozen=True)
class ReplayJob:
    """A pass over a bag, or a method on it.

    :param folder: of the bag's results.
    :param key: what the results are of.
    :param method: None for the pass that asks no policy.
    """

    bag: Path
    folder: Path
    key: Key
    method: 'Method | None' = None


@dataclass(frozen=True)
class ReplayOutcome:
    """What became of a job: what it found, or why it found nothing and the mend. An exception
    crosses no process: not every one can be pickled."""

    job: ReplayJob
    recording: Recording | None = None
    answers: tuple[ReplayedQuery, ...] | None = None
    wrong: tuple[str, str] | None = None


class ScanWorker:
    """Reads bags through, one after the other.

    :param setting: what all jobs have in common.
    """

    def __init__(self, setting: ReplaySetting) -> None:
        self._setting = setting

    def run(self, job: ReplayJob) -> ReplayOutcome:
        """Do a job, or take what an earlier run has done of it."""
        try:
            return ReplayOutcome(job, recording=self._scan(job))
        except VlaPruneError as error:
            return ReplayOutcome(job, wrong=(error.what, error.remedy))

    def close(self) -> None:
        """Nothing is held open."""

    def _scan(self, job: ReplayJob) -> Recording:
        store = ReplayStore(job.folder)
        found = store.recording(job.key)
        if found is None:
            found = scan(job.bag, self._setting)
            store.put_recording(job.key, found)
        return found
