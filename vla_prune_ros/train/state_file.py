"""The unfinished state of a training, on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` where it is whole at any moment: a run that is cut leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    torch.save(state, part)
    part.replace(path)
