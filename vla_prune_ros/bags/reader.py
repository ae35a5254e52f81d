"""Recorded bags as messages in order, without ROS: rosbag2 (sqlite3 and MCAP) and ROS 1.
Each storage file is opened by itself, with or without ``metadata.yaml``; what ``rosbags`` refuses
is read by :mod:`.recovery`, as far as it goes."""

import heapq
import re
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from ..errors import DataError, InputRefused
from .recovery import RECOVERIES, RecoveredFile, Storage

FILES = ('.mcap', '.db3', '.bag')
METADATA = 'metadata.yaml'

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
POSE_TYPE, JOINTS_TYPE = 'geometry_msgs/msg/PoseStamped', 'sensor_msgs/msg/JointState'
TEXT_TYPE, TWIST_TYPE = 'std_msgs/msg/String', 'geometry_msgs/msg/TwistStamped'
TRAJECTORY_TYPE = 'trajectory_msgs/msg/JointTrajectory'
TYPES = (*IMAGE_TYPES, POSE_TYPE, JOINTS_TYPE, TEXT_TYPE, TWIST_TYPE, TRAJECTORY_TYPE)

_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_Value = TypeVar('_Value')
_Row = tuple[str, int, bytes]  # topic, time of receipt, serialised message


class Topic(NamedTuple):
    type: str
    count: int


class Place(NamedTuple):
    """The ``nth`` message of its topic that was received at that time (ns)."""

    topic: str
    receipt_ns: int
    nth: int


@dataclass(frozen=True, eq=False)
class BagMessage:
    """:param stamp_ns: its header stamp; the time of receipt where there is none, or zero."""

    type: str
    place: Place
    stamp_ns: int
    raw: bytes = field(repr=False)
    _deserialize: Callable[[bytes, str], Any] = field(repr=False)

    @property
    def topic(self) -> str:
        return self.place.topic

    @property
    def receipt_ns(self) -> int:
        return self.place.receipt_ns

    def message(self) -> Any:
        try:
            return self._deserialize(self.raw, self.type)
        except Exception:  # whatever bytes that mean nothing make a deserialiser raise
            what = f'{self.topic}: a message received at {self.receipt_ns} ns is no {self.type}'
            raise InputRefused('corrupt', what, 'check the recorder') from None

    def read(self, reader: Callable[[Any], _Value]) -> _Value:
        """:raises InputRefused: ``corrupt``, or the reader's own; DataError: another type."""
        message = self.message()
        try:
            return reader(message)
        except InputRefused as refusal:
            raise InputRefused(
                refusal.reason, f'{self.topic}: {refusal.what}', refusal.remedy
            ) from None
        except AttributeError:  # another type has other fields
            raise DataError(
                f'topic {self.topic!r} has messages of {self.type}', 'name another topic'
            ) from None


