"""Evaluated episodes: records, and a file with a line of JSON for each that a run resumes from."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from ...errors import VlaPruneError
from ...records import QueryRecord
from ..methods import Method
from ..options import Setting


@dataclass(frozen=True)
class EpisodeKey:
    method: str
    task: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class EpisodeQuery(QueryRecord):
    step: int  # control steps of the episode before the query


@dataclass(frozen=True)
class EpisodeResult:
    simulator: str
    task: str  # short name, or the instruction where the scene has no names
    seed: int
    instruction: str
    success: bool
    steps: int = 0  # control steps until success, else until the limit
    # 'lifted' or 'pushed' where another object than the task's was manipulated, else ''; also
    # where the scene does not tell.
    wrong_object: str = ''
    moved_m: float = 0.0  # length of the end effector's path
    visual_all: int = 0  # visual tokens of all cameras before pruning
    motion_source: str = ''  # of the speeds: 'joint_velocities' or 'pose'
    queries: tuple[EpisodeQuery, ...] = ()
    refresh_ms: tuple[float, ...] = ()  # of every dense pass between queries
    scene: str = ''
    # Primitives in place of the published meshes and textures: not comparable with others'.
    generated_assets: bool = False
    error: str = ''  # what ended the episode early

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> 'EpisodeResult':
        """:raises VlaPruneError: fields are missing or unknown."""
        try:
            queries = tuple(EpisodeQuery(**query) for query in values['queries'])
            refresh_ms = tuple(values['refresh_ms'])
            return EpisodeResult(**{**values, 'queries': queries, 'refresh_ms': refresh_ms})
        except (KeyError, TypeError) as error:
            raise VlaPruneError(
                f'an episode record cannot be read ({error})',
                'it is of another version; use another folder',
            ) from None


_FIELDS = ('method', 'task', 'seed', 'fingerprint', 'setting', 'versions', 'episode')


class EpisodeStore:
    """The episodes of a folder, made where missing; one process at a time may have it open."""

    def __init__(self, folder: Path, setting: Setting, versions: Mapping[str, str]) -> None:
        self.path = folder / 'episodes.jsonl'
        self._setting, self._versions = asdict(setting), dict(versions)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open('a+', encoding='utf-8')
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise VlaPruneError(
                f'{self.path} is in use by another run', 'wait for it, or use another --out'
            ) from None
        try:
            self._lines = _read(self._file, self.path)
        except VlaPruneError:
            self._file.close()
            raise

    def __enter__(self) -> 'EpisodeStore':
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def episodes(self, methods: tuple[Method, ...], base: str) -> dict[EpisodeKey, EpisodeResult]:
        """Of a repeated episode, the last. :raises VlaPruneError: other weights or versions."""
        wanted = {method.name: method.fingerprint for method in methods}
        found = {}
        for line in self._lines:
            name = line['method']
            self._check(line, wanted.get(name), base)
            if name in wanted and line['setting'] == self._setting:
                key = EpisodeKey(name, line['task'], line['seed'])
                found[key] = EpisodeResult.from_json(line['episode'])
        return found

    def append(
        self, method: Method, key: EpisodeKey, result: EpisodeResult, versions: Mapping[str, str]
    ) -> None:
        """The episode is on disk when this returns; ``versions`` are those of where it was run."""
        line = {
            **asdict(key),
            'fingerprint': method.fingerprint,
            'setting': self._setting,
            'versions': dict(versions),
            'episode': asdict(result),
        }
        self._check(line, method.fingerprint, None)
        self._lines.append(line)
        self._file.write(json.dumps(line) + '\n')
        self._file.flush()

    def _check(self, line: Mapping[str, Any], wanted: str | None, base: str | None) -> None:
        name, weights = line['method'], line['fingerprint']
        other = wanted is not None and weights != wanted
        if other or (base is not None and '@' not in name and weights.partition('+')[0] != base):
            raise VlaPruneError(
                f'{self.path} holds episodes of {name!r} with another checkpoint or method file',
                'use another --out, or delete that folder',
            )
        there, here = line['versions'], self._versions
        if there != here:
            named = ', '.join(
                f'{name} {there.get(name, "absent")} (here {here.get(name, "absent")})'
                for name in sorted({*there, *here})
                if there.get(name) != here.get(name)
            )
            raise VlaPruneError(
                f'{self.path}: episodes were made with {named}',
                'use another --out, or install the same versions',
            )


def _read(file: TextIO, path: Path) -> list[dict[str, Any]]:
    """All complete lines; a torn last one, of a run that was killed, is cut off."""
    file.seek(0)
    text = file.read()
    whole, _, torn = text.rpartition('\n')
    if torn:
        file.truncate(len((whole + '\n').encode()) if whole else 0)
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            values = json.loads(line)
            lines.append({name: values[name] for name in _FIELDS})
        except (ValueError, KeyError, TypeError):
            raise VlaPruneError(
                f'{path} cannot be read in line {number}', 'delete that line, or use another --out'
            ) from None
    return lines
