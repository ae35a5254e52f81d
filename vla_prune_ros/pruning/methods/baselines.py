"""Baselines: ``dense`` keeps everything, ``uniform`` keeps an even grid."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..base import Pruner, PruningContext, PruningSite, Selection
from ..layout import Target
from ..modes import DENSE
from ..selection import Budget, budget_option, budgets


class Dense(Pruner):
    name = 'dense'
    capturable = True
    sites = ()

    def __init__(self, options: object = None, target: Target | None = None) -> None:
        pass

    def begin(self, query: object) -> str:
        return DENSE

    def keep(self, context: PruningContext) -> None:
        return None


def bayer_matrix(side: int) -> Tensor:
    """Order in which a square grid is filled most evenly, int64: the index matrix of ordered
    dithering (Bayer 1973), M(2n) = [[4 M(n), 4 M(n) + 2], [4 M(n) + 3, 4 M(n) + 1]]."""
    matrix = torch.zeros(1, 1, dtype=torch.long)
    while len(matrix) < side:
        four = 4 * matrix
        matrix = torch.cat([torch.cat([four, four + 2], 1), torch.cat([four + 3, four + 1], 1)], 0)
    return matrix


@cache
def even_ranks(patches: int) -> Tensor:
    """When each patch of a camera is taken: int64 (patches,), read only. The first n put the same
    number, give or take one, into every block of 2 x 2 patches, of 4 x 4 and so on."""
    side = math.isqrt(patches - 1) + 1
    return bayer_matrix(side)[:side, :side].flatten()[:patches]


def stratified(patches: int, budget: int) -> Tensor:
    """``budget`` of ``patches`` ids of one camera, ascending; smaller budgets are subsets."""
    return even_ranks(patches).argsort(stable=True)[:budget].sort().values


@cache
def _grid(patches: int, budget: tuple[int, ...], device: torch.device) -> Tensor:
    parts = [stratified(patches, count) + i * patches for i, count in enumerate(budget)]
    return torch.cat(parts).to(device)


@dataclass(frozen=True)
class UniformOptions:
    budget: Budget = budget_option()


class Uniform(Pruner):
    name = 'uniform'
    options_type = UniformOptions
    capturable = True
    sites = (PruningSite(-1),)

    def __init__(self, options: UniformOptions, target: Target) -> None:
        self.budget = budgets(self.name, options.budget, target)

    def keep(self, context: PruningContext) -> Selection:
        ids = _grid(context.layout.patches, self.budget, context.ids.device)
        return Selection(ids, self.budget)
