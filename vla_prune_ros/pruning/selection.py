"""Budgets per camera, and the two ways to fill them: the best tokens, or the least alike.

How many tokens a camera has left is a number that the host knows: nothing here waits for a device.

DivPrune (arXiv 2503.02175) solves the max-min diversity problem greedily, from the token whose
nearest neighbour is farthest; VLA-Pruner (arXiv 2511.16449) uses the same step on its candidates.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import is_int, option
from ..errors import ProfileError
from .layout import Target

Budget = int | tuple[int, ...] | None
"""Visual tokens per camera: one number for all, or one per camera; None for half of them."""


def budget_option() -> Any:
    """The field of a budget that is half of each camera's tokens where none is given."""
    return option(
        None,
        'visual tokens per camera that are kept, one number for all or one per camera; none: half '
        'of them',
        low=1,
    )


def per_camera(method: str, name: str, value: Any, target: Target) -> tuple[Any, ...]:
    """An option that is one number for all cameras, or a number for each, as a tuple.

    :raises ProfileError: no number, or more than cameras.
    """
    given = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(given) <= len(target.cameras):
        raise ProfileError(
            f'{method}: {name} has {len(given)} numbers for {len(target.cameras)} cameras',
            'give one per camera, or one for all',
        )
    return given


def budgets(method: str, budget: Budget, target: Target) -> tuple[int, ...]:
    """One budget per camera of ``target``; the last number given serves further cameras.

    :raises ProfileError: not whole numbers from 1 to the patches of a camera, or more numbers than
        cameras.
    """
    if budget is None:
        budget = max(1, target.patches // 2)
    given = per_camera(method, 'budget', budget, target)
    if not all(is_int(b) and 1 <= b <= target.patches for b in given):
        raise ProfileError(
            f'{method}: budget is {budget!r}',
            f'use whole numbers from 1 to {target.patches}, the tokens of a camera',
        )
    return tuple(map(int, given + (given[-1],) * (len(target.cameras) - len(given))))


def best_first(scores: Tensor) -> Tensor:
    """Order of descending scores (..., n); ties go to the lower index: int64 (..., n)."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices


def best_per_camera(
    ids: Tensor, scores: Tensor, per_camera: Sequence[int], budget: Sequence[int]
) -> list[Tensor]:
    """The best tokens of each camera, best first; ties go to the lower id.

    :param ids: int64 (n,), ascending original ids; ``per_camera`` says how many each camera has.
    :param budget: tokens per camera; a camera with fewer gives all."""
    groups = zip(ids.split(per_camera), scores.split(per_camera), budget, strict=True)
    return [own[best_first(score)[:count]] for own, score, count in groups]


def cosine_distance(features: Tensor) -> Tensor:
    """1 - cosine of every pair of rows, in float32: (..., n, D) -> (..., n, n).

    A row of zeros has distance 1 to every row; what is not a number counts as zero.
    """
    unit = F.normalize(features.float().nan_to_num(), dim=-1)
    return 1 - unit @ unit.transpose(-1, -2)


def farthest_first(distance: Tensor, count: int, candidates: Tensor | None = None) -> Tensor:
    """Greedy max-min selection, for B independent sets at once: int64 (B, count), in order.

    The first pick is the candidate whose nearest other candidate is farthest; every further one is
    the candidate that is farthest from all that are picked. Ties go to the lower index. The first
    k picks of a longer run are the picks of a run of k. A set with fewer candidates repeats index
    0 once it is exhausted: cut it there.

    :param distance: (B, n, n), symmetric. :param candidates: bool (B, n); None for all."""
    eye = torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
    if candidates is None:
        candidates = torch.ones_like(distance[:, 0], dtype=torch.bool)
    others = distance.masked_fill(eye | ~candidates[:, :, None], float('inf'))
    gap = others.amin(dim=1).masked_fill(~candidates, float('-inf'))
    nearest = torch.where(candidates, float('inf'), float('-inf'))
    # Minus infinity on the diagonal: a pick takes itself out of the race.
    distance = distance.masked_fill(eye, float('-inf'))
    batch = torch.arange(len(distance), device=distance.device)
    picks = [gap.argmax(dim=1)]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, distance[batch, picks[-1]])
        picks.append(nearest.argmax(dim=1))
    return torch.stack(picks, dim=1)


def diverse_per_camera(
    features: Tensor, patches: int, budget: Sequence[int], candidates: Tensor | None = None
) -> list[Tensor]:
    """The most diverse tokens of each camera, in the order of picking.

    :param features: (V, D) of all visual tokens, camera by camera, ``patches`` each.
    :param candidates: bool (V,), at least the budget of each camera; None for all."""
    cameras = len(features) // patches
    among = None if candidates is None else candidates.view(cameras, patches)
    distance = cosine_distance(features.view(cameras, patches, -1))
    order = farthest_first(distance, max(budget), among)
    return [order[i, :size] + i * patches for i, size in enumerate(budget)]
