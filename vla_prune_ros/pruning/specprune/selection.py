"""Static pruning: which visual tokens are kept after the first two layers (SpecPrune-VLA, arXiv
2509.05614, Eq. 5): what the last inference attended to (V_global), what moved (V_dynamic), and
what the task's words attend to in the layer that just ran (V_local).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..base import Selection
from ..frame_change import Change, most_changed
from ..selection import best_first, best_per_camera
from .config import SpecPruneConfig


@dataclass(frozen=True)
class TokenScores:
    """What is known before the language model runs: float32 and bool, (V,) by original id."""

    amount: Tensor  # how much each patch changed
    moved: Tensor  # patches that count as changed
    most_moved: Tensor  # those that changed most, as many as a preset names
    removable: Tensor  # those that may be dropped for not having changed
    in_global: Tensor  # V_global

    def overwritten(self, fresh: 'TokenScores') -> 'TokenScores':
        """``fresh``, in the tensors of this one if it fits: a captured pass reads them there."""
        pairs = [(getattr(self, f.name), getattr(fresh, f.name)) for f in fields(self)]
        if any(old.shape != new.shape or old.device != new.device for old, new in pairs):
            return fresh
        for old, new in pairs:
            old.copy_(new)
        return self


def mask_of(ids: Tensor, visual: int) -> Tensor:
    mask = torch.zeros(visual, dtype=torch.bool, device=ids.device)
    mask[ids] = True
    return mask


def select_union(ids: Tensor, scores: TokenScores, local: Tensor) -> Tensor:
    """Those of ``ids`` (n,) that are not removable, or in ``local`` or V_global, ascending."""
    kept_mask = ~scores.removable | scores.in_global
    kept_mask[local] = True
    return ids[kept_mask[ids]]


def select_to_budget(
    ids: Tensor,
    scores: TokenScores,
    local: Tensor,
    text: Tensor,
    *,
    kept_per_camera: Sequence[int],
    budget: Sequence[int],
    fill: Tensor | None,
) -> Selection:
    """Exactly ``budget`` tokens per camera: first ``local`` (ids), V_global and the patches that
    moved most, by ``text`` (n,), the text's attention; then others that moved, by how much; then
    the rest by ``fill`` (V,) or ``text``. A camera that moves sees every patch change: that must
    not push V_global out, so that not all that moved come first, unlike in
    :func:`select_union`."""
    first = (scores.most_moved | scores.in_global).index_fill(0, local, True)[ids]
    moved = scores.moved[ids] & ~first
    level = 2 * first.long() + moved.long()
    score = torch.where(moved, scores.amount[ids].to(text.dtype), text)
    if fill is not None:
        score = torch.where(level > 0, score, fill[ids])
    return Selection.of(best_per_camera(ids, score, kept_per_camera, budget, level))


def rank_by_motion(
    amount: Tensor, moved: Tensor, counts: Sequence[int], config: SpecPruneConfig
) -> tuple[Tensor, Tensor]:
    sizes = [sum(counts)] if config.joint else counts
    patches = len(amount) // len(sizes)
    most, removable = torch.zeros_like(moved), torch.zeros_like(moved)
    for i, size in enumerate(sizes):
        group = slice(i * patches, (i + 1) * patches)
        still, much = ~moved[group], amount[group]
        if config.moved_more:  # at most all but `size`, the least changed first
            order = torch.sort(torch.where(still, much, torch.inf), stable=True).indices
            gone = mask_of(order[: max(0, len(order) - size)], len(order)) & still
            top = mask_of(best_first(much)[:size], len(much))
        else:  # all but the `size` most changed
            top = mask_of(most_changed(Change(much, ~still), size), len(much))
            gone = ~top
        most[group], removable[group] = top, gone
    return most, removable
