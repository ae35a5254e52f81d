"""The storage files of a bag: which they are, and how each is opened, whole or in part."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from .bag_recovery import CutMcap, CutSqlite, Storage

FILES = ('.mcap', '.db3', '.bag')
"""Endings of storage files; ``.zstd`` may follow."""

METADATA = 'metadata.yaml'

_ZSTD = b'\x28\xb5\x2f\xfd'
_CUT = {'.mcap': CutMcap, '.db3': CutSqlite}


def is_storage(path: Path) -> bool:
    """Whether a file's name is that of a storage file."""
    return Path(path.name.removesuffix('.zstd')).suffix in FILES


def storage_files(folder: Path) -> list[Path]:
    """Storage files in a folder, by the number in their names: ``bag_2`` before ``bag_10``."""
    return sorted(
        (p for p in folder.iterdir() if p.is_file() and is_storage(p)),
        key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r'(\d+)', p.name)],
    )


def listed(folder: Path) -> list[str]:
    """File names in metadata.yaml; none where it is missing or broken, for nothing needs it."""
    try:
        data = yaml.safe_load((folder / METADATA).read_text(encoding='utf-8'))
        names = data['rosbag2_bagfile_information']['relative_file_paths']
        return [Path(str(name)).name for name in names]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return []


def find_bags(path: 'str | Path') -> list[Path]:
    """The bags below a path, in order of name: itself where it is one.

    A folder is a bag where it holds ``metadata.yaml``, or storage files with its own name in front
    (a split bag of a recorder that was killed); every other storage file is a bag of its own.
    """
    path = Path(path).expanduser()
    if not path.is_dir() or (path / METADATA).exists():
        return [path]
    files = storage_files(path)
    if files and all(p.name.startswith(path.name + '_') for p in files):
        return [path]
    return files + [b for d in sorted(path.iterdir()) if d.is_dir() for b in find_bags(d)]


def open_storage(path: Path) -> Storage:
    """One file through ``rosbags``.

    :raises Exception: whatever ``rosbags`` and the libraries under it raise.
    """
    if path.suffix == '.bag':
        from rosbags.rosbag1 import Reader as Reader1

        old: Any = Reader1(path)
        old.open()
        return old
    from rosbags.rosbag2 import Reader as Reader2

    reader: Any = Reader2(path)
    reader.open()
    if path.suffix == '.mcap' and not reader.storage.chunks:
        # Each reading would walk through the whole file, and two at once would meet.
        reader.close()
        raise ValueError('no index')
    return reader


def recover(path: Path) -> 'CutMcap | CutSqlite | None':
    """What is left of a file that :func:`open_storage` refused; None where nothing is."""
    try:
        return _CUT[path.suffix](path)
    except Exception:  # not even its head is what it should be, or there is no such reader
        return None


def rows(
    storage: Storage, topics: set[str], start: int | None, stop: int | None
) -> Iterator[tuple[str, int, bytes]]:
    """Topic, time of receipt in ns and serialised message, by receipt, of some topics."""
    wanted = [c for c in storage.connections if c.topic in topics]
    if wanted:  # no connection would mean all to rosbags
        for channel, receipt_ns, raw in storage.messages(wanted, start, stop):
            yield channel.topic, receipt_ns, raw


def unpack(path: Path, stack: ExitStack) -> Path:
    """A compressed file, unpacked for as long as the stack is open."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='vla_prune_bag_'))
    out = Path(folder) / path.stem
    with _zstd().open(path, 'rb') as packed, out.open('wb') as file:
        shutil.copyfileobj(packed, file)
    return out


def decompressed(raw: bytes) -> bytes:
    """A message without the compression that a recorder may have put on each."""
    return _zstd().decompress(raw) if raw[:4] == _ZSTD else bytes(raw)


def line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _zstd() -> Any:
    try:
        from compression import zstd
    except ImportError:  # before Python 3.14
        from backports import zstd
    return zstd
