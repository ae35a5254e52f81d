"""Budgets per camera, and the two ways to fill them: the best tokens, or the least alike. Nothing
here waits for a device.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import is_int, option
from ..errors import ProfileError
from .base import PruningContext, Selection
from .layout import Target

Budget = int | tuple[int, ...] | None  # tokens: one number for all cameras, or one per camera


def budget_option() -> Any:
    return option(
        None,
        'visual tokens per camera that are kept, one number for all or one per camera; none: half '
        'of them',
        low=1,
    )


def per_camera(method: str, name: str, value: Any, target: Target) -> tuple[Any, ...]:
    given = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(given) <= len(target.cameras):
        raise ProfileError(
            f'{method}: {name} has {len(given)} numbers for {len(target.cameras)} cameras',
            'give one per camera, or one for all',
        )
    return given


def budgets(method: str, budget: Budget, target: Target) -> tuple[int, ...]:
    """One per camera: half of its tokens for None; the last number given serves further
    cameras."""
    if budget is None:
        budget = max(1, target.patches // 2)
    given = per_camera(method, 'budget', budget, target)
    if not all(is_int(b) and 1 <= b <= target.patches for b in given):
        raise ProfileError(
            f'{method}: budget is {budget!r}',
            f'use whole numbers from 1 to {target.patches}, the tokens of a camera',
        )
    return tuple(map(int, given + (given[-1],) * (len(target.cameras) - len(given))))


def best_first(scores: Tensor, levels: Tensor | None = None) -> Tensor:
    """Order of descending levels, where given, and inside them of descending scores (..., n); ties
    go to the lower index: int64 (..., n)."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    if levels is None:
        return order
    return order.gather(-1, best_first(levels.gather(-1, order)))


def best_per_camera(
    ids: Tensor,
    scores: Tensor,
    per_camera: Sequence[int],
    budget: Sequence[int],
    levels: Tensor | None = None,
) -> list[Tensor]:
    """The best of each camera's ``ids`` (n,), best first as in :func:`best_first`. A camera that
    has fewer tokens (``per_camera``) than its budget gives all."""
    parts = [ids.split(per_camera), scores.split(per_camera)]
    parts.append([None] * len(budget) if levels is None else levels.split(per_camera))
    groups = zip(*parts, budget, strict=True)
    return [own[best_first(score, level)[:count]] for own, score, level, count in groups]


def select_best(
    context: PruningContext, scores: Tensor, budget: Sequence[int], levels: Tensor | None = None
) -> Selection:
    return Selection.of(
        best_per_camera(context.ids, scores, context.kept_per_camera, budget, levels)
    )


def cosine_distance(features: Tensor) -> Tensor:
    """1 - cosine of every pair of rows, in float32: (..., n, D) -> (..., n, n). What is not a
    number counts as zero, and a row of zeros has distance 1 to every row."""
    unit = F.normalize(features.float().nan_to_num(), dim=-1)
    return 1 - unit @ unit.transpose(-1, -2)


def farthest_first(distance: Tensor, count: int, candidates: Tensor | None = None) -> Tensor:
    """Greedy max-min selection (DivPrune, arXiv 2503.02175) from B sets (B, n, n), bool (B, n):
    int64 (B, count), in order. The first pick is the candidate whose nearest other one is
    farthest; every further one is farthest from all that are picked. Ties go to the lower index. A
    set with fewer candidates repeats index 0 once it is exhausted: cut it there."""
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
    """The most diverse of each camera's tokens by ``features`` (V, D), in the order of picking.
    ``candidates``, bool (V,), are at least the budget of each camera."""
    cameras = len(features) // patches
    among = None if candidates is None else candidates.view(cameras, patches)
    distance = cosine_distance(features.view(cameras, patches, -1))
    order = farthest_first(distance, max(budget), among)
    return [order[i, :size] + i * patches for i, size in enumerate(budget)]
