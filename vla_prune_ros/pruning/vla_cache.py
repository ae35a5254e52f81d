"""VLA-Cache (arXiv 2502.02175, NeurIPS 2025): static visual tokens keep the keys and values of an
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

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ..errors import ProfileError
from .budget import best_first
from .episode import EpisodeWatch
from .frame_change import cosine_similarity, least_changed, to_device
from .layout import Layout, Target
from .plan import Query, Site, SiteView
from .reuse_schedule import attention_entropy, reuse_counts, reuse_shares
from .token_store import TokenStore
from .vla_cache_config import METHOD, VlaCacheConfig, fit


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


class VlaCache:
    """One episode's cache; see the module. Built by :meth:`build`.

    A query runs dense, mode ``'dense'``, where it continues no episode (``EpisodeWatch``: first,
    new instruction, clock or camera jump), where the layout changed, where the pass before was
    given up, and where nothing can be reused; else ``'coarse'``. What is reused grows with depth
    only. ``Inference.kept`` marks the tokens that were *computed* to the last layer: the others
    are still attended to.

    A diffusion head makes several passes per query whose visual keys and values depend on the
    denoising step; the released code has no reuse there either, and it is refused.

    :param config: fits ``target``.
    """

    name = METHOD

    def __init__(self, config: VlaCacheConfig, target: Target) -> None:
        self.config = config
        self.look_back_s = target.control_period_s  # frames between queries tell of camera gaps
        self.sites = tuple(
            Site(layer, prompt_rows, hidden=False) for layer in range(target.layers)
        )
        self.keys, self.values = TokenStore(), TokenStore()
        self._watch = EpisodeWatch(target)
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

    def keep(self, view: SiteView) -> Tensor | None:
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

    def reuse(self, layer: int, ids: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
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

    def _relevance_of(self, view: SiteView) -> Tensor:
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