class Bag:
    """One recording, a folder or a file; not thread-safe. :raises DataError: it is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.unstamped: set[str] = set()  # topics read so far with a header stamp of zero
        self._lost: dict[str, None] = {}  # in order, each once however often it is read
        self._stack = ExitStack()
        self._storages: list[tuple[Path, Storage]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self.topics: dict[str, Topic] = {}
        found = [c for _, storage in self._storages for c in storage.connections]
        for c in sorted(found, key=attrgetter('topic')):
            before = self.topics.get(c.topic, Topic(c.msgtype, 0))
            self.topics[c.topic] = Topic(before.type, before.count + c.msgcount)

    def __enter__(self) -> 'Bag':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for _, storage in self._storages:
            storage.close()
        self._storages.clear()
        self._stack.close()

    @property
    def lost(self) -> list[str]:
        """What could not be read, one line each; grows while messages are read."""
        cut = [s.lost for _, s in self._storages if isinstance(s, RecoveredFile) and s.lost]
        return list(dict.fromkeys([*self._lost, *cut]))

    def require(self, topic: str, types: Collection[str] = TYPES) -> None:
        """:raises DataError: it is missing, empty or of another type; names what there is."""
        found = self.topics.get(topic)
        if found is not None and found.type in types and found.count:
            return
        what = f'bag {self.path} has no topic {topic!r}'
        if found is not None:
            what = f'bag {self.path}: topic {topic!r} has {found.count} messages of {found.type}'
        there = ', '.join(f'{name} ({t.type})' for name, t in self.topics.items() if t.count)
        raise DataError(what, f'need {" or ".join(types)}; it has {there or "no messages"}')

    def messages(
        self, topics: Iterable[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """By receipt, stamp and topic, in constant memory; damaged ones go to :attr:`lost`."""
        wanted = set(topics)
        for topic in wanted:
            self.require(topic)
        streams = [self._stream(i, wanted, start_ns, stop_ns) for i in range(len(self._storages))]
        rows = heapq.merge(*streams, key=itemgetter(1))
        for receipt_ns, together in groupby(rows, key=itemgetter(1)):
            numbers: Counter[str] = Counter()
            found = []
            for topic, _, raw in together:
                if topic:
                    found.append(self._message(Place(topic, receipt_ns, numbers[topic]), raw))
                    numbers[topic] += 1
            yield from sorted(filter(None, found), key=attrgetter('stamp_ns', 'topic'))

    def read(self, place: Place) -> BagMessage:
        """A message that :meth:`messages` gave before. :raises DataError: it has gone."""
        start, stop = place.receipt_ns, place.receipt_ns + 1
        streams = (self._stream(i, {place.topic}, start, stop) for i in range(len(self._storages)))
        found = (raw for stream in streams for topic, _, raw in stream if topic)
        for raw in islice(found, place.nth, place.nth + 1):
            message = self._message(place, raw)
            if message is not None:
                return message
        raise DataError(f'bag {self.path} has no message at {place}', 'was it written to since?')

    def _stream(
        self, number: int, topics: set[str], start: int | None, stop: int | None
    ) -> Iterator[_Row]:
        path, storage = self._storages[number]
        # A row without a topic before the first of a file: merging reads no file before its time.
        yield '', storage.start_time, b''
        last, given = start, 0  # what comes again where the file has to be opened anew
        try:
            for row in _rows(storage, topics, start, stop):
                last, given = row[1], given + 1 if row[1] == last else 1
                yield row
        except Exception as error:  # rosbags, SQLite and decompressors each have their own
            rest = None if isinstance(storage, RecoveredFile) else _recover(path)
            if rest is None or not rest.lost:
                self._lost[f'{path.name} is damaged ({_first_line(error)})'] = None
            if rest is not None:
                storage.close()
                self._storages[number] = path, rest
                yield from islice(_rows(rest, topics, last, stop), given, None)

    def _message(self, place: Place, raw: bytes) -> BagMessage | None:
        kind = self.topics[place.topic].type
        try:
            if raw[:4] == _ZSTD_MAGIC:  # a recorder may have compressed each message
                raw = _zstd().decompress(raw)
            stamp_ns = 0 if kind == TEXT_TYPE else self._stamp(raw)
        except Exception:
            damage = f'{place.topic}: a damaged message, received at {place.receipt_ns} ns'
            self._lost[damage] = None
            return None
        if stamp_ns == 0 and kind != TEXT_TYPE:
            self.unstamped.add(place.topic)
        return BagMessage(
            type=kind,
            place=place,
            stamp_ns=stamp_ns or place.receipt_ns,
            raw=bytes(raw),
            _deserialize=self._deserialize,
        )

    def _stamp(self, raw: bytes) -> int:
        little = self._ros1 or raw[1] & 1
        seconds, nanoseconds = struct.unpack_from('<iI' if little else '>iI', raw, 4)
        return seconds * 1_000_000_000 + nanoseconds

    def _open(self) -> None:
        files = self._files()
        self._ros1 = files[0].suffix == '.bag'
        store = type_store(self._ros1)
        self._deserialize: Callable[[bytes, str], Any] = (
            store.deserialize_ros1 if self._ros1 else store.deserialize_cdr
        )
        for path in files:
            try:
                if path.suffix == '.zstd':
                    path = _unpack(path, self._stack)
                self._storages.append((path, _open_storage(path)))
            except Exception as error:
                rest = _recover(path)
                if rest is None:
                    self._lost[f'{path.name} cannot be read ({_first_line(error)})'] = None
                else:
                    self._storages.append((path, rest))
        if not self._storages:
            what = f'bag {self.path} cannot be read: {"; ".join(self.lost)}'
            raise DataError(what, 'record it again; for ROS 1 try `rosbag reindex`')

    def _files(self) -> list[Path]:
        if not self.path.exists():
            raise DataError(f'bag {self.path} does not exist', 'check the path')
        found = storage_files(self.path) if self.path.is_dir() else [self.path]
        if not found or not is_storage(found[0]):
            remedy = f'give a file, or a folder of files, {" or ".join(FILES)}'
            raise DataError(f'{self.path} is no bag', remedy)
        for name in _listed(self.path):
            if not (self.path / name).exists():
                self._lost[f'{name} is named in metadata.yaml and missing'] = None
        return found


def find_bags(path: str | Path) -> list[Path]:
    """The bags below a path, in order of name. A folder with ``metadata.yaml``, or with storage
    files of its own name (split, and its recorder killed), is one; else each storage file is."""
    path = Path(path).expanduser()
    if not path.is_dir() or (path / METADATA).exists():
        return [path]
    files = storage_files(path)
    if files and all(p.name.startswith(path.name + '_') for p in files):
        return [path]
    return files + [b for d in sorted(path.iterdir()) if d.is_dir() for b in find_bags(d)]


def is_storage(path: Path) -> bool:
    return Path(path.name.removesuffix('.zstd')).suffix in FILES


def storage_files(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.is_file() and is_storage(p)),
        key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r'(\d+)', p.name)],
    )


@cache
def type_store(ros1: bool = False) -> Any:
    """The message types of ROS 2 Humble (those used here are the same later on), or of Noetic."""
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        what = 'rosbags is not installed, no bag can be read or written'
        raise DataError(what, "pip install 'vla_prune_ros[bags]'") from None
    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)


def _listed(folder: Path) -> list[str]:
    try:
        data = yaml.safe_load((folder / METADATA).read_text(encoding='utf-8'))
        names = data['rosbag2_bagfile_information']['relative_file_paths']
        return [Path(str(name)).name for name in names]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return []


def _open_storage(path: Path) -> Storage:
    if path.suffix == '.bag':
        from rosbags.rosbag1 import Reader
    else:
        from rosbags.rosbag2 import Reader
    reader: Any = Reader(path)
    reader.open()
    if path.suffix == '.mcap' and not reader.storage.chunks:
        # Each reading would walk through the whole file, and two at once would meet.
        reader.close()
        raise ValueError('no index')
    return reader


def _recover(path: Path) -> RecoveredFile | None:
    try:
        return RECOVERIES[path.suffix](path)
    except Exception:  # not even its head is what it should be, or there is no such reader
        return None


def _rows(
    storage: Storage, topics: set[str], start: int | None, stop: int | None
) -> Iterator[_Row]:
    wanted = [c for c in storage.connections if c.topic in topics]
    if wanted:  # no connection would mean all to rosbags
        for connection, receipt_ns, raw in storage.messages(wanted, start, stop):
            yield connection.topic, receipt_ns, raw


def _unpack(path: Path, stack: ExitStack) -> Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='vla_prune_bag_'))
    out = Path(folder) / path.stem
    with _zstd().open(path, 'rb') as packed, out.open('wb') as file:
        shutil.copyfileobj(packed, file)
    return out


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
