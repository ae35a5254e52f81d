"""What is left in a bag file that its own format's reader refuses.

A killed recorder leaves MCAP without its footer and SQLite without its last pages. What is before
is found here from the front: records of MCAP by their lengths (https://mcap.dev/spec), rows of
SQLite in the order in which they were written."""

import sqlite3
import struct
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

_MAGIC = b'\x89MCAP0\r\n'
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_NOTED = (_SCHEMA, _CHANNEL, _MESSAGE)
_HEAD = struct.Struct('<BQ')  # opcode and length of a record
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct('<QQQI')  # first and last time, size, checksum


class Connection(NamedTuple):
    id: int
    topic: str
    msgtype: str
    msgcount: int


class Storage(Protocol):
    """What a bag needs of one file: ``rosbags``' readers have it, and those below."""

    connections: list[Connection]
    start_time: int

    def messages(
        self, connections: Collection[Connection], start: int | None, stop: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, receipt (ns) and message, by receipt, from ``start`` to before ``stop``."""

    def close(self) -> None: ...


class _Place(NamedTuple):
    receipt_ns: int
    order: int
    connection: int
    chunk: int = -1  # offset of the chunk record's body, -1 for a message outside of chunks
    start: int = 0
    stop: int = 0


class RecoveredFile(ABC):
    def __init__(self) -> None:
        self.lost = ''
        self.connections: list[Connection] = []
        self.start_time = 0
        self._places: list[_Place] = []

    def messages(
        self, connections: Collection[Connection], start: int | None, stop: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = {c.id: c for c in connections}
        first = 0 if start is None else bisect_left(self._places, (start,))
        for place in self._places[first:]:
            if stop is not None and place.receipt_ns >= stop:
                return
            if place.connection in wanted:
                data = self._data(place)
                if data is not None:
                    yield wanted[place.connection], place.receipt_ns, data

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _data(self, place: _Place) -> bytes | None: ...

    def _found(self, topics: Mapping[int, tuple[str, str]]) -> None:
        self._places.sort()
        self.start_time = self._places[0].receipt_ns if self._places else 0
        counts = Counter(place.connection for place in self._places)
        self.connections = [Connection(n, *topic, counts[n]) for n, topic in topics.items()]


class RecoveredMcap(RecoveredFile):
    """Whole chunks count: of a chunk that is cut or fails its checksum nothing is taken."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open('rb')
        self._types: dict[int, str] = {}
        self._topics: dict[int, tuple[str, str]] = {}
        self._open_chunk: tuple[int, bytes] = -1, b''
        if self._file.read(8) != _MAGIC:
            self._file.close()
            raise ValueError(f'{path.name} is no MCAP file')
        self._scan(path.name, path.stat().st_size)
        self._found(self._topics)

    def close(self) -> None:
        self._file.close()

    def _scan(self, name: str, size: int) -> None:
        at, damaged_chunks = 8, 0
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
                damaged_chunks += not self._scan_chunk(body)
            elif opcode in _NOTED:
                head = length if opcode != _MESSAGE else _MESSAGE_HEAD.size
                self._note(opcode, self._file.read(head), -1, (body, body + length))
            at = body + length
        else:
            self.lost = f'{name} is cut at byte {at}'
        if damaged_chunks:
            self.lost = f'{self.lost or name}, {damaged_chunks} damaged chunks left out'

    def _scan_chunk(self, body: int) -> bool:
        try:
            data = self._chunk(body)
            at, found = 0, []
            while at < len(data):
                opcode, length = _HEAD.unpack_from(data, at)
                start, at = at + _HEAD.size, at + _HEAD.size + length
                found.append((opcode, data[start:at], body, (start, at)))
        except Exception:  # of a decompressor, or of a length that means nothing
            return False
        for record in found:
            if record[0] in _NOTED:
                self._note(*record)
        return True

    def _note(self, opcode: int, record: bytes, chunk: int, span: tuple[int, int]) -> None:
        if opcode == _MESSAGE:
            connection, _, receipt_ns, _ = _MESSAGE_HEAD.unpack_from(record)
            start = span[0] + _MESSAGE_HEAD.size
            place = _Place(receipt_ns, len(self._places), connection, chunk, start, stop=span[1])
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
        _, _, size, crc = _CHUNK_HEAD.unpack(self._file.read(_CHUNK_HEAD.size))
        (length,) = struct.unpack('<I', self._file.read(4))
        compression = self._file.read(length).decode()
        (length,) = struct.unpack('<Q', self._file.read(8))
        return decompress(self._file.read(length), compression, size, crc)


class RecoveredSqlite(RecoveredFile):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._name = path.name
        self._file = sqlite3.connect(f'file:{quote(str(path))}?mode=ro&immutable=1', uri=True)
        # Without it SQLite refuses a file that is shorter than its header says.
        self._file.execute('PRAGMA writable_schema=ON')
        topics = self._file.execute('SELECT id, name, type FROM topics').fetchall()
        query = 'SELECT timestamp, id, topic_id FROM messages ORDER BY id'
        try:
            for row in self._file.execute(query):
                self._places.append(_Place(*row))
        except sqlite3.Error as error:
            self.lost = f'{path.name} is cut behind message {len(self._places)} ({error})'
        self._found({number: (name, kind) for number, name, kind in topics})

    def close(self) -> None:
        self._file.close()

    def _data(self, place: _Place) -> bytes | None:
        query = 'SELECT data FROM messages WHERE id = ?'
        try:
            return self._file.execute(query, (place.order,)).fetchone()[0]
        except (sqlite3.Error, TypeError):
            self.lost = self.lost or f'{self._name} has messages whose pages are missing'
            return None


RECOVERIES = {'.mcap': RecoveredMcap, '.db3': RecoveredSqlite}


def _text(record: bytes, at: int) -> str:
    (length,) = struct.unpack_from('<I', record, at)
    return record[at + 4 : at + 4 + length].decode()
