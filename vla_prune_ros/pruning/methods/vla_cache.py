"""Knobs of VLA-Cache, and how the released numbers fit another model.

How many static tokens VLA-Cache reuses at which depth: by how focused the attention is there.

The paper (arXiv 2502.02175) lets the share grow with the entropy that the attention has lost so
far, alpha_l = min(k * sum_j R_j, 1), and prints no k. Its released code has another form with all
numbers given, and that is what stands here.

What each layer last computed of every visual token, by original id.

VLA-Cache (arXiv 2502.02175, NeurIPS 2025): static visual tokens keep the keys and values of an
earlier query instead of being computed again.

Training-free. A token is *static* where its patch looks as it did at the query before, *relevant*
where the words of the prompt looked at it then. Static tokens that are not relevant leave the
residual stream; their keys and values stay in sight of all others, as they were computed last.
Numbers and rules are those of the released code for OpenVLA-OFT (``vla_cache_config``,
``reuse_schedule``), except that the released code

- compares the present picture with itself: the list of pictures that it takes the previous one
  from holds the present one already. Here it is the picture of the query before, as in the paper;
- reads whole attention maps, which leaves the fused kernel in every layer. Here the rows of the
  prompt are read beside it, and entropies are of these rows. Its own rows for relevance are the 34
  behind the visual tokens, whatever the prompt's length;
- runs under a causal mask. Attention here is bidirectional, as OpenVLA-OFT was trained.

Slow change goes unnoticed, here as there: a query is compared with the one before it, not with the
one in which a token was computed.

State on the model's device, from one dense query on: keys and values of every visual token in
every layer, layers * 2 * V * kv heads * d * element size: 256 MiB for 7B in bfloat16 with two
cameras.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, isqrt
from typing import Any

import torch
from torch import Tensor

from ...errors import ProfileError
from ..base import EpisodeMonitor, Pruner, PruningContext, PruningSite, Query
from ..frame_change import cosine_similarity, least_changed, to_device
from ..knobs import share, whole
from ..layout import Layout, Target
from ..selection import best_first
from ..specprune.rows import scaled_layer
from ..state import Stateful

METHOD = 'vla_cache'
PATCHES = 256
STATIC_TOP = 150
RELEVANT_TOP = 100
RELEVANT_LAYER = 15
GROW_BEFORE = (2, 6, 9, 11)


@dataclass(frozen=True)
class VlaCacheConfig:
    """What is reused; see :func:`fit` for the knobs.

    :param grow_before: ascending; empty for a decoder of one layer, which reuses nothing.
    """

    threshold: float
    static_top: int
    relevant_top: int
    relevant_layer: int
    grow_before: tuple[int, ...]
    growth: float


def fit(
    target: Target,
    threshold: float = 0.996,
    static_top: int | None = None,
    relevant_top: int | None = None,
    relevant_layer: int | None = None,
    grow_before: Sequence[int] | None = None,
    growth: float = 0.55,
) -> VlaCacheConfig:
    """Knobs for ``target``; those left out are the released code's.

    Released numbers are for 32 layers and 256 patches per camera. Other models get layers at the
    same share of the depth and counts at the same share of the patches, rounded up.

    :param threshold: least cosine similarity of a static patch, above 0 to 1; 0.996, and 0.85 on
        the authors' real robot.
    :param static_top: tokens per camera that count as static at most; 150 of 256, the paper has
        100.
    :param relevant_top: tokens per camera that are relevant; 100 of 256.
    :param relevant_layer: the layer whose attention says so, from 0; 15 of 32; clipped to the
        model's.
    :param grow_before: decoder layers before which more tokens are reused, from 1; 2, 6, 9 and 11
        of 32; clipped to the model's.
    :param growth: how much of a rise of the share from layer to layer counts, 0 to 1; 0.55.
    :raises ProfileError: a value that is not possible.
    """
    return VlaCacheConfig(
        share(METHOD, 'threshold', threshold),
        _count('static_top', static_top, STATIC_TOP, 1, target.patches),
        _count('relevant_top', relevant_top, RELEVANT_TOP, 0, target.patches),
        _relevant_layer(relevant_layer, target.layers),
        _grow_before(grow_before, target.layers),
        share(METHOD, 'growth', growth, zero=True),
    )


def _count(knob: str, given: int | None, released: int, low: int, patches: int) -> int:
    if given is None:
        return ceil(released * patches / PATCHES)
    if whole(METHOD, knob, given, low) > patches:
        raise ProfileError(
            f'{METHOD}: {knob} is {given}',
            f'use a whole number up to {patches}, the tokens of a camera',
        )
    return given


def _relevant_layer(given: int | None, layers: int) -> int:
    if given is None:
        return max(0, scaled_layer(RELEVANT_LAYER, layers))
    return min(whole(METHOD, 'relevant_layer', given, 0), layers - 1)


def _grow_before(given: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    if given is None:
        given = [max(1, scaled_layer(layer - 1, layers) + 1) for layer in GROW_BEFORE]
    elif not isinstance(given, (list, tuple)) or not given:
        raise ProfileError(f'{METHOD}: grow_before is {given!r}', 'use layers, like [2, 6, 9, 11]')
    clipped = {min(whole(METHOD, 'grow_before', layer, 1), layers - 1) for layer in given}
    return tuple(sorted(clipped - {0}))


EPSILON = 1e-10


def attention_entropy(attention: Tensor) -> Tensor:
    """Mean over rows of -sum p ln(p + 1e-10), p a row divided by its sum + 1e-10.

    :param attention: float32 (..., R, n), mean over heads.
    :returns: float32 (...,): 0 where every row looks at one token, ln(n) where at all alike.
    """
    p = attention / (attention.sum(dim=-1, keepdim=True) + EPSILON)
    return -(p * torch.log(p + EPSILON)).sum(dim=-1).mean(dim=-1)


def reuse_shares(entropies: Sequence[float], growth: float) -> list[float]:
    """Share of the reusable tokens that each layer may reuse, 0 to 1.

    1 - (E - min) / (max - min + 1e-10) over all layers; from layer to layer a rise counts only
    ``growth`` times, a fall in full.

    :param entropies: one per layer, in order of depth.
    :param growth: 0 to 1.
    """
    low, high = min(entropies), max(entropies)
    shares = [1.0 - (e - low) / (high - low + EPSILON) for e in entropies]
    for i in range(1, len(shares)):
        rise = shares[i] - shares[i - 1]
        if rise > 0:
            shares[i] = shares[i - 1] + growth * rise
    return shares


def reuse_counts(shares: Sequence[float], before: Sequence[int], reusable: int) -> dict[int, int]:
    """Tokens reused from each of the layers ``before`` on.

    int(share * reusable), at least 1; never fewer than at an earlier layer, since a token that was
    left out has nothing to come back with.

    :param before: layers, ascending.
    :param reusable: 1 or more.
    :returns: layer -> count, 1 to ``reusable``.
    """
    counts, most = {}, 1
    for layer in before:
        most = max(most, int(shares[layer] * reusable))
        counts[layer] = most
    return counts


class TokenStore(Stateful):
    """Keys or values per layer, a slot for every visual token; a write overwrites its tokens only.

    Slots keep what was last written, so that tokens that are left out of a pass answer with what
    they held when they were last computed. Visual positions do not depend on the prompt, hence
    rotated keys stay valid from query to query. A slot that was never written holds zeros.
    """

    state_names = ('_layers',)

    def __init__(self) -> None:
        self._layers: dict[int, Tensor] = {}

    def write(self, layer: int, visual: int, ids: Tensor, values: Tensor) -> None:
        """Overwrite the slots of ``ids``.

        :param visual: slots of a layer that has none yet.
        :param ids: int64 (n,), each once.
        :param values: (1, kv heads, n, d); copied.
        """
        if layer not in self._layers:
            _, heads, _, width = values.shape
            self._layers[layer] = values.new_zeros(1, heads, visual, width)
        self._layers[layer].index_copy_(2, ids, values.detach())

    def read(self, layer: int, ids: Tensor) -> Tensor:
        """What ``ids`` hold, in the order asked for: (1, kv heads, n, d)."""
        return self._layers[layer].index_select(2, ids)

    def __getitem__(self, layer: int) -> Tensor:
        """All slots of a layer, (1, kv heads, V, d); not a copy."""
        return self._layers[layer]

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self._layers.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that the slots occupy on their device."""
        return sum(t.numel() * t.element_size() for t in self._layers.values())


