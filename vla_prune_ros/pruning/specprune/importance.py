"""How important each visual token is, by original id. Formulas: SpecPrune-VLA, arXiv 2509.05614;
the entropy form is that of its third version.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..base import PruningContext
from ..selection import best_first
from ..state import Stateful

EPSILON = 1e-8


def rank_weights(count: int, k: float, like: Tensor) -> Tensor:
    """sigmoid(-k * rank), ranks 0 .. count - 1, divided by its sum: (count,) in ``like``'s dtype.
    In float32 and with k = 1 ranks from 89 on are exactly 0; float64 tells all apart."""
    ranks = torch.arange(count, dtype=like.dtype, device=like.device)
    weights = 1.0 / (1.0 + torch.exp(k * ranks))
    return weights / weights.sum()


def entropy_confidence(attention: Tensor) -> Tensor:
    """1 / (E + 1e-8), E the mean over rows (R, n) of their entropy over ln(n), 1e-8 added to each
    weight."""
    p = attention + EPSILON
    p = p / p.sum(dim=-1, keepdim=True)
    entropy = -(p * p.log()).sum(dim=-1).mean() / max(math.log(attention.shape[-1]), EPSILON)
    return 1.0 / (entropy + EPSILON)


@dataclass(frozen=True)
class RunningMean:
    """How a layer's scores enter the running score: S = (1 - beta) S + beta w_rank w_conf."""

    beta: float = 0.2
    k: float = 1.0
    exact: bool = True  # float64, in which no two ranks tie; else float32 as released

    def start(self, visual: int, device: torch.device) -> Tensor:
        dtype = torch.float64 if self.exact else torch.float32
        return torch.zeros(visual, dtype=dtype, device=device)

    def update(self, scores: Tensor, ids: Tensor, attention: Tensor, confidence: Tensor) -> Tensor:
        """S (V,) after one more layer, in which ``ids`` (n,) receive ``attention`` (n,)."""
        weights = rank_weights(len(ids), self.k, scores)
        fresh = torch.empty_like(weights)
        fresh[best_first(attention)] = weights * confidence.to(weights.dtype)
        out = scores.clone()
        out[ids] = (1.0 - self.beta) * scores[ids] + self.beta * fresh
        return out


def num_kept_of_sequence(length: int, visual: int, keep_ratio: float, floor: int) -> int:
    """Visual tokens that are kept of a ratio of the complete sequence (released code)."""
    total = min(max(int(keep_ratio * length), floor), length)
    return max(0, total - (length - visual))


HARVEST = 'global'  # key of PruningContext.memory: layer -> scores of the pass that runs


@dataclass
class GlobalMemory(Stateful):
    """V_global: what the language model attended to last time. Harvested from pruned passes it
    feeds on itself (arXiv 2608.00391 measures how success falls). Tensors are overwritten in
    place: a captured pass finds them where they were."""

    state_names = ('age', 'mode', 'stamp_ns', 'empty', '_scores')
    layers: int  # that are harvested
    age: int = 0  # queries begun since the harvest
    mode: str = 'dense'  # of the pass that was harvested, at the query of `stamp_ns`
    stamp_ns: int = 0
    empty: bool = True
    _scores: dict[int, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> Mapping[int, Tensor]:
        """Layer -> float32 (V,), mean over heads and rows; absent tokens 0."""
        return {} if self.empty else self._scores

    def forget(self) -> None:
        self.empty, self.age = True, 0

    def collect(self, context: PruningContext, attention: Tensor) -> None:
        fresh = context.memory.setdefault(HARVEST, {})
        by_id = attention.new_zeros(context.layout.visual)
        by_id[context.ids] = attention.mean(dim=0).nan_to_num()
        fresh[context.site.layer] = by_id
        if len(fresh) == self.layers:
            self.store(fresh)

    def store(self, scores: Mapping[int, Tensor]) -> None:
        for layer, fresh in scores.items():
            if layer in self._scores and self._scores[layer].shape == fresh.shape:
                self._scores[layer].copy_(fresh)
            else:
                self._scores[layer] = fresh.clone()

    def after_pass(self, memory: Mapping[str, Any], mode: str, stamp_ns: int) -> None:
        if self.layers and len(memory.get(HARVEST, ())) == self.layers:
            self.age, self.mode, self.stamp_ns, self.empty = 0, mode, stamp_ns, False

    def top(self, patches: int, counts: Sequence[int], joint: bool) -> Tensor:
        """The best ``counts`` tokens of every layer and camera (``joint``: their sum of all
        cameras, as in the paper), united; ties go to the lower id: bool (V,)."""
        scores = torch.stack(list(self.scores.values()))  # [layers, V]
        best = torch.zeros_like(scores, dtype=torch.bool)
        width, sizes = (scores.shape[1], [sum(counts)]) if joint else (patches, counts)
        groups = zip(scores.split(width, 1), best.split(width, 1), sizes, strict=True)
        for group, mark, size in groups:
            mark.scatter_(1, best_first(group)[:, :size], True)
        return best.any(dim=0)
