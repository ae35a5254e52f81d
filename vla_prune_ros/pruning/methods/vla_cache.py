"""VLA-Cache (arXiv 2502.02175): static visual tokens keep the keys and values of an earlier query.

Tokens whose patch did not change since the query before, and that the prompt did not attend to
then, leave the residual stream; their keys and values are still attended to. How many leave grows
with depth, by how focused the attention is there. As released for OpenVLA-OFT, except that the
released code compares the present image with itself, takes entropies of complete maps (here: of
the prompt's rows), relevance from the 34 rows behind the visual tokens, and runs under a causal
mask.
"""

from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import Above, option
from ...errors import ProfileError
from ..base import EpisodeMonitor, Pruner, PruningContext, PruningSite, Query
from ..frame_change import cosine_similarity, least_changed, patch_side, to_device
from ..layout import Layout, Target
from ..modes import COARSE, DENSE
from ..selection import best_first
from ..state import Stateful

METHOD = 'vla_cache'
STATIC_TOP, RELEVANT_TOP = 150, 100
RELEVANT_LAYER, GROW_BEFORE = 15, (2, 6, 9, 11)


@dataclass(frozen=True)
class VlaCacheOptions:
    threshold: float = option(
        0.996,
        "least cosine similarity of a static patch; 0.85 on the authors' real robot",
        low=Above(0),
        high=1,
    )
    static_top: int | None = option(
        None, 'most tokens of a camera that count as static; none: 150 of 256 (paper: 100)', low=1
    )
    relevant_top: int | None = option(
        None, 'tokens of a camera that are relevant; none: 100 of 256', low=0
    )
    relevant_layer: int | None = option(
        None, 'the layer whose attention says so, from 0; none: 15 of 32', low=0
    )
    grow_before: tuple[int, ...] | None = option(
        None,
        'layers before which more tokens are reused, from 1; none: 2, 6, 9 and 11 of 32',
        low=1,
    )
    growth: float = option(
        0.55, 'how much of a rise of the ratio from layer to layer counts', low=0, high=1
    )


def adapt_to_model(options: VlaCacheOptions, target: Target) -> VlaCacheOptions:
    """All numbers, for the model; ``grow_before`` is empty for one layer, which reuses nothing."""
    values = {
        'static_top': target.scaled_count(STATIC_TOP),
        'relevant_top': target.scaled_count(RELEVANT_TOP),
        'relevant_layer': target.scaled_layer(RELEVANT_LAYER),
        'grow_before': [max(1, target.scaled_layer(layer - 1) + 1) for layer in GROW_BEFORE],
        **{name: value for name, value in vars(options).items() if value is not None},
    }
    for name in ('static_top', 'relevant_top'):
        if values[name] > target.patches:
            raise ProfileError(
                f'{METHOD}: {name} is {values[name]}',
                f'use at most {target.patches}, the tokens of a camera',
            )
    if not values['grow_before']:
        raise ProfileError(f'{METHOD}: grow_before is empty', 'use layers, like [2, 6, 9, 11]')
    deepest = target.layers - 1
    grow_before = {min(layer, deepest) for layer in values['grow_before']} - {0}
    values['relevant_layer'] = min(values['relevant_layer'], deepest)
    return VlaCacheOptions(**{**values, 'grow_before': tuple(sorted(grow_before))})


EPSILON = 1e-10


def attention_entropy(attention: Tensor) -> Tensor:
    """Mean over rows of -sum p ln(p + 1e-10), p = row / (its sum + 1e-10): (..., R, n) -> (..)."""
    p = attention / (attention.sum(dim=-1, keepdim=True) + EPSILON)
    return -(p * torch.log(p + EPSILON)).sum(dim=-1).mean(dim=-1)


def reuse_ratios(entropies: Sequence[float], growth: float) -> list[float]:
    """Ratio of the reusable tokens that each layer may reuse: 1 - (E - min) / (max - min + 1e-10)
    over all layers; from layer to layer a rise counts only ``growth`` times, a fall in full."""
    low, high = min(entropies), max(entropies)
    ratios = [1.0 - (e - low) / (high - low + EPSILON) for e in entropies]
    for i in range(1, len(ratios)):
        rise = ratios[i] - ratios[i - 1]
        if rise > 0:
            ratios[i] = ratios[i - 1] + growth * rise
    return ratios


def reuse_counts(ratios: Sequence[float], before: Sequence[int], reusable: int) -> dict[int, int]:
    """Tokens reused from each of the layers ``before`` (ascending) on: int(ratio * reusable), at
    least 1 and never fewer than earlier, since a dropped token has nothing to come back with."""
    counts, most = {}, 1
    for layer in before:
        most = max(most, int(ratios[layer] * reusable))
        counts[layer] = most
    return counts


class TokenStore(Stateful, UserDict[int, Tensor]):
    """Keys or values per layer: a slot for every visual token, by original id. Visual positions do
    not depend on the prompt, hence rotated keys stay valid from query to query."""

    state_names = ('data',)

    def write(self, layer: int, visual: int, ids: Tensor, values: Tensor) -> None:
        """Copy ``values`` (1, kv heads, n, d) to the slots of ``ids`` (n,), out of ``visual``."""
        if layer not in self:
            _, heads, _, width = values.shape
            self[layer] = values.new_zeros(1, heads, visual, width)
        self[layer].index_copy_(2, ids, values.detach())

    def read(self, layer: int, ids: Tensor) -> Tensor:
        return self[layer].index_select(2, ids)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.values())


