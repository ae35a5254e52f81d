"""What the language model looked at last time: V_global of SpecPrune-VLA.

Scores are kept by original id, whatever was dropped when they were harvested. The pass that they
come from matters: harvested from pruned passes they feed on themselves, since a token that is gone
cannot be looked at (arXiv 2608.00391 measures how success falls); a dense pass has no such fault.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .budget import best_first
from .plan import SiteView


@dataclass
class GlobalMemory:
    """Scores of one pass, and how old they are.

    :param scores: layer -> float32 (V,), mean over heads and rows; absent tokens 0.
    :param age: queries begun since they were harvested.
    :param mode: of the pass that they come from.
    :param stamp_ns: of the query that they come from.
    """

    scores: dict[int, Tensor] = field(default_factory=dict)
    age: int = 0
    mode: str = 'dense'
    stamp_ns: int = 0

    @property
    def empty(self) -> bool:
        """True before the first harvest."""
        return not self.scores

    def forget(self) -> None:
        """As at the start of an episode."""
        self.scores, self.age = {}, 0

    def replace(self, scores: Mapping[int, Tensor], mode: str, stamp_ns: int) -> None:
        """Take over what a finished pass in ``mode`` saw."""
        self.scores, self.age, self.mode, self.stamp_ns = dict(scores), 0, mode, stamp_ns

    def collect(
        self, view: SiteView, attention: Tensor, layers: int, mode: str, stamp_ns: int
    ) -> None:
        """Harvest at one site; what a pass saw is taken over when all ``layers`` have been seen.

        :param attention: float32 (R, n) text rows of the layer.
        """
        fresh = view.memory.setdefault('global', {})
        fresh[view.site.layer] = harvest(view, attention)
        if len(fresh) == layers:
            self.replace(fresh, mode, stamp_ns)

    def top(self, patches: int, counts: Sequence[int], joint: bool) -> Tensor:
        """The best tokens of every layer, united; ties go to the lower id.

        :param patches: visual tokens per camera.
        :param counts: tokens per layer and camera.
        :param joint: rank all cameras together, with the sum of ``counts``, as the paper does.
        :returns: int64, ascending, each once.
        """
        chosen = []
        for scores in self.scores.values():
            if joint:
                chosen.append(best_first(scores)[: sum(counts)])
                continue
            for camera, count in enumerate(counts):
                low = camera * patches
                chosen.append(best_first(scores[low : low + patches])[:count] + low)
        return torch.cat(chosen).unique()


def harvest(view: SiteView, attention: Tensor) -> Tensor:
    """Scores by original id: float32 (V,), absent tokens 0.

    :param attention: float32 (R, n) text rows of the layer.
    """
    scores = attention.new_zeros(view.layout.visual)
    scores[view.ids] = attention.mean(dim=0).nan_to_num()
    return scores
