"""The model's side of the seam in :mod:`.base`: one forward pass, and what each site kept."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ProfileError
from .base import Pruner, PruningContext, PruningSite, Selection, Stage
from .layout import Layout


def check_kept(ids: Tensor, before: Tensor, site: PruningSite) -> Tensor:
    """``ids`` in order; refused where they repeat or were not kept ``before``."""
    ordered = ids.sort().values
    if bool((ordered[1:] == ordered[:-1]).any()) or not bool(torch.isin(ordered, before).all()):
        raise ProfileError(
            f'pruner answered ids at {site.name} that repeat or are gone',
            'a pruner returns a subset of context.ids, each once',
        )
    return ordered


@lru_cache(maxsize=256)
def _on_device(rows: tuple[int, ...], device: torch.device, inference: bool) -> Tensor:
    """Made once: a copy to a device cannot be captured. In inference mode no gradient passes."""
    return torch.tensor(rows, dtype=torch.long, device=device)


@dataclass(kw_only=True)
class PruningState:
    layout: Layout
    pruner: Pruner
    # int64 (S',), original positions of the kept tokens; (B, S) in training, where they differ
    # between the samples and nothing is dropped.
    positions: Tensor
    checked: bool = True  # whether answers are checked, for which the host waits
    bucket_size: int | None = None  # as in PruningContext
    bias: Tensor | None = None  # to the logits of every key, broadcast to (B, heads, S', S')
    stage: Stage = nullcontext  # times the pruner's part as 'selection'
    trace: list[Tensor] | None = None  # gets the stream (1, S', D) behind each layer's pruning
    # Asked before each layer; False ends the pass there, `interrupted`.
    proceed: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        self._sites = {site.layer: site for site in self.pruner.sites}
        # Without the override no layer cuts its keys apart for an answer that is always None.
        self.caches_kv = type(self.pruner).cached_kv is not Pruner.cached_kv
        self.memory: dict[str, Any] = {}
        self.ids = torch.arange(self.layout.visual, device=self.positions.device)
        cameras = len(self.layout.cameras)
        self._per_camera: tuple[int, ...] | None = (self.layout.patches,) * cameras
        self.visible: Tensor | None = None
        self.interrupted = False
        self._kept_by_site: dict[str, Tensor] = {}

    @property
    def kept_per_camera(self) -> tuple[int, ...]:
        """How many of ``ids`` each camera has; the host waits where no Selection said it."""
        if self._per_camera is None:
            camera = self.ids // self.layout.patches
            counts = torch.bincount(camera, minlength=len(self.layout.cameras))
            self._per_camera = tuple(counts.tolist())
        return self._per_camera

    @property
    def kept_by_site(self) -> dict[str, Tensor]:
        """Site name -> int64 (n,), ascending original ids. Where a bucket was filled up, the host
        waits for the number of those that are visible."""
        if self.visible is None:
            return self._kept_by_site
        *_, last = self._kept_by_site
        return {**self._kept_by_site, last: self._kept_by_site[last][self.visible]}

    def masks(self) -> dict[str, dict[str, np.ndarray]]:
        """Site -> camera -> bool (patches,)."""
        return {site: self.layout.camera_masks(ids) for site, ids in self.kept_by_site.items()}

    def tensors(self) -> list[Tensor]:
        visible = [] if self.visible is None else [self.visible]
        return [self.ids, self.positions, *self._kept_by_site.values(), *visible]

    def site_after(self, layer: int) -> PruningSite | None:
        return self._sites.get(layer)

    def requested_rows(self, layer: int, scores: str) -> Tensor | None:
        site = self._sites.get(layer)
        if site is None or site.rows is None or site.scores != scores:
            return None
        return self.rows(site.rows(self.layout))

    def rows(self, positions: Sequence[int]) -> Tensor:
        dropped = self.layout.visual - len(self.ids)
        first = 1 + self.layout.visual
        if dropped and any(0 < p < first for p in positions):
            raise ProfileError(
                'rows of visual tokens are asked for after some were dropped',
                'ask for them at the first site only',
            )
        rows = [p - dropped if p >= first else p for p in positions]
        return _on_device(tuple(rows), self.positions.device, torch.is_inference_mode_enabled())

    def with_cached_kv(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (rotated) and values (1, kv heads, S' + m, d), those that the pruner adds last."""
        visual = slice(1, 1 + len(self.ids))
        more = self.pruner.cached_kv(layer, self.ids, k[:, :, visual], v[:, :, visual])
        if more is None:
            return k, v
        return torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)

    def decide(
        self, site: PruningSite, hidden: Tensor, attention: Tensor | None = None
    ) -> Tensor | None:
        """Ask the pruner; returns the rows (S'',) of the sequence that are kept, None for all.
        ``hidden`` (1, S', D) of an ``early`` site is what goes into the layer."""
        answer = self.pruner.keep(self.context(site, hidden, attention))
        if answer is None:
            self._kept_by_site[site.name] = self.ids
            return None
        if not isinstance(answer, Selection):
            answer = Selection(answer, None)
        self._per_camera = answer.kept_per_camera
        kept = check_kept(answer.ids, self.ids, site) if self.checked else answer.ids
        # BOS stands before the visual tokens, everything else behind them: it is never dropped.
        at = torch.searchsorted(self.ids, kept)
        rest = torch.arange(1 + len(self.ids), len(self.positions), device=kept.device)
        rows = torch.cat([at.new_zeros(1), at + 1, rest])
        self.ids, self.positions = kept, self.positions[rows]
        self._kept_by_site[site.name] = kept
        if answer.visible is not None:  # no row sees the other visual tokens
            seen = torch.ones(len(rows), dtype=torch.bool, device=kept.device)
            seen[1 : 1 + len(kept)] = answer.visible
            logits = torch.zeros(len(rows), dtype=hidden.dtype, device=kept.device)
            self.visible = answer.visible
            self.bias = logits.masked_fill(~seen, -torch.inf)[None, None, None]
        return rows

    def context(
        self, site: PruningSite, hidden: Tensor, attention: Tensor | None = None
    ) -> PruningContext:
        if self.visible is not None:
            raise ProfileError(
                f'{site.name} comes after a site that was filled up to a size',
                'choose at one site only',
            )
        return PruningContext(
            site=site,
            layout=self.layout,
            ids=self.ids,
            hidden=hidden[0] if site.hidden else None,
            positions=self.positions,
            kept_per_camera=self.kept_per_camera,
            attention=None if attention is None else attention[:, 1 : 1 + len(self.ids)],
            all_keys=attention,
            bucket_size=self.bucket_size,
            memory=self.memory,
        )
