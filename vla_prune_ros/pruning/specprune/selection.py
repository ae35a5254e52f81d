"""Static pruning: which visual tokens are kept after the first two layers.

Three sets are united (SpecPrune-VLA, arXiv 2509.05614, Eq. 5): what the last inference attended to
(V_global), what moved (V_dynamic), and what the words of the task attend to in the layer that just
ran (V_local).
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
class TokenScores:
    """What is known before the language model runs; each (V,) by original id.

    :param amount: float32, how much each patch changed; higher is more.
    :param moved: bool, patches that count as changed.
    :param most_moved: bool, the patches that changed most, as many as a preset names.
    :param removable: bool, patches that may be dropped for not having changed.
    :param in_global: bool, V_global.
    """

    amount: Tensor
    moved: Tensor
    most_moved: Tensor
    removable: Tensor
    in_global: Tensor

    def overwritten(self, fresh: 'TokenScores') -> 'TokenScores':
        """This one with the values of ``fresh``, in the same tensors where they fit: a captured
        pass reads them there.
        """
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
    """Exactly ``budget`` tokens per camera, fewer only where fewer are left.

    First ``local`` (ids), V_global and the patches that moved most, then further patches that
    moved, by how much, then all others by ``fill``. Where the first group is too large the text
    decides inside it. A camera that moves itself sees every patch change: that must not push
    V_global out, so that here, unlike in :func:`select_union`, not all of them come first.

    :param text: float32 (n,) attention of the text to each of ``ids``.
    :param fill: (V,) by original id, higher comes first among the others; None for ``text``.
    """
    first = (scores.most_moved | scores.in_global).index_fill(0, local, True)[ids]
    moved = scores.moved[ids] & ~first
    level = 2 * first.long() + moved.long()
    score = torch.where(moved, scores.amount[ids].to(text.dtype), text)
    if fill is not None:
        score = torch.where(level > 0, score, fill[ids])
    kept = []
    parts = zip(
        ids.split(kept_per_camera),
        score.split(kept_per_camera),
        level.split(kept_per_camera),
        budget,
        strict=True,
    )
    for camera_ids, camera_score, camera_level, size in parts:
        order = best_first(camera_score)
        order = order[best_first(camera_level[order])]  # stable: by level, inside it by score
        kept.append(camera_ids[order[:size]])
    return Selection.of(kept)


def rank_by_motion(
    amount: Tensor, moved: Tensor, counts: Sequence[int], config: SpecPruneConfig
) -> tuple[Tensor, Tensor]:
    """The patches that changed most, and those that may go for not having changed: bool (V,).

    :param counts: least number of patches that are kept, per camera.
    """
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
