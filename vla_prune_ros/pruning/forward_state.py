"""One walk of a pruner through the layers: what is left, and what is gathered.

The model's side of the seam in :mod:`.base`: it asks at each site, checks the answers, and keeps
the book of positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ProfileError
from .base import Pruner, PruningContext, PruningSite, Selection
from .layout import Layout


def check_kept(ids: Tensor, alive: Tensor, site: PruningSite) -> Tensor:
    """The answer of a pruner, ascending, or a refusal.

    :raises ProfileError: ids repeat or name tokens that are gone: a fault of the pruner.
    """
    ordered = ids.sort().values
    repeated = bool((ordered[1:] == ordered[:-1]).any()) if len(ordered) > 1 else False
    if repeated or not bool(torch.isin(ordered, alive).all()):
        raise ProfileError(
            f'pruner answered ids at {site.name} that repeat or are gone',
            'a pruner returns a subset of view.ids, each once',
        )
    return ordered


@lru_cache(maxsize=256)
def _on_device(rows: tuple[int, ...], device: torch.device, inference: bool) -> Tensor:
    """Row numbers as a tensor: made once, since a copy to a device cannot be captured.

    :param inference: whether it may be a tensor that no gradient passes through.
    """
    return torch.tensor(rows, dtype=torch.long, device=device)


@dataclass
class PruningState:
    """One walk through the layers: which tokens are left, and what each site decided.

    :param positions: int64 (S',) original positions that are left.
    :param checked: whether answers are held against what is left, for which the host waits.
    :param bucket_size: see :class:`PruningContext`.
    :param kept_by_site: site name -> int64 (n,) original visual ids that were left behind it.
    """

    layout: Layout
    pruner: Pruner
    positions: Tensor
    checked: bool = True
    bucket_size: int | None = None
    kept_by_site: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sites = {site.layer: site for site in self.pruner.sites}
        self._memory: dict[str, Any] = {}
        self.caches_kv = type(self.pruner).cached_kv is not Pruner.cached_kv
        self._ids = torch.arange(self.layout.visual, device=self.positions.device)
        self._per_camera: tuple[int, ...] | None = (self.layout.patches,) * len(
            self.layout.cameras
        )
        self.visible: Tensor | None = None
        self.bias: Tensor | None = None

    @property
    def ids(self) -> Tensor:
        """int64 (n,), ascending: original ids of the visual tokens that are left."""
        return self._ids

    @property
    def kept_per_camera(self) -> tuple[int, ...]:
        """How many of :attr:`ids` each camera has; the host waits where nobody told it."""
        if self._per_camera is None:
            camera = self._ids // self.layout.patches
            counts = torch.bincount(camera, minlength=len(self.layout.cameras))
            self._per_camera = tuple(counts.tolist())
        return self._per_camera

    def survivors(self) -> dict[str, Tensor]:
        """``kept_by_site`` without tokens that only fill up a size; the host waits for it."""
        if self.visible is None:
            return self.kept_by_site
        *before, last = self.kept_by_site
        return {
            **{site: self.kept_by_site[site] for site in before},
            last: self.kept_by_site[last][self.visible],
        }

    def masks(self) -> dict[str, dict[str, np.ndarray]]:
        """The same by camera: site -> camera -> bool (patches,)."""
        return {site: self.layout.camera_masks(ids) for site, ids in self.survivors().items()}

    def site_after(self, layer: int) -> PruningSite | None:
        """The site behind ``layer`` (-1: before layer 0), if the pruner has one there."""
        return self._sites.get(layer)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Rows of the current sequence that hold the given original positions.

        :raises ProfileError: a visual position is asked for after tokens were dropped.
        """
        gone = self.layout.visual - len(self._ids)
        first = 1 + self.layout.visual
        if gone and any(0 < p < first for p in positions):
            raise ProfileError(
                'rows of visual tokens are asked for after some were dropped',
                'ask for them at the first site only',
            )
        rows = [p - gone if p >= first else p for p in positions]
        return _on_device(tuple(rows), self.positions.device, torch.is_inference_mode_enabled())

    def with_cached_kv(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``layer``, with those that the pruner adds of dropped tokens.

        :param k: (1, kv heads, S', d), rotated.
        :returns: (1, kv heads, S' + m, d) each; the added ones come last.
        """
        seen = slice(1, 1 + len(self._ids))
        more = self.pruner.cached_kv(layer, self._ids, k[:, :, seen], v[:, :, seen])
        if more is None:
            return k, v
        return torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)

    def decide(
        self, site: PruningSite, hidden: Tensor, attention: Tensor | None = None
    ) -> Tensor | None:
        """Ask the pruner at ``site``; returns the rows (S'',) of the sequence that stay, None for
        all.

        :param hidden: (1, S', D) residual stream; of an ``early`` site, what goes into the layer.
        :param attention: float32 (R, S' or more) or None.
        """
        n = len(self._ids)
        answer = self.pruner.keep(self.view(site, hidden, attention))
        if answer is None:
            self.kept_by_site[site.name] = self._ids
            return None
        kept = self._accept(answer, site)
        at = torch.searchsorted(self._ids, kept)
        rest = torch.arange(1 + n, len(self.positions), device=kept.device)
        stay = torch.cat([at.new_zeros(1), at + 1, rest])
        self._ids = kept
        self.positions = self.positions[stay]
        self.kept_by_site[site.name] = kept
        if isinstance(answer, Selection) and answer.visible is not None:
            self._hide(answer.visible, len(rest), hidden.dtype)
        return stay

    def view(
        self, site: PruningSite, hidden: Tensor, attention: Tensor | None = None
    ) -> PruningContext:
        """What the pruner sees at ``site``; parameters as for :meth:`decide`.

        :raises ProfileError: a site before it was filled up.
        """
        if self.visible is not None:
            raise ProfileError(
                f'{site.name} comes after a site that was filled up to a size',
                'choose at one site only',
            )
        seen = None if attention is None else attention[:, 1 : 1 + len(self._ids)]
        return PruningContext(
            site=site,
            layout=self.layout,
            ids=self._ids,
            hidden=hidden[0] if site.hidden else None,
            positions=self.positions,
            kept_per_camera=self.kept_per_camera,
            attention=seen,
            all_keys=attention,
            bucket_size=self.bucket_size,
            memory=self._memory,
        )

    def finish(self) -> None:
        """Tell the pruner that the pass is over."""
        self.pruner.after_pass(self._memory)

    def _accept(self, answer: 'Tensor | Selection', site: PruningSite) -> Tensor:
        known = isinstance(answer, Selection)
        self._per_camera = answer.kept_per_camera if known else None
        ids = answer.ids if known else answer
        return check_kept(ids, self._ids, site) if self.checked else ids

    def _hide(self, seen: Tensor, rest: int, dtype: torch.dtype) -> None:
        """No row sees the visual tokens that are not ``seen``: (1, 1, 1, S') for the logits."""
        visible = torch.cat([seen.new_ones(1), seen, seen.new_ones(rest)])
        logits = torch.zeros(len(visible), dtype=dtype, device=seen.device)
        self.visible = seen
        self.bias = logits.masked_fill(~visible, -torch.inf)[None, None, None]
