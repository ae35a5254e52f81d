"""Baselines behind the seam: ``dense`` keeps everything, ``uniform`` keeps an even grid."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...errors import ProfileError
from ..base import Pruner, PruningContext, PruningSite, Query, Selection
from ..layout import Target
from ..selection import Budget, budgets


@dataclass(frozen=True)
class Dense(Pruner):
    """No pruning at all: the published model."""

    name = 'dense'
    capturable = True
    sites = ()

    @classmethod
    def build(cls, target: Target) -> 'Dense':
        """There is nothing to choose."""
        return cls()

    def begin(self, query: Query) -> str:
        """Always ``'dense'``."""
        return 'dense'

    def keep(self, view: PruningContext) -> Tensor | None:
        return None


def bayer_matrix(side: int) -> Tensor:
    """Order in which a square grid is filled most evenly: ranks, int64 (side, side).

    The index matrix of ordered dithering (Bayer 1973) for a power of two: M(1) = 0 and
    M(2n) = [[4 M(n), 4 M(n) + 2], [4 M(n) + 3, 4 M(n) + 1]].
    """
    matrix = torch.zeros(1, 1, dtype=torch.long)
    while len(matrix) < side:
        four = 4 * matrix
        matrix = torch.cat([torch.cat([four, four + 2], 1), torch.cat([four + 3, four + 1], 1)], 0)
    return matrix


@cache
def even_ranks(patches: int) -> Tensor:
    """When each patch of one camera is taken if they are to be spread evenly: int64 (patches,).

    Those of :func:`bayer_matrix`: the first n in this order put the same number, give or take
    one, into every block of 2 x 2 patches, of 4 x 4 and so on. A grid whose side is no power of
    two takes the top left of the next larger matrix. Made once, for reading only: pruners ask in
    every query.
    """
    side = math.isqrt(patches - 1) + 1
    return bayer_matrix(side)[:side, :side].flatten()[:patches]


def stratified(patches: int, budget: int) -> Tensor:
    """``budget`` of ``patches`` ids of one camera, the first by :func:`even_ranks`.

    Smaller budgets are subsets of larger ones.

    :returns: int64 (budget,), ascending.
    """
    return even_ranks(patches).argsort(stable=True)[:budget].sort().values


@cache
def _grid(patches: int, left: tuple[int, ...], device: torch.device) -> Tensor:
    """Ids of all cameras, ascending; made once, for reading only."""
    parts = [stratified(patches, count) + i * patches for i, count in enumerate(left)]
    return torch.cat(parts).to(device)


@dataclass(frozen=True)
class Uniform(Pruner):
    """A fixed, evenly spread subset of each camera's tokens, chosen before layer 0.

    The stratified baseline that any selection must beat (reference study: 384 and 256 of 512
    tokens with original position ids kept nearly all success).

    :param budget: visual tokens per camera that stay; the last number serves further cameras.
    """

    budget: tuple[int, ...] = (128,)
    name = 'uniform'
    capturable = True
    sites = (PruningSite(-1),)

    def __post_init__(self) -> None:
        if not self.budget or any(int(b) != b or b < 1 for b in self.budget):
            raise ProfileError(
                f'uniform: budget is {list(self.budget)}', 'use whole numbers of 1 or more'
            )

    @classmethod
    def build(cls, target: Target, budget: Budget = None) -> 'Uniform':
        """For ``target``; half of each camera's tokens where no budget is given."""
        return cls(budgets('uniform', budget, target))

    def begin(self, query: Query) -> str:
        """``'coarse'``: the budget does not depend on the motion."""
        return 'coarse'

    def keep(self, view: PruningContext) -> Selection:
        """The same ids every time; a camera with fewer tokens than its budget keeps all."""
        patches = view.layout.patches
        cameras = range(len(view.layout.cameras))
        left = tuple(min(self.budget[min(i, len(self.budget) - 1)], patches) for i in cameras)
        return Selection(_grid(patches, left, view.ids.device), left)
