"""DivPrune: keep the visual tokens that are least alike, whatever the task."""

from dataclasses import dataclass

from torch import Tensor

from ...config import option
from ..base import Pruner, PruningContext, PruningSite, Selection
from ..layout import Target
from ..selection import (
    Budget,
    budget_option,
    budgets,
    cosine_distance,
    diverse_per_camera,
    farthest_first,
)


@dataclass(frozen=True)
class DivPruneOptions:
    budget: Budget = budget_option()
    joint: bool = option(False, 'one selection over all cameras, of the sum of the budgets')


class DivPrune(Pruner):
    """DivPrune (arXiv 2503.02175): greedy max-min diversity of the projected patch features. Ours:
    a budget per camera (``joint``: one for all, as published), no token is picked twice,
    float32."""

    name = 'divprune'
    options_type = DivPruneOptions
    sites = (PruningSite(-1),)

    def __init__(self, options: DivPruneOptions, target: Target) -> None:
        self.budget = budgets(self.name, options.budget, target)
        self._joint = options.joint
        self.capturable = not options.joint

    def keep(self, context: PruningContext) -> Tensor | Selection:
        n = len(context.ids)
        features = context.hidden[1 : 1 + n]
        if self._joint:
            distance = cosine_distance(features)[None]
            return farthest_first(distance, min(n, sum(self.budget)))[0]
        return Selection.of(diverse_per_camera(features, context.layout.patches, self.budget))

    def report(self) -> dict[str, float | int | str]:
        return {'reason': 'budget'}