def prompt_rows(layout: Layout) -> range:
    """The whole prompt without BOS."""
    return layout.prompt_positions


def reusable_tokens(
    similarity: Tensor, relevance: Tensor, threshold: float, static_top: int, relevant_top: int
) -> Tensor:
    """Patches of one camera that are static and not relevant: int64 (m,), ascending.

    The ``static_top`` most similar of those at least ``threshold`` similar, without the
    ``relevant_top`` of highest relevance. Ties go to the lower id.

    :param similarity: float32 (patches,), to the query before.
    :param relevance: float32 (patches,), attention of the prompt at the query before.
    """
    static = least_changed(similarity, static_top, threshold)
    relevant = best_first(relevance)[:relevant_top]
    return static[~torch.isin(static, relevant)]


class VlaCache(Pruner):
    """One episode's cache; see the module. Built by :meth:`build`.

    A query runs dense, mode ``'dense'``, where it continues no episode (``EpisodeMonitor``: first,
    new instruction, clock or camera jump), where the layout changed, where the pass before was
    given up, and where nothing can be reused; else ``'coarse'``. What is reused grows with depth
    only. ``Inference.kept`` marks the tokens that were *computed* to the last layer: the others
    are still attended to.

    A diffusion head makes several passes per query whose visual keys and values depend on the
    denoising step; the released code has no reuse there either, and it is refused.

    :param config: fits ``target``.
    """

    name = METHOD
    state_names = (
        'keys',
        'values',
        '_watch',
        '_entropies',
        '_relevance',
        '_images',
        '_complete',
    )

    def __init__(self, config: VlaCacheConfig, target: Target) -> None:
        self.config = config
        self.history_s = target.control_period_s  # frames between queries tell of camera gaps
        self.sites = tuple(
            PruningSite(layer, prompt_rows, hidden=False) for layer in range(target.layers)
        )
        self.keys, self.values = TokenStore(), TokenStore()
        self._watch = EpisodeMonitor(target)
        self._report: dict[str, float | int | str] = {}
        self._forget()

    @classmethod
    def build(cls, target: Target, **knobs: Any) -> 'VlaCache':
        """For ``target``; :func:`.vla_cache_config.fit` says what the knobs are.

        :raises ProfileError: a value that is not possible.
        """
        return cls(fit(target, **knobs), target)

    def begin(self, query: Query) -> str:
        """Find what is reused, and from which layer on.

        :raises ProfileError: the layout has a diffusion head's time token, or its patches are no
            square grid over the picture.
        """
        if query.layout.time:
            raise ProfileError(
                f'{METHOD}: a diffusion head makes several passes per query',
                'use another pruning method with this checkpoint',
            )
        reason = self._watch.check(query) or self._lack(query)
        if reason:
            self._forget()
        device = None if query.visual is None else query.visual.device
        images = [to_device(query.model_images[c], device) for c in query.layout.cameras]
        self._report = {'reason': reason}
        self._reusable = None if reason else self._find(images, query.layout)
        self._counts = self._plan(query.layout)
        self._layout, self._images = query.layout, images
        self._gone, self._complete = None, False
        return 'coarse' if self._counts else 'dense'

    def keep(self, view: PruningContext) -> Tensor | None:
        """The tokens that are computed in the next layer."""
        if self._layout is None:
            return None
        layer = view.site.layer
        self._entropies[layer] = attention_entropy(view.all_keys)
        if layer == self.config.relevant_layer:
            self._relevance = self._relevance_of(view)
        self._complete = layer == self.sites[-1].layer
        count = self._counts.get(layer + 1, 0)
        if count <= view.layout.visual - len(view.ids):
            return None
        self._gone = self._reusable[:count]
        return view.ids[~torch.isin(view.ids, self._gone)]

    def cached_kv(
        self, layer: int, ids: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Store what was computed, answer what was not.

        :param k: (1, kv heads, n, d), rotated; ``v`` alike.
        :returns: (1, kv heads, m, d) each, of the tokens that are gone, ids ascending.
        """
        if self._layout is None:
            return None
        self.keys.write(layer, self._layout.visual, ids, k)
        self.values.write(layer, self._layout.visual, ids, v)
        if layer == 0:
            self._gone = None  # a pass begins
        if self._gone is None:
            return None
        return self.keys.read(layer, self._gone), self.values.read(layer, self._gone)

    def reset(self) -> None:
        """As at the start of an episode; frees the memory."""
        self._forget()
        self._watch.reset()

    def state(self) -> dict[str, Any]:
        layout = None if self._layout is None else asdict(self._layout)
        return {**super().state(), 'layout': layout}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._layout = None if state['layout'] is None else Layout(**state['layout'])

    def report(self) -> Mapping[str, float | int | str]:
        """Why the query ran dense (``reason``, empty where it did not), per camera the tokens that
        were reusable (``reusable_wrist``) and reused in the end (``reused_wrist``), and MiB of
        state."""
        state = self.keys.nbytes + self.values.nbytes
        return {**self._report, 'state_mib': round(state / 2**20, 1)}

    def _forget(self) -> None:
        self.keys.clear()
        self.values.clear()
        self._entropies: dict[int, Tensor] = {}
        self._relevance: Tensor | None = None
        self._layout: Layout | None = None
        self._images: list[Tensor] = []
        self._reusable: Tensor | None = None
        self._counts: dict[int, int] = {}
        self._gone: Tensor | None = None
        self._complete = False

    def _lack(self, query: Query) -> str:
        if not self._complete:
            return 'interrupted'  # images and stores are of different queries
        return '' if query.layout == self._layout else 'new_layout'

    def _relevance_of(self, view: PruningContext) -> Tensor:
        """(V,), reused tokens included: they are attended to."""
        scores = view.attention.new_zeros(view.layout.visual)
        scores[view.ids] = view.attention.mean(dim=0)
        if self._gone is not None:
            scores[self._gone] = view.all_keys[:, len(view.positions) :].mean(dim=0)
        return scores

    def _find(self, images: list[Tensor], layout: Layout) -> Tensor:
        relevance = self._relevance.view(-1, layout.patches)
        found = []
        for camera, (now, before) in enumerate(zip(images, self._images, strict=True)):
            similarity = cosine_similarity(now, before, _patch_side(now, layout))
            mine = reusable_tokens(
                similarity,
                relevance[camera],
                self.config.threshold,
                self.config.static_top,
                self.config.relevant_top,
            )
            self._report[f'reusable_{layout.cameras[camera]}'] = len(mine)
            found.append(mine + camera * layout.patches)
        return torch.cat(found)

    def _plan(self, layout: Layout) -> dict[int, int]:
        config = self.config
        if self._reusable is None:
            return {}
        if not len(self._reusable) or not config.grow_before:
            self._report['reason'] = 'nothing_reusable'
            return {}
        entropies = torch.stack([self._entropies[site.layer] for site in self.sites])
        if not bool(entropies.isfinite().all()):  # of a query with broken numbers
            self._report['reason'] = 'not_finite'
            return {}
        shares = reuse_shares(entropies.tolist(), config.growth)
        counts = reuse_counts(shares, config.grow_before, len(self._reusable))
        # In order of ids, as released: the first camera's upper rows come first.
        last = self._reusable[: counts[config.grow_before[-1]]] // layout.patches
        per_camera = torch.bincount(last, minlength=len(layout.cameras)).tolist()
        for camera, count in zip(layout.cameras, per_camera, strict=True):
            self._report[f'reused_{camera}'] = count
        return counts


def _patch_side(image: Tensor, layout: Layout) -> int:
    """Pixels along a patch where the patches are a square grid over the picture."""
    across = isqrt(layout.patches)
    if across * across != layout.patches or image.shape[0] % across:
        raise ProfileError(
            f'{METHOD}: {layout.patches} patches are no square grid of {image.shape[0]} pixels',
            'use a model whose patches tile the picture in a square',
        )
    return image.shape[0] // across
