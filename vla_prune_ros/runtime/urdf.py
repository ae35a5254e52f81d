"""Where a robot description comes from: XML text, a file, or a ``package://`` address."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..errors import ProfileError

PACKAGE_SCHEME = 'package://'


def resolve_urdf(value: str) -> str:
    """Text of a URDF, wherever it is given.

    ``package://name/path`` is looked up as ROS does it, in ``share/name/path`` below every prefix
    of the environment variable ``AMENT_PREFIX_PATH``, the first one first. Where no prefix has
    the file, it is looked up in the installed Python package ``name``, which is not imported.

    :param value: XML text (begins with ``<``), a path, or ``package://name/path``.
    :returns: XML text; whether it is a URDF is not checked here.
    :raises ProfileError: no such file, or it cannot be read as UTF-8 text.
    """
    text = value.lstrip('\ufeff \t\r\n')
    if text.startswith('<'):
        return text
    path = _in_package(value) if value.startswith(PACKAGE_SCHEME) else Path(value).expanduser()
    try:
        return path.read_text(encoding='utf-8-sig').lstrip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'
        raise ProfileError(
            f'URDF {path} cannot be read: {reason}',
            'give a path, package://name/path, or the XML text itself',
        ) from error


def _in_package(address: str) -> Path:
    name, _, inside = address.removeprefix(PACKAGE_SCHEME).partition('/')
    for folder in _package_folders(name):
        if (folder / inside).is_file():
            return folder / inside
    found = ', '.join(map(str, _package_folders(name)))
    raise ProfileError(
        f'URDF {address} was not found'
        + (f' in {found}' if found else f': no package {name!r} in AMENT_PREFIX_PATH or Python'),
        'correct the path' if found else "source the package's workspace or install it",
    )


def _package_folders(name: str) -> Iterator[Path]:
    """Folders that hold the files of a package: ROS shares, then the Python package."""
    if not name.isidentifier():  # a dotted name would import its parent
        return
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        share = Path(prefix, 'share', name)
        if prefix and share.is_dir():
            yield share
    spec = find_spec(name)
    yield from map(Path, (spec and spec.submodule_search_locations) or ())
