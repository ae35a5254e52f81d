"""Static pruning: which visual tokens survive the first two layers.

Three sets are united (SpecPrune-VLA, arXiv 2509.05614, Eq. 5): what the last inference looked at,
what moved, and what the words of the task look at in the layer that just ran.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import best_first


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
    patches: int,
    budget: Sequence[int],
    rest: Tensor | None = None,
) -> Tensor:
    """Exactly ``budget`` tokens per camera, fewer only where fewer are left: ids, ascending.

    First ``local``, V_global and the patches that moved most, then further patches that moved, by
    how much, then all others by ``rest``. Where the first group is too large the text decides
    inside it. A camera that moves itself sees every patch change: that must
    not push V_global out, so that here, unlike in :func:`unite`, not all of them come first.

    :param ids: int64 (n,), ascending: the tokens that are left.
    :param local: int64, what the text chose.
    :param text: float32 (n,) attention of the text to each.
    :param patches: visual tokens per camera.
    :param rest: (V,) by original id, higher comes first among the others; None for ``text``.
    """
    first = evidence.most_moved | evidence.looked_at
    first[local] = True
    wanted = first[ids]
    moved = evidence.moved[ids] & ~wanted
    level = 2 * wanted.long() + moved.long()
    score = torch.where(moved, evidence.amount[ids].to(text.dtype), text)
    if rest is not None:
        score = torch.where(level > 0, score, rest[ids])
    order = best_first(score)
    order = order[best_first(level[order])]  # stable: by level, inside it by score
    camera = ids[order] // patches
    chosen = [ids[order][camera == i][:size] for i, size in enumerate(budget)]
    return torch.cat(chosen).sort().values
