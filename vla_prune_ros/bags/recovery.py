"""What is left in a bag file that its own format's reader refuses.

A recorder that is killed leaves MCAP without its footer and SQLite without its last pages. Both
hold everything before, found here from the front: records of MCAP by their lengths
(https://mcap.dev/spec), rows of SQLite in the order in which they were written.
"""

import sqlite3
import struct
from bisect import bisect_left
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

_MAGIC = b'\x89MCAP0\r\n'
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_KEPT = (_SCHEMA, _CHANNEL, _MESSAGE)
_HEAD = struct.Struct('<BQ')  # opcode and length of a record
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time


class Channel(NamedTuple):
    """One topic of a file, with the names that ``rosbags`` gives its connections."""

    id: int
    topic: str
    msgtype: str
    msgcount: int


class Storage(Protocol):
    """What a bag needs of one file: ``rosbags``' readers have it, and those below."""

    connections: list[Channel]
    start_time: int
    """First time of receipt, ns."""

    def messages(
        self, connections: Collection[Channel], start: int | None, stop: int | None
    ) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, time of receipt in ns and serialised message, by receipt from ``start`` to
        before ``stop``."""

    def close(self) -> None:
        """Let go of the file."""


class _Place(NamedTuple):
    receipt_ns: int
    order: int
    channel: int
    chunk: int  # offset of the chunk record's body, -1 for a message outside of chunks
    start: int
    stop: int


class CutMcap:
    """An MCAP file without a usable summary, or with messages that are not in order.

    Whole chunks count: of a chunk that is cut or fails its checksum nothing is taken.

    :raises ValueError: it is no MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self.lost = ''
        """What could not be read, in words; empty where all could."""
        self._file = path.open('rb')
        self._places: list[_Place] = []
        self._types: dict[int, str] = {}
        self._topics: dict[int, tuple[str, str]] = {}
        self._open_chunk: tuple[int, bytes] = -1, b''
        if self._file.read(8) != _MAGIC:
            self._file.close()
            raise ValueError(f'{path.name} is no MCAP file')
        self._walk(path.name, path.stat().st_size)
        self._places.sort()
        self.start_time = self._places[0].receipt_ns if self._places else 0
        counts = dict.fromkeys(self._topics, 0)
        for place in self._places:
            counts[place.channel] = counts.get(place.channel, 0) + 1
        self.connections = [
            Channel(number, topic, kind, counts[number])
            for number, (topic, kind) in self._topics.items()
        ]

    def messages(
        self, connections: Collection[Channel], start: int | None, stop: int | None
    ) -> Iterator[tuple[Channel, int, bytes]]:
        """See :class:`Storage`."""
        wanted = {c.id: c for c in connections}
        first = 0 if start is None else bisect_left(self._places, (start,))
        for place in self._places[first:]:
            if stop is not None and place.receipt_ns >= stop:
                return
            if place.channel in wanted:
                yield wanted[place.channel], place.receipt_ns, self._data(place)

    def close(self) -> None:
        """See :class:`Storage`."""
        self._file.close()

    def _walk(self, name: str, size: int) -> None:
        at, lost_chunks = 8, 0
        while at + _HEAD.size <= size:
            self._file.seek(at)
            opcode, length = _HEAD.unpack(self._file.read(_HEAD.size))
            body = at + _HEAD.size
            if opcode == _DATA_END:
                break
            if body + length > size or opcode == 0:
                self.lost = f'{name} is cut at byte {at}'
                break
            if opcode == _CHUNK:
                lost_chunks += not self._walk_chunk(body)
            elif opcode in _KEPT:
                head = length if opcode != _MESSAGE else _MESSAGE_HEAD.size
                self._note(opcode, self._file.read(head), -1, body, body + length)
            at = body + length
        else:
            self.lost = f'{name} is cut at byte {at}'
        if lost_chunks:
            self.lost = f'{self.lost or name}, {lost_chunks} damaged chunks left out'

    def _walk_chunk(self, body: int) -> bool:
        try:
            data = self._chunk(body)
            at, found = 0, []
            while at < len(data):
                opcode, length = _HEAD.unpack_from(data, at)
                start, at = at + _HEAD.size, at + _HEAD.size + length
                found.append((opcode, data[start:at], body, start, at))
        except Exception:  # of a decompressor, or of a length that means nothing
            return False
        for record in found:
            if record[0] in _KEPT:
                self._note(*record)
        return True

    def _note(self, opcode: int, record: bytes, chunk: int, start: int, stop: int) -> None:
        if opcode == _MESSAGE:
            channel, _, receipt_ns, _ = _MESSAGE_HEAD.unpack_from(record)
            place = _Place(
                receipt_ns, len(self._places), channel, chunk, start + _MESSAGE_HEAD.size, stop
            )
            self._places.append(place)
        elif opcode == _SCHEMA:
            self._types[struct.unpack_from('<H', record)[0]] = _text(record, 2)
        else:
            number, schema = struct.unpack_from('<HH', record)
            self._topics[number] = _text(record, 4), self._types.get(schema, '')

    def _data(self, place: _Place) -> bytes:
        if place.chunk < 0:
            self._file.seek(place.start)
            return self._file.read(place.stop - place.start)
        if self._open_chunk[0] != place.chunk:
            self._open_chunk = place.chunk, self._chunk(place.chunk)
        return self._open_chunk[1][place.start : place.stop]

    def _chunk(self, body: int) -> bytes:
        from rosbags.rosbag2.storage_mcap import decompress

        self._file.seek(body)
        _, _, size, crc = struct.unpack('<QQQI', self._file.read(28))
        (length,) = struct.unpack('<I', self._file.read(4))
        compression = self._file.read(length).decode()
        (length,) = struct.unpack('<Q', self._file.read(8))
        return decompress(self._file.read(length), compression, size, crc)


