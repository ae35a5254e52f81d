"""Episodes on disk: one line of JSON each, appended as they end, so that a run can be resumed."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import VlaPruneError
from .episode import EpisodeKey, EpisodeResult, Setting
from .methods import Method

FILE = 'episodes.jsonl'


class EpisodeStore:
    """The episodes of a folder; one process at a time may have it open.

    :param folder: made where missing.
    :param setting: episodes with another one are left alone and not given out.
    :param versions: of the packages here; see :func:`~.fingerprint.versions`.
    :raises VlaPruneError: another process has the folder open, or a line cannot be read.
    """

    def __init__(self, folder: Path, setting: Setting, versions: Mapping[str, str]) -> None:
        self.path = folder / FILE
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def episodes(self, methods: tuple[Method, ...], base: str) -> dict[EpisodeKey, EpisodeResult]:
        """What is there of these methods; of an episode that was repeated, the last one.

        :param base: fingerprint of the checkpoint of all methods without a folder of their own.
        :raises VlaPruneError: an episode was made with other weights or versions, here named.
        """
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
        """Write an episode down; it is on disk when this returns.

        :param versions: of the packages where it was run.
        :raises VlaPruneError: they are not those of this process.
        """
        line = {
            **asdict(key),
            'fingerprint': method.fingerprint,
            'setting': self._setting,
            'versions': dict(versions),
            'episode': result.to_json(),
        }
        self._check(line, method.fingerprint, None)
        self._lines.append(line)
        self._file.write(json.dumps(line) + '\n')
        self._file.flush()

    def _check(self, line: Mapping[str, Any], wanted: str | None, base: str | None) -> None:
        name, weights = line['method'], line['fingerprint']
        own = '@' in name
        other = wanted is not None and weights != wanted
        if other or (base is not None and not own and weights.partition('+')[0] != base):
            raise VlaPruneError(
                f'{self.path} holds episodes of {name!r} with another checkpoint or method file',
                'use another --out, or delete that folder',
            )
        here = self._versions
        if line['versions'] != here:
            differ = {
                k for k in {*line['versions'], *here} if line['versions'].get(k) != here.get(k)
            }
            words = ', '.join(
                f'{k} {line["versions"].get(k, "absent")} (here {here.get(k, "absent")})'
                for k in sorted(differ)
            )
            raise VlaPruneError(
                f'{self.path}: episodes were made with {words}',
                'use another --out, or install the same versions',
            )


def _read(file: TextIO, path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last one, of a run that was killed, is cut off."""
    file.seek(0)
    text = file.read()
    whole, _, torn = text.rpartition('\n')
    if torn:
        file.truncate(len((whole + '\n').encode()) if whole else 0)
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(_whole_line(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            raise VlaPruneError(
                f'{path} cannot be read in line {number}', 'delete that line, or use another --out'
            ) from None
    return lines


def _whole_line(line: dict[str, Any]) -> dict[str, Any]:
    for field in ('method', 'task', 'seed', 'fingerprint', 'setting', 'versions', 'episode'):
        line[field]
    return line
