"""FastV: after a shallow layer, drop the visual tokens that receive the least attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..base import Pruner, PruningContext, PruningSite, Query, Selection, text_positions
from ..knobs import one_of, switch, whole
from ..layout import Layout, Target
from ..selection import Budget, best_first, best_per_camera, budgets


def everything(layout: Layout) -> range:
    """All positions of the sequence."""
    return range(layout.length)


def last_prompt(layout: Layout) -> range:
    """The position of the last prompt token."""
    return layout.prompt_positions[-1:]


def action_slots(layout: Layout) -> range:
    """Positions of the action slots."""
    return layout.slot_positions


ROWS: Mapping[str, Callable[[Layout], Sequence[int]]] = {
    'all': everything,
    'last': last_prompt,
    'text': text_positions,
    'action': action_slots,
}
"""Whose attention counts: knob ``rows`` -> positions."""


@dataclass(frozen=True)
class FastV(Pruner):
    """FastV (arXiv 2403.06764), on the bidirectional decoder of OpenVLA-OFT.

    A token's score is the attention that it receives in the last layer before the cut, mean over
    heads and over ``rows``; the best ``budget`` of each camera go on.

    Paper and released code differ, and both are here. The paper averages over all other tokens
    (``rows='all'``; the token itself is left out, and proprioception, slots and stop count too).
    The released code reads the last token of the prompt (``'last'``), one row instead of a whole
    map of that layer. In a causal model later tokens do not count for earlier ones; here they do.

    The code counts layers like ``layer``: K = 2 means that layers 0 and 1 see everything and that
    the maps of layer 1 decide. The port to OpenVLA-OFT that comes with VLA-Pruner (arXiv
    2511.16449) cuts after layer 3 counted from 0 (``layer=4``), takes the rows from BOS to the
    last prompt token, and selects camera by camera as here; the original has one picture.
    Survivors keep their positions in all of them.

    Ours: ``'text'`` and ``'action'``, budgets per camera, and K clipped to the model's depth.

    :param budget: visual tokens per camera that stay.
    :param layer: K, layers that see every token.
    :param rows: key of :data:`ROWS`.
    :param joint: rank all cameras together and keep the sum of the budgets, as published for one
        picture; how many each camera keeps then depends on the data.
    """

    budget: tuple[int, ...]
    layer: int = 2
    rows: str = 'all'
    joint: bool = False
    name = 'fastv'

    @classmethod
    def build(
        cls,
        target: Target,
        budget: Budget = None,
        layer: int = 2,
        rows: str = 'all',
        joint: bool = False,
    ) -> 'FastV':
        """For ``target``.

        :param budget: visual tokens per camera; None for half of them.
        :param layer: layers that see every token, 1 or more; clipped to the model's layers.
        :param rows: ``'all'``, ``'last'``, ``'text'`` (words of the task) or ``'action'``.
        :param joint: one ranking for all cameras.
        :raises ProfileError: a value that is not possible.
        """
        return cls(
            budgets('fastv', budget, target),
            min(whole('fastv', 'layer', layer, 1), max(1, target.layers - 1)),
            one_of('fastv', 'rows', rows, tuple(ROWS)),
            switch('fastv', 'joint', joint),
        )

    @property
    def capturable(self) -> bool:
        """One ranking of all cameras leaves each of them as many as the data say."""
        return not self.joint

    @property
    def sites(self) -> tuple[PruningSite, ...]:
        """After layer K - 1, counted from 0."""
        return (PruningSite(self.layer - 1, ROWS[self.rows], hidden=False),)

    def begin(self, query: Query) -> str:
        """``'coarse'``: the budget does not depend on the motion."""
        return 'coarse'

    def keep(self, view: PruningContext) -> Tensor | Selection:
        """The tokens that receive the most attention; ties go to the lower id."""
        scores = self._scores(view.attention)
        if self.joint:
            return view.ids[best_first(scores)[: sum(self.budget)]]
        return Selection.of(best_per_camera(view.ids, scores, view.kept_per_camera, self.budget))

    def report(self) -> dict[str, float | int | str]:
        """Whose attention decided."""
        return {'reason': 'budget', 'rows': self.rows}

    def _scores(self, attention: Tensor) -> Tensor:
        if self.rows != 'all':
            return attention.mean(dim=0)
        n = attention.shape[1]
        own = attention[1 : 1 + n].diagonal()  # row of position 1 + i, column of id i
        return (attention.sum(dim=0) - own) / (len(attention) - 1)
