"""What the language model looked at last time: V_global of SpecPrune-VLA.

Scores are kept by original id, whatever was dropped when they were harvested. The pass that they
come from matters: harvested from pruned passes they feed on themselves, since a token that is gone
cannot be looked at (arXiv 2608.00391 measures how success falls); a dense pass has no such fault.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .plan import SiteView

HARVEST = 'global'
"""Key of ``SiteView.memory``: layer -> what the pass that runs saw there."""


@dataclass
class GlobalMemory:
    """Scores of one pass, and how old they are.

    The tensors are overwritten in place, so that a captured pass finds them where they were; what
    the host knows of them follows when the pass is over (:meth:`learn`).

    :param age: queries begun since they were harvested.
    :param mode: of the pass that they come from.
    :param stamp_ns: of the query that they come from.
    """

    age: int = 0
    mode: str = 'dense'
    stamp_ns: int = 0
    empty: bool = True
    _scores: dict[int, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[int, Tensor]:
        """Layer -> float32 (V,), mean over heads and rows; absent tokens 0. Empty before the
        first harvest."""
        return {} if self.empty else self._scores

    def forget(self) -> None:
        """As at the start of an episode."""
        self.empty, self.age = True, 0

    def replace(self, scores: Mapping[int, Tensor], mode: str, stamp_ns: int) -> None:
        """Take over what a finished pass in ``mode`` saw."""
        self._write(scores)
        self._date(mode, stamp_ns)

    def collect(self, view: SiteView, attention: Tensor, layers: int) -> None:
        """Harvest at one site; what a pass saw is written down when all ``layers`` were seen.

        :param attention: float32 (R, n) text rows of the layer.
        """
        fresh = view.memory.setdefault(HARVEST, {})
        fresh[view.site.layer] = harvest(view, attention)
        if len(fresh) == layers:
            self._write(fresh)

    def learn(self, memory: Mapping[str, Any], layers: int, mode: str, stamp_ns: int) -> None:
        """A pass in ``mode`` is over: note whose scores these are now.

        :param memory: of the pass, see ``SiteView``.
        """
        if layers and len(memory.get(HARVEST, ())) == layers:
            self._date(mode, stamp_ns)

    def top(self, patches: int, counts: Sequence[int], joint: bool) -> Tensor:
        """The best tokens of every layer, united; ties go to the lower id.

        :param patches: visual tokens per camera.
        :param counts: tokens per layer and camera.
        :param joint: rank all cameras together, with the sum of ``counts``, as the paper does.
        :returns: bool (V,).
        """
        scores = torch.stack(list(self.scores.values()))  # [layers, V]
        best = torch.zeros_like(scores, dtype=torch.bool)
        width, sizes = (scores.shape[1], [sum(counts)]) if joint else (patches, counts)
        groups = zip(scores.split(width, 1), best.split(width, 1), sizes, strict=True)
        for its, mark, size in groups:
            order = torch.sort(its, dim=1, descending=True, stable=True).indices
            mark.scatter_(1, order[:, :size], True)
        return best.any(dim=0)

    def _write(self, scores: Mapping[int, Tensor]) -> None:
        for layer, fresh in scores.items():
            if layer in self._scores and self._scores[layer].shape == fresh.shape:
                self._scores[layer].copy_(fresh)
            else:
                self._scores[layer] = fresh.clone()

    def _date(self, mode: str, stamp_ns: int) -> None:
        self.age, self.mode, self.stamp_ns, self.empty = 0, mode, stamp_ns, False


def harvest(view: SiteView, attention: Tensor) -> Tensor:
    """Scores by original id: float32 (V,), absent tokens 0.

    :param attention: float32 (R, n) text rows of the layer.
    """
    scores = attention.new_zeros(view.layout.visual)
    scores[view.ids] = attention.mean(dim=0).nan_to_num()
    return scores
