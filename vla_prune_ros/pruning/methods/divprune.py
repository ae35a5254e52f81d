"""DivPrune: keep the visual tokens that are least alike, whatever the task."""

from dataclasses import dataclass

from torch import Tensor

from ..base import Pruner, PruningContext, PruningSite, Query, Selection
from ..knobs import switch
from ..layout import Target
from ..selection import Budget, budgets, cosine_distance, diverse_per_camera, farthest_first


@dataclass(frozen=True)
class DivPrune(Pruner):
    """DivPrune (arXiv 2503.02175): greedy max-min diversity before layer 0, no attention.

    Distance is 1 - cosine of the projected patch features, what the language model is given. As
    in the released code the first pick is the token whose nearest neighbour is farthest; further
    ones maximise the distance to the nearest token already picked.

    Published for one picture, whose tokens compete with each other. The papers that print numbers
    for OpenVLA-OFT do not say how they treat two cameras: a budget per camera is ours, as for all
    methods here, and ``joint=True`` lets all tokens compete as if they were one picture. Also
    ours: a token is never picked twice (the released code can, among identical tokens), distances
    are float32 whatever the model's dtype, ties go to the lower id.

    :param budget: visual tokens per camera that stay.
    :param joint: one selection over all cameras, of the sum of the budgets; how many each camera
        keeps then depends on the data.
    """

    budget: tuple[int, ...]
    joint: bool = False
    name = 'divprune'
    sites = (PruningSite(-1),)

    @classmethod
    def build(cls, target: Target, budget: Budget = None, joint: bool = False) -> 'DivPrune':
        """For ``target``.

        :param budget: visual tokens per camera; None for half of them.
        :param joint: one selection over all cameras.
        :raises ProfileError: a value that is not possible.
        """
        return cls(budgets('divprune', budget, target), switch('divprune', 'joint', joint))

    @property
    def capturable(self) -> bool:
        """Where all compete, the data say how many each camera keeps."""
        return not self.joint

    def begin(self, query: Query) -> str:
        """``'coarse'``: the budget does not depend on the motion."""
        return 'coarse'

    def keep(self, view: PruningContext) -> Tensor | Selection:
        """The tokens that stay."""
        n = len(view.ids)
        features = view.hidden[1 : 1 + n]
        if self.joint:
            distance = cosine_distance(features)[None]
            return farthest_first(distance, min(n, sum(self.budget)))[0]
        return Selection.of(diverse_per_camera(features, view.layout.patches, self.budget))

    def report(self) -> dict[str, float | int | str]:
        """The choice depends on the picture alone."""
        return {'reason': 'budget'}
