"""What the comparison of frames says about each patch: stays, or may go."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .budget import best_first
from .frame_change import Change, most_changed
from .specprune_config import SpecPruneConfig
from .static_selection import mask_of


def by_motion(
    amount: Tensor, moved: Tensor, counts: Sequence[int], patches: int, config: SpecPruneConfig
) -> tuple[Tensor, Tensor]:
    """The patches that changed most, and those that may go for not having changed: bool (V,).

    :param amount: float32 (V,), how much each changed. :param moved: bool (V,), those that count.
    :param counts: least number of patches that stay, per camera.
    :param patches: per camera.
    """
    groups = [slice(0, len(amount))] if config.joint else []
    groups = groups or [slice(i * patches, (i + 1) * patches) for i in range(len(counts))]
    sizes = [sum(counts)] if config.joint else counts
    most, removable = torch.zeros_like(moved), torch.zeros_like(moved)
    for group, size in zip(groups, sizes, strict=True):
        still, much = ~moved[group], amount[group]
        if config.moved_more:  # at most all but `size`, the least changed first
            order = torch.sort(torch.where(still, much, torch.inf), stable=True).indices
            gone = mask_of(order[: max(0, len(order) - size)], len(order)) & still
            top = mask_of(best_first(much)[:size], len(much))
        else:  # all but the `size` most changed
            top = mask_of(most_changed(Change(much, ~still), size), len(much))
            gone = ~top
        most[group], removable[group] = top, gone
    return most, removable
