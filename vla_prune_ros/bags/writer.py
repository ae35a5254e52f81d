"""Bags of rosbag2, written without ROS: MCAP or sqlite3, whole or not at all."""

from collections.abc import Collection
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import DataError
from ..runtime.messages import MessageBuilder
from .reader import METADATA, Topic, is_storage, type_store

STORAGES = ('mcap', 'sqlite3')

# The newest layout of metadata.yaml that Humble reads: with 9, profiles are no text any more.
_VERSION = 8
_DEPTH, _LATCHED_DEPTH = 10, 1


@cache
def message_builder() -> MessageBuilder:
    return MessageBuilder(
        type_store().types, lambda code, values: np.ascontiguousarray(values, code).reshape(-1)
    )


class BagWriter:
    """Writes one bag: a folder with a storage file of the same name and ``metadata.yaml``.

    The bag grows in a hidden folder beside ``path`` and gets its name when the block ends well;
    after an error nothing is there, or what was there before.

    :param latched: topics whose last message is kept for late joiners: transient local, depth 1.
    :param overwrite: replace a bag at ``path``, and nothing else than a bag."""

    def __init__(
        self,
        path: str | Path,
        storage: str = 'mcap',
        latched: Collection[str] = (),
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self._storage, self._latched, self._overwrite = storage, frozenset(latched), overwrite
        self.topics: dict[str, Topic] = {}
        self.span_ns = (0, 0)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> 'BagWriter':
        if self._storage not in STORAGES:
            raise DataError(
                f'storage {self._storage!r} is unknown', f'use one of {", ".join(STORAGES)}'
            )
        self._store = type_store()
        self._require_free()
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.path.parent.mkdir(parents=True, exist_ok=True)
        hidden, plugin = f'.{self.path.name}.', StoragePlugin[self._storage.upper()]
        with ExitStack() as stack:
            folder = TemporaryDirectory(
                prefix=hidden, dir=self.path.parent, ignore_cleanup_errors=True
            )
            self._bag = Path(stack.enter_context(folder)) / self.path.name
            self._writer = Writer(self._bag, version=_VERSION, storage_plugin=plugin)
            self._writer.open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._stack:
            if kind is not None:
                self._writer.abort()
                return
            if not self.topics:
                self._writer.abort()
                raise DataError(f'nothing was written to bag {self.path}', 'write a message')
            self._writer.close()
            self._require_free()
            if self.path.exists():  # out of the way as shortly as it can
                self.path.rename(self._bag.with_name('replaced'))
            self._bag.rename(self.path)

    def write(self, topic: str, receipt_ns: int, message: Any) -> None:
        """:param message: of :func:`message_builder`, or any of ``rosbags``."""
        kind = message.__msgtype__
        if topic not in self.topics:
            self._connections[topic] = self._writer.add_connection(
                topic,
                kind,
                typestore=self._store,
                offered_qos_profiles=[_qos(topic in self._latched)],
            )
        before = self.topics.get(topic, Topic(kind, 0))
        if before.type != kind:
            what = f'topic {topic!r} has messages of {before.type}, this one is {kind}'
            raise DataError(what, 'use another topic')
        raw = self._store.serialize_cdr(message, kind)
        self._writer.write(self._connections[topic], receipt_ns, raw)
        self.topics[topic] = Topic(kind, before.count + 1)
        first, last = self.span_ns
        self.span_ns = min(first or receipt_ns, receipt_ns), max(last, receipt_ns)

    def _require_free(self) -> None:
        if self.path.exists() and not self._overwrite:
            raise DataError(f'{self.path} exists', 'choose another path, or set overwrite')
        if self.path.exists() and not _is_bag_alone(self.path):
            raise DataError(f'{self.path} exists and is no bag', 'choose another path')


def _is_bag_alone(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = list(folder.iterdir())
    return any(is_storage(f) for f in files) and all(
        f.is_file() and (is_storage(f) or f.name == METADATA) for f in files
    )


def _qos(latched: bool) -> Any:
    from rosbags import interfaces as ros

    unset = ros.QosTime(0, 0)
    return ros.Qos(
        history=ros.QosHistory.KEEP_LAST,
        depth=_LATCHED_DEPTH if latched else _DEPTH,
        reliability=ros.QosReliability.RELIABLE,
        durability=ros.QosDurability.TRANSIENT_LOCAL if latched else ros.QosDurability.VOLATILE,
        deadline=unset,
        lifespan=unset,
        liveliness=ros.QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=unset,
        avoid_ros_namespace_conventions=False,
    )
