"""LightVLA: the visual tokens that some query without parameters likes best, before layer 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ProfileError
from .budget import Budget, budgets
from .knobs import switch
from .layout import Target
from .lightvla_scores import selected, selection_scores
from .plan import Chosen, Query, Site, SiteView

METHOD = 'lightvla'
"""What ``pruning.json`` of a checkpoint says where the weights were trained for it."""


@dataclass(frozen=True)
class LightVLA:
    """LightVLA (arXiv 2509.12594), inference: every visual token votes for one, the rest goes.

    How many stay depends on the picture; survivors are un-normalised and keep their positions.
    All cameras are one set, as published. Ties go to the lower id.

    :param budget: visual tokens per camera; None for the published set. With a budget, which is
        ours, each camera keeps so many: those with the most votes, then those with the highest
        score from any query, lower ids first.
    """

    budget: tuple[int, ...] | None = None
    name: str = METHOD
    sites: tuple[Site, ...] = (Site(-1),)

    @classmethod
    def build(cls, target: Target, budget: Budget = None, force: bool = False) -> 'LightVLA':
        """For ``target``.

        :param budget: visual tokens per camera; None for as many as are voted for.
        :param force: run on weights that were not trained for it, on which it fails: about 0 %
            success for a stock OpenVLA-OFT (docs/methods.md).
        :raises ProfileError: the checkpoint was not trained for it, or a value is not possible.
        """
        forced = switch(METHOD, 'force', force)
        trained = target.trained
        if trained is not None and trained.method != METHOD and not forced:
            was = f'for {trained.method!r}' if trained.method else 'without pruning'
            raise ProfileError(
                f'the checkpoint was trained {was}, and lightvla fails on such weights',
                'take one that was trained for it (vla-prune train lightvla), say so in its '
                f'pruning.json ({{"method": "{METHOD}"}}), or set force: true',
            )
        return cls(None if budget is None else budgets(METHOD, budget, target))

    @property
    def static(self) -> bool:
        """Without a budget the data say how many stay."""
        return self.budget is not None

    def begin(self, query: Query) -> str:
        """``'coarse'``: the choice does not depend on the motion."""
        return 'coarse'

    def keep(self, view: SiteView) -> Tensor | Chosen:
        """The tokens that stay."""
        n = len(view.ids)
        scores = selection_scores(view.hidden[1 : 1 + n], view.hidden[1 + n :])
        if self.budget is None:
            return view.ids[selected(scores)]
        one = torch.ones_like(view.ids)
        votes = torch.zeros_like(view.ids).scatter_add(0, scores.argmax(-1), one)
        parts = zip(
            view.ids.split(view.left),
            votes.split(view.left),
            scores.amax(0).split(view.left),
            self.budget,
            strict=True,
        )
        return Chosen.of([ids[voted_first(v, best)[:size]] for ids, v, best, size in parts])

    def reset(self) -> None:
        """Nothing to forget."""

    def report(self) -> dict[str, float | int | str]:
        """The choice depends on the picture and the words alone."""
        return {'reason': 'votes' if self.budget is None else 'budget'}


def voted_first(votes: Tensor, best: Tensor) -> Tensor:
    """Order of descending votes int64 (n,), then descending score (n,), then ascending index."""
    by_score = torch.sort(best, descending=True, stable=True).indices
    return by_score[torch.sort(votes[by_score], descending=True, stable=True).indices]
