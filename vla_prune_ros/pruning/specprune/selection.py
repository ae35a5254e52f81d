"""Static pruning: which visual tokens survive the first two layers.

Three sets are united (SpecPrune-VLA, arXiv 2509.05614, Eq. 5): what the last inference looked at,
what moved, and what the words of the task look at in the layer that just ran.

What the comparison of frames says about each patch: stays, or may go.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..base import Selection
from ..frame_change import Change, most_changed
from ..selection import best_first
from .config import SpecPruneConfig


@dataclass(frozen=True)
class Evidence:
    """What is known before the language model runs; each (V,) by original id.

    :param amount: float32, how much each patch changed; higher is more.
    :param moved: bool, patches that count as changed.
    :param most_moved: bool, the patches that changed most, as many as a preset names.
    :param removable: bool, patches that may be dropped for not having changed.
    :param looked_at: bool, V_global.
    """

    amount: Tensor
    moved: Tensor
    most_moved: Tensor
    removable: Tensor
    looked_at: Tensor

    def overwritten(self, fresh: 'Evidence') -> 'Evidence':
        """This one with the values of ``fresh``, in the same tensors where they fit: a captured
        pass reads them there."""
        pairs = [(getattr(self, f.name), getattr(fresh, f.name)) for f in fields(self)]
        if any(old.shape != new.shape or old.device != new.device for old, new in pairs):
            return fresh
        for old, new in pairs:
            old.copy_(new)
        return self


def mask_of(ids: Tensor, visual: int) -> Tensor:
    """bool (V,) that marks the given original ids."""
    mask = torch.zeros(visual, dtype=torch.bool, device=ids.device)
    mask[ids] = True
    return mask


def unite(ids: Tensor, evidence: Evidence, local: Tensor) -> Tensor:
    """Tokens that are left and not removable, or in ``local`` or V_global: ids, ascending.

    :param ids: int64 (n,), ascending: the tokens that are left.
    :param local: int64, what the text chose.
    """
    keep = ~evidence.removable | evidence.looked_at
    keep[local] = True
    return ids[keep[ids]]


def fill_by_rank(
    ids: Tensor,
    evidence: Evidence,
    local: Tensor,
    text: Tensor,
    left: Sequence[int],
    budget: Sequence[int],
    rest: Tensor | None = None,
) -> Selection:
    """Exactly ``budget`` tokens per camera, fewer only where fewer are left.

    First ``local``, V_global and the patches that moved most, then further patches that moved, by
    how much, then all others by ``rest``. Where the first group is too large the text decides
    inside it. A camera that moves itself sees every patch change: that must
    not push V_global out, so that here, unlike in :func:`unite`, not all of them come first.

    :param ids: int64 (n,), ascending: the tokens that are left.
    :param local: int64, what the text chose.
    :param text: float32 (n,) attention of the text to each.
    :param left: how many of ``ids`` each camera has.
    :param rest: (V,) by original id, higher comes first among the others; None for ``text``.
    """
    first = evidence.most_moved | evidence.looked_at
    first = first.index_fill(0, local, True)
    wanted = first[ids]
    moved = evidence.moved[ids] & ~wanted
    level = 2 * wanted.long() + moved.long()
    score = torch.where(moved, evidence.amount[ids].to(text.dtype), text)
    if rest is not None:
        score = torch.where(level > 0, score, rest[ids])
    chosen = []
    parts = zip(ids.split(left), score.split(left), level.split(left), budget, strict=True)
    for own, its_score, its_level, size in parts:
        order = best_first(its_score)
        order = order[best_first(its_level[order])]  # stable: by level, inside it by score
        chosen.append(own[order[:size]])
    return Selection.of(chosen)


def by_motion(
    amount: Tensor, moved: Tensor, counts: Sequence[int], patches: int, config: SpecPruneConfig
) -> tuple[Tensor, Tensor]:
    """The patches that changed most, and those that may go for not having changed: bool (V,).

    :param amount: float32 (V,), how much each changed. :param moved: bool (V,), those that count.
    :param counts: least number of patches that stay, per camera.
    :param patches: per camera.
    """
    groups = [slice(0, len(amount))] if config.joint else []
    groups = groups or [slice(i * patches, (i + 1) * patches) for i in range(len(counts))]
    sizes = [sum(counts)] if config.joint else counts
    most, removable = torch.zeros_like(moved), torch.zeros_like(moved)
    for group, size in zip(groups, sizes, strict=True):
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