class CutSqlite:
    """A SQLite file whose last pages are missing.

    :raises sqlite3.Error: not even its tables can be read.
    """

    def __init__(self, path: Path) -> None:
        self.lost = ''
        """What could not be read, in words; empty where all could."""
        self._name = path.name
        self._file = sqlite3.connect(f'file:{quote(str(path))}?mode=ro&immutable=1', uri=True)
        # Without it SQLite refuses a file that is shorter than its header says.
        self._file.execute('PRAGMA writable_schema=ON')
        topics = self._file.execute('SELECT id, name, type FROM topics').fetchall()
        self._rows: list[tuple[int, int, int]] = []  # receipt, row, topic
        try:
            for row in self._file.execute(
                'SELECT timestamp, id, topic_id FROM messages ORDER BY id'
            ):
                self._rows.append(row)
        except sqlite3.Error as error:
            self.lost = f'{path.name} is cut behind message {len(self._rows)} ({error})'
        self._rows.sort()
        self.start_time = self._rows[0][0] if self._rows else 0
        counts = dict.fromkeys((number for number, *_ in topics), 0)
        for _, _, topic in self._rows:
            counts[topic] = counts.get(topic, 0) + 1
        self.connections = [Channel(*topic, counts[topic[0]]) for topic in topics]

    def messages(
        self, connections: Collection[Channel], start: int | None, stop: int | None
    ) -> Iterator[tuple[Channel, int, bytes]]:
        """See :class:`Storage`; a message whose pages are missing is left out."""
        wanted = {c.id: c for c in connections}
        first = 0 if start is None else bisect_left(self._rows, (start,))
        for receipt_ns, row, topic in self._rows[first:]:
            if stop is not None and receipt_ns >= stop:
                return
            if topic not in wanted:
                continue
            try:
                (data,) = self._file.execute(
                    'SELECT data FROM messages WHERE id = ?', (row,)
                ).fetchone()
            except (sqlite3.Error, TypeError):
                self.lost = self.lost or f'{self._name} has messages whose pages are missing'
                continue
            yield wanted[topic], receipt_ns, data

    def close(self) -> None:
        """See :class:`Storage`."""
        self._file.close()


def _text(record: bytes, at: int) -> str:
    (length,) = struct.unpack_from('<I', record, at)
    return record[at + 4 : at + 4 + length].decode()
