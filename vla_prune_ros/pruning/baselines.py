"""Baselines behind the seam: ``dense`` keeps everything, ``uniform`` keeps an even grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ProfileError
from .plan import Query, Site, SiteView


@dataclass(frozen=True)
class Dense:
    """No pruning at all: the published model."""

    name: str = 'dense'
    sites: tuple[Site, ...] = ()

    def begin(self, query: Query) -> str:
        """Always ``'dense'``."""
        return 'dense'

    def keep(self, view: SiteView) -> Tensor | None:
        """Everything stays."""
        return None

    def reset(self) -> None:
        """Nothing to forget."""


def stratified(patches: int, budget: int) -> Tensor:
    """``budget`` of ``patches`` ids of one camera, one from the middle of each equal stratum.

    Row-major ids are cut into ``budget`` equal intervals and the token at the centre of each
    stays: id_i = floor((i + 1/2) * patches / budget). int64 (budget,), ascending, no id twice.
    """
    i = torch.arange(budget)
    return ((2 * i + 1) * patches) // (2 * budget)


@dataclass(frozen=True)
class Uniform:
    """A fixed, evenly spread subset of each camera's tokens, chosen before layer 0.

    The stratified baseline that any selection must beat (reference study: 384 and 256 of 512
    tokens with original position ids kept nearly all success).

    :param budget: visual tokens per camera that stay; the last number serves further cameras.
    """

    budget: tuple[int, ...] = (128,)
    name: str = 'uniform'
    sites: tuple[Site, ...] = (Site(-1),)

    def __post_init__(self) -> None:
        if not self.budget or any(int(b) != b or b < 1 for b in self.budget):
            raise ProfileError(
                f'uniform: budget is {list(self.budget)}', 'use whole numbers of 1 or more'
            )

    def begin(self, query: Query) -> str:
        """``'coarse'``: the budget does not depend on the motion."""
        return 'coarse'

    def keep(self, view: SiteView) -> Tensor:
        """The same ids every time; a camera with fewer tokens than its budget keeps all."""
        patches = view.layout.patches
        per_camera = []
        for i in range(len(view.layout.cameras)):
            budget = min(self.budget[min(i, len(self.budget) - 1)], patches)
            per_camera.append(stratified(patches, budget) + i * patches)
        return torch.cat(per_camera).to(view.ids.device)

    def reset(self) -> None:
        """Nothing to forget."""
