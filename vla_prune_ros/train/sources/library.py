"""Libraries of the extra ``train``, imported where they are needed."""

import importlib
from typing import Any

from ...errors import VlaPruneError


def library(module: str, package: str) -> Any:
    """An optional module.

    :param module: what is imported, for example ``pyarrow.parquet``.
    :param package: the name under which it is installed.
    :raises VlaPruneError: it is not installed; the mend names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VlaPruneError(
            f'{package} cannot be imported ({error})', "pip install 'vla_prune_ros[train]'"
        ) from None
