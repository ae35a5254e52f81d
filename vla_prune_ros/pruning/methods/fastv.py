"""FastV: after a shallow layer, drop the visual tokens that receive the least attention."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...config import option
from ..base import Pruner, PruningContext, PruningSite, Rows, Selection, text_positions
from ..layout import Target
from ..selection import Budget, best_first, budget_option, budgets, select_best

ROWS: Mapping[str, Rows] = {
    'all': lambda layout: range(layout.length),
    'last': lambda layout: layout.prompt_positions[-1:],
    'text': text_positions,
    'action': lambda layout: layout.slot_positions,
}


@dataclass(frozen=True)
class FastVOptions:
    budget: Budget = budget_option()
    layer: int = option(2, "K, layers that see every token; clipped to the model's layers", low=1)
    rows: str = option(
        'all',
        'whose attention counts: all tokens, the last of the prompt, the words of the task '
        '(text) or the action slots',
        choices=tuple(ROWS),
    )
    joint: bool = option(False, 'one ranking of all cameras, which keeps the sum of the budgets')


class FastV(Pruner):
    """FastV (arXiv 2403.06764). A token's score is the attention that it receives in the last
    layer before the cut, mean over heads and rows: in the paper over all other tokens, in the
    released code the last of the prompt. Ours: the other rows, budgets per camera (``joint``: one
    ranking of all, as published), and K clipped to the model's depth."""

    name = 'fastv'
    options_type = FastVOptions

    def __init__(self, options: FastVOptions, target: Target) -> None:
        self.budget = budgets(self.name, options.budget, target)
        self._options = options
        layer = min(options.layer, max(1, target.layers - 1))
        self.sites = (PruningSite(layer - 1, ROWS[options.rows], hidden=False),)
        self.capturable = not options.joint

    def keep(self, context: PruningContext) -> Tensor | Selection:
        attention = context.attention
        if self._options.rows == 'all':
            n = attention.shape[1]
            own = attention[1 : 1 + n].diagonal()  # row of position 1 + i, column of id i
            scores = (attention.sum(dim=0) - own) / (len(attention) - 1)
        else:
            scores = attention.mean(dim=0)
        if self._options.joint:
            return context.ids[best_first(scores)[: sum(self.budget)]]
        return select_best(context, scores, self.budget)

    def report(self) -> dict[str, float | int | str]:
        return {'reason': 'budget', 'rows': self._options.rows}