def reusable_tokens(similarity: Tensor, relevance: Tensor, options: VlaCacheOptions) -> Tensor:
    """Patches of one camera that are static and not relevant: int64 (m,), ascending."""
    static = least_changed(similarity, options.static_top, options.threshold)
    relevant = best_first(relevance)[: options.relevant_top]
    return static[~torch.isin(static, relevant)]


class VlaCache(Pruner):
    """``Inference.kept`` marks the tokens that were *computed* to the last layer. A diffusion head
    is refused: visual keys and values would depend on the step."""

    name = METHOD
    options_type = VlaCacheOptions
    state_names = (
        'keys',
        'values',
        '_monitor',
        '_entropies',
        '_relevance',
        '_images',
        '_layout',
        '_complete',
    )

    def __init__(self, options: VlaCacheOptions, target: Target) -> None:
        self.options = adapt_to_model(options, target)
        self.history_s = target.control_period_s  # frames between queries tell of camera gaps
        self.sites = tuple(
            PruningSite(layer, lambda layout: layout.prompt_positions, hidden=False)
            for layer in range(target.layers)
        )
        self.keys, self.values = TokenStore(), TokenStore()
        self._monitor = EpisodeMonitor(target)
        self._report: dict[str, float | int | str] = {}
        self._forget()

    def begin(self, query: Query) -> str:
        if query.layout.time:
            raise ProfileError(
                f'{METHOD}: a diffusion head makes several passes per query',
                'use another pruning method with this checkpoint',
            )
        reason = self._monitor.check(query)
        if not reason and not self._complete:
            reason = 'interrupted'  # images and stores are of different queries
        elif not reason and astuple(query.layout) != self._layout:
            reason = 'new_layout'
        if reason:
            self._forget()
        device = None if query.visual is None else query.visual.device
        images = [to_device(query.model_images[c], device) for c in query.layout.cameras]
        self._report = {'reason': reason}
        self._reusable = None if reason else self._find_reusable(images, query.layout)
        self._counts = self._plan(query.layout)
        self._layout, self._images = astuple(query.layout), images
        self._visual = query.layout.visual
        self._reused, self._complete = None, False
        return COARSE if self._counts else DENSE

    def keep(self, context: PruningContext) -> Tensor | None:
        if self._layout is None:
            return None
        layer = context.site.layer
        self._entropies[layer] = attention_entropy(context.all_keys)
        if layer == self.options.relevant_layer:
            self._relevance = self._relevance_of(context)
        self._complete = layer == self.sites[-1].layer
        count = self._counts.get(layer + 1, 0)
        if count <= context.layout.visual - len(context.ids):
            return None
        self._reused = self._reusable[:count]
        return context.ids[~torch.isin(context.ids, self._reused)]

    def cached_kv(
        self, layer: int, ids: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        if self._layout is None:
            return None
        self.keys.write(layer, self._visual, ids, k)
        self.values.write(layer, self._visual, ids, v)
        if layer == 0:
            self._reused = None  # a pass begins
        if self._reused is None:
            return None
        return self.keys.read(layer, self._reused), self.values.read(layer, self._reused)

    def reset(self) -> None:
        self._forget()
        self._monitor.reset()

    def report(self) -> Mapping[str, float | int | str]:
        state = self.keys.nbytes + self.values.nbytes
        return {**self._report, 'state_mib': round(state / 2**20, 1)}

    def _forget(self) -> None:
        self.keys.clear()
        self.values.clear()
        self._entropies: dict[int, Tensor] = {}  # layer -> of the query before
        self._relevance: Tensor | None = None  # (V,), of the query before
        self._layout: tuple[Any, ...] | None = None  # its fields
        self._images: list[Tensor] = []
        self._reusable: Tensor | None = None  # ids, ascending
        self._counts: dict[int, int] = {}  # layer -> how many of them are reused from there on
        self._reused: Tensor | None = None  # those of the layer that runs
        self._complete = False  # the last pass saw every layer

    def _relevance_of(self, context: PruningContext) -> Tensor:
        """(V,), reused tokens included: they are attended to."""
        scores = context.attention.new_zeros(context.layout.visual)
        scores[context.ids] = context.attention.mean(dim=0)
        if self._reused is not None:
            scores[self._reused] = context.all_keys[:, len(context.positions) :].mean(dim=0)
        return scores

    def _find_reusable(self, images: list[Tensor], layout: Layout) -> Tensor:
        relevance = self._relevance.view(-1, layout.patches)
        found = []
        for camera, (now, before) in enumerate(zip(images, self._images, strict=True)):
            similarity = cosine_similarity(now, before, patch_side(now, layout))
            own = reusable_tokens(similarity, relevance[camera], self.options)
            self._report[f'reusable_{layout.cameras[camera]}'] = len(own)
            found.append(own + camera * layout.patches)
        return torch.cat(found)

    def _plan(self, layout: Layout) -> dict[int, int]:
        grow_before = self.options.grow_before
        if self._reusable is None:
            return {}
        if not len(self._reusable) or not grow_before:
            self._report['reason'] = 'nothing_reusable'
            return {}
        entropies = torch.stack([self._entropies[site.layer] for site in self.sites])
        if not bool(entropies.isfinite().all()):  # of a query with broken numbers
            self._report['reason'] = 'not_finite'
            return {}
        ratios = reuse_ratios(entropies.tolist(), self.options.growth)
        counts = reuse_counts(ratios, grow_before, len(self._reusable))
        # In order of ids, as released: the first camera's upper rows come first.
        last = self._reusable[: counts[grow_before[-1]]] // layout.patches
        per_camera = torch.bincount(last, minlength=len(layout.cameras)).tolist()
        for camera, count in zip(layout.cameras, per_camera, strict=True):
            self._report[f'reused_{camera}'] = count
        return counts
