"""What identifies a result: machine, versions, and the weights that it was made with."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CheckpointError
from ..model.hub import REFERENCE, REFERENCE_LIGHTVLA, reference_folder

PACKAGES = ('torch', 'transformers', 'numpy', 'mujoco', 'robosuite', 'ros-rclpy')
FINGERPRINT_PACKAGES = ('torch', 'transformers', 'numpy', 'mujoco', 'robosuite', 'hf-libero')


def machine() -> dict[str, Any]:
    return {
        'cpu': _cpu(),
        'cores': len(os.sched_getaffinity(0)),
        'system': platform.platform(terse=True),
        'python': platform.python_version(),
        'packages': installed(PACKAGES),
    }


def where(machine: dict[str, Any]) -> str:
    return f'{machine["cpu"]}, {machine["cores"]} cores'


def _cpu() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def installed(packages: Iterable[str]) -> dict[str, str]:
    out = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    return out


def versions() -> dict[str, str]:
    """Package -> version, of this package and of those that may change what an episode does."""
    return {'vla_prune_ros': __version__, **installed(FINGERPRINT_PACKAGES)}


_NAMES = ('*.json', '*.safetensors', '*.pt', 'tokenizer.model')
_WHOLE = 1 << 26  # larger files are sampled: hashing 15 GB would take longer than many episodes
_PIECE = 1 << 20
_PIECES = 16


def checkpoint_fingerprint(folder: Path) -> str:
    """16 hex digits of SHA-256 over names, sizes and contents of a checkpoint's files; of large
    ones, contents are pieces spread over the whole length: other weights differ everywhere.

    :raises CheckpointError: the folder holds none of the files of a checkpoint.
    """
    files = sorted({path for name in _NAMES for path in folder.glob(name)})
    if not files:
        raise CheckpointError(
            f'{folder} holds no checkpoint', 'give the folder with config.json and the weights'
        )
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f'{path.name} {size}\n'.encode())
        with path.open('rb') as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for i in range(_PIECES):
                file.seek((size - _PIECE) * i // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def checkpoint_card(folder: Path) -> dict[str, Any]:
    """``folder`` is ``'reference'`` for the package's own; ``note`` is ``vla_prune.json``."""
    path, place = folder / 'vla_prune.json', str(folder)
    for name in (REFERENCE, REFERENCE_LIGHTVLA):
        with contextlib.suppress(CheckpointError):  # it is not installed
            if folder.resolve() == reference_folder(name).resolve():
                place = name
    note = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    weights = [p for name in _NAMES[1:3] for p in folder.glob(name)]
    return {
        'folder': place,
        'fingerprint': checkpoint_fingerprint(folder),
        'weights_mib': round(sum(p.stat().st_size for p in weights) / 2**20, 2),
        'untrained': note.get('trained') is False,
        'note': note,
    }
