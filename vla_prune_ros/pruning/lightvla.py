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
    static: bool = True
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
    def counted(self) -> bool:
        """Without a budget the data say how many stay."""
        return self.budget is None

    def count(self, view: SiteView) -> Tensor:
        """Tokens with a vote: int64 ()."""
        return count_votes(_scores(view))

    def begin(self, query: Query) -> str:
        """``'coarse'``: the choice does not depend on the motion."""
        return 'coarse'

    def keep(self, view: SiteView) -> Tensor | Chosen:
        """The tokens that stay."""
        scores = _scores(view)
        if self.budget is None:
            if view.size is None:
                return view.ids[selected(scores)]
            return filled_up(view, scores)
        votes = _votes(scores)
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


def filled_up(view: SiteView, scores: Tensor) -> Chosen:
    """The tokens with a vote, and unseen ones up to the size that ``view`` asks for: those that
    would be the next.

    :param scores: float32 (rows, V).
    """
    votes = _votes(scores)
    best = voted_first(votes, scores.amax(0))[: view.size].sort().values
    return Chosen(view.ids[best], None, votes[best] > 0)


def count_votes(scores: Tensor) -> Tensor:
    """Columns that are the best of some row: int64 ()."""
    return (_votes(scores) > 0).sum()


def _scores(view: SiteView) -> Tensor:
    n = len(view.ids)
    return selection_scores(view.hidden[1 : 1 + n], view.hidden[1 + n :])


def _votes(scores: Tensor) -> Tensor:
    """How many rows like each column best: int64 (V,)."""
    chosen = scores.argmax(-1)
    votes = torch.zeros(scores.shape[-1], dtype=torch.long, device=scores.device)
    return votes.scatter_add(0, chosen, torch.ones_like(chosen))


def voted_first(votes: Tensor, best: Tensor) -> Tensor:
    """Order of descending votes int64 (n,), then descending score (n,), then ascending index."""
    by_score = torch.sort(best, descending=True, stable=True).indices
    return by_score[torch.sort(votes[by_score], descending=True, stable=True).indices]
