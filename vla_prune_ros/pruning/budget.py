"""Budgets per camera, and choosing the best of each camera.

How many tokens a camera has left is a number that the host knows: nothing here waits for a device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ProfileError
from .knobs import is_whole
from .layout import Target

Budget = int | Sequence[int] | None
"""Visual tokens per camera: one number for all, or one per camera; None for half of them."""


def budgets(method: str, budget: Budget, target: Target) -> tuple[int, ...]:
    """One budget per camera of ``target``; the last number given serves further cameras.

    :raises ProfileError: not whole numbers from 1 to the patches of a camera, or more numbers than
        cameras.
    """
    if budget is None:
        return (max(1, target.patches // 2),) * len(target.cameras)
    given = tuple(budget) if isinstance(budget, (list, tuple)) else (budget,)
    if not given or not all(is_whole(b) and 1 <= b <= target.patches for b in given):
        raise ProfileError(
            f'{method}: budget is {budget!r}',
            f'use whole numbers from 1 to {target.patches}, the tokens of a camera',
        )
    if len(given) > len(target.cameras):
        raise ProfileError(
            f'{method}: budget has {len(given)} numbers for {len(target.cameras)} cameras',
            'give one per camera, or one for all',
        )
    return tuple(map(int, given + (given[-1],) * (len(target.cameras) - len(given))))


def best_first(scores: Tensor) -> Tensor:
    """Order of descending scores (n,); ties go to the lower index: int64 (n,)."""
    return torch.sort(scores, descending=True, stable=True).indices


def best_per_camera(
    ids: Tensor, scores: Tensor, left: Sequence[int], budget: Sequence[int]
) -> list[Tensor]:
    """The best tokens of each camera, best first; ties go to the lower id.

    :param ids: int64 (n,), ascending original ids.
    :param scores: (n,), higher is better.
    :param left: how many of ``ids`` each camera has.
    :param budget: tokens per camera; a camera with fewer gives all.
    :returns: per camera int64 (min(budget, left),) original ids.
    """
    chosen = []
    for own, its, size in zip(ids.split(left), scores.split(left), budget, strict=True):
        chosen.append(own[best_first(its)[:size]])
    return chosen
