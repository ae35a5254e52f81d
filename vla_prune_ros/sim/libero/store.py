"""The private cache folder for what is written for LIBERO, and files that appear whole or not."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...errors import VlaPruneError


def cache_folder() -> Path:
    """``~/.cache/vla_prune_ros/libero``; not made yet, perhaps."""
    return Path.home() / '.cache' / 'vla_prune_ros' / 'libero'


def write_text(file: Path, text: str) -> None:
    """Write a file at once; one with the same text is left alone.

    :raises VlaPruneError: the folder cannot be written.
    """
    if file.is_file() and file.read_text(encoding='utf-8') == text:
        return
    with _writable(file.parent):
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f'.{file.name}-')
        with os.fdopen(handle, 'w', encoding='utf-8') as stream:
            stream.write(text)
        os.replace(name, file)


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder at once; one that exists is left alone, whoever wrote it.

    :param folder: its name must follow from the content.
    :param files: path within the folder -> content.
    :raises VlaPruneError: the folder cannot be written.
    """
    if folder.is_dir():
        return
    with _writable(folder.parent):
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}-'))
        try:
            for name, content in files.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(content)
            draft.chmod(0o755)
            draft.rename(folder)
        except OSError:
            # Another process may have been faster with the same content.
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


class _writable:
    """Makes a folder, and tells of one that cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._refuse(error)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        raise VlaPruneError(
            f'{self._folder} cannot be written ({error.strerror or error})',
            'set HOME to a folder that can',
        ) from None
