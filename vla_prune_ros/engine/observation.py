"""One observation as the network takes it: pictures of 224 pixels, a normalised state."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import InputRefused
from ..model.proprio import normalize
from ..model.statistics import Statistics
from ..profiles import Profile
from ..records import Observation


def normalized_state(
    observation: Observation, statistics: Statistics, profile: Profile
) -> Tensor | None:
    """float64 (1, P) within -1 .. 1; None where the checkpoint takes no state.

    :raises InputRefused: not P finite numbers.
    """
    bounds = statistics.proprio
    if bounds is None:
        return None
    state = np.asarray([] if observation.proprio is None else observation.proprio, np.float64)
    if state.shape != bounds.low.shape or not np.isfinite(state).all():
        raise InputRefused(
            'proprio',
            f'proprio is {state.tolist()}',
            f'profile {profile.name!r} needs {len(bounds.low)} finite numbers',
        )
    return torch.from_numpy(normalize(state, bounds.low, bounds.high, bounds.mask))[None]


def uploaded(images: Mapping[str, np.ndarray], device: torch.device) -> Tensor:
    """Prepared pictures as uint8 (cameras, 224, 224, 3) on ``device``; from pinned memory, so that
    the host does not wait."""
    tensor = torch.from_numpy(np.stack(list(images.values())))
    if device.type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
