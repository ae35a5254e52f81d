"""What a figure was measured on: it stands beside every result."""

import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ('torch', 'transformers', 'numpy', 'mujoco', 'robosuite', 'ros-rclpy')


def machine() -> dict[str, Any]:
    """Processor, cores, system and the versions of the packages that are installed."""
    import os

    return {
        'cpu': _cpu(),
        'cores': len(os.sched_getaffinity(0)),
        'system': platform.platform(terse=True),
        'python': platform.python_version(),
        'packages': installed(PACKAGES),
    }


def _cpu() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    out = {}
    for name in packages:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
