"""VLA-Pruner: what the words look at, united with what the actions looked at before."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import EpisodeMonitor, Pruner, PruningContext, PruningSite, Query, Selection
from ..knobs import one_of, share, switch, whole
from ..layout import Layout, Target
from ..selection import Budget, best_per_camera, budgets, diverse_per_camera


@dataclass(frozen=True)
class Rows:
    """Which rows a site asks for: prompt tokens first, then action slots."""

    prompt: bool
    slots: bool

    def __call__(self, layout: Layout) -> list[int]:
        """Their positions."""
        prompt = layout.prompt_positions if self.prompt else ()
        return [*prompt, *(layout.slot_positions if self.slots else ())]


def min_max(scores: Tensor) -> Tensor:
    """Scores moved and scaled to 0 ... 1; equal ones become 0."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low + 1e-8)


class VlaPruner(Pruner):
    """VLA-Pruner (arXiv 2511.16449): two signals, united, then thinned by diversity.

    S_vl(v) is the attention from the prompt to visual token v in the layer behind which tokens are
    dropped, mean over heads and rows. S_act(v) is the attention from the action slots, mean over
    heads, rows and the last half of the layers; it is known only when a pass is over, so that
    earlier queries stand in: S_hat = sum over i = 1 .. w of gamma^i S_act(t - i). Per camera with
    budget M, the candidates are the M best of S_vl and the M best of S_hat; greedy max-min
    selection by cosine distance takes M of them. Queries before w are known see everything.

    Released code (OpenVLA-OFT, revision 3d156ee), where the paper is silent: tokens are dropped
    *after* layer 3 counted from 0, so four layers see everything; diversity is measured on the
    input embeddings (not on hidden states at that layer); selection runs camera by camera; the
    prompt is taken without BOS. Where it differs from the paper we follow the paper: the released
    ``prefill`` score takes all rows before the slots (pictures included), its action score the
    slots of the same pass unless history is switched on, history reads layer 15 alone and weighs
    with gamma^(i - 1), which is the same order.

    ``combine='sum'`` is the rule of the released helper that chooses tokens for key and value
    reuse: both signals scaled to 0 ... 1 over all tokens, weighted sum, best M. There it reads the
    maps of the previous pass at layer 15; here the signals are those above. ``text=False`` drops
    S_vl: for OpenVLA the authors advise their switch ``use_prefil_attention`` off (in the code for
    OpenVLA-OFT it touches FastV alone).

    Known weakness: scores are harvested from passes that are pruned themselves. A dropped token
    has no attention behind the cut, counts 0 there, and comes back only by S_vl. Once w pruned
    queries follow each other, S_hat is above 0 only for tokens that one of them kept: it ranks its
    own survivors (arXiv 2608.00391 measures how such scores degenerate), and with ``text=False``
    nothing new enters. Ties at 0 go to the lower id.

    Ours: a diffusion head makes several passes per query, of which the last one counts; the
    layers are clipped to the model's depth.

    :param budget: visual tokens per camera that stay where a query is pruned.
    """

    name = 'vla_pruner'
    state_names = ('_watch', '_history', '_seen')

    def __init__(
        self,
        budget: tuple[int, ...],
        target: Target,
        layer: int = 3,
        window: int = 3,
        gamma: float = 0.8,
        text: bool = True,
        combine: str = 'union',
        text_weight: float = 0.5,
    ) -> None:
        self.budget = budget
        self._layer = min(layer, max(0, target.layers - 2))  # behind the last none is computed
        self._half = range(target.layers // 2, target.layers)
        self._gamma, self._text = gamma, text
        self._combine, self._text_weight = combine, text_weight
        self._watch = EpisodeMonitor(target)
        self._history: deque[Tensor] = deque(maxlen=window)  # newest first, float32 (V,)
        self.sites = tuple(self._site(at) for at in sorted({self._layer, *self._half}))
        self.reset()

    @classmethod
    def build(
        cls,
        target: Target,
        budget: Budget = None,
        layer: int = 3,
        window: int = 3,
        gamma: float = 0.8,
        text: bool = True,
        combine: str = 'union',
        text_weight: float = 0.5,
    ) -> 'VlaPruner':
        """For ``target``.

        :param budget: visual tokens per camera where a query is pruned; None for half of them.
        :param layer: tokens are dropped after this layer, counted from 0; clipped to the model's.
        :param window: w, earlier queries that count, 1 or more.
        :param gamma: weight that a query loses per query of age, above 0 and up to 1.
        :param text: False leaves S_vl out.
        :param combine: ``'union'`` (paper) or ``'sum'``.
        :param text_weight: ``'sum'``: weight of S_vl, 0 to 1; S_hat has the rest.
        :raises ProfileError: a value that is not possible.
        """
        return cls(
            budgets('vla_pruner', budget, target),
            target,
            whole('vla_pruner', 'layer', layer, 0),
            whole('vla_pruner', 'window', window, 1),
            share('vla_pruner', 'gamma', gamma),
            switch('vla_pruner', 'text', text),
            one_of('vla_pruner', 'combine', combine, ('union', 'sum')),
            share('vla_pruner', 'text_weight', text_weight, zero=True),
        )

    def begin(self, query: Query) -> str:
        """``'coarse'`` once ``window`` queries are remembered, else ``'dense'``."""
        why = self._watch.check(query)
        if why and why != 'camera_gap':  # a pause in the stream is no new episode here
            self._history.clear()
        elif self._seen is not None:
            self._history.appendleft(self._seen)
        self._seen, self._visual = None, query.visual
        self._prune = len(self._history) == self._history.maxlen
        self._reason = 'history' if self._prune else (why or 'filling')
        return 'coarse' if self._prune else 'dense'

    def keep(self, view: PruningContext) -> Tensor | None:
        """At ``layer``: the ids that stay where the query is pruned. Elsewhere: all."""
        rows = self._text_rows(view)
        if view.site.layer in self._half:
            self._harvest(view, view.attention[rows:])
        if view.site.layer != self._layer or not self._prune:
            return None
        return self._select(view, view.attention[:rows].mean(dim=0) if rows else None)

    def reset(self) -> None:
        """As at the start of an episode."""
        self._watch.reset()
        self._history.clear()
        self._seen: Tensor | None = None  # S_act of the query that runs
        self._visual: Tensor | None = None
        self._prune = False
        self._reason = 'first'

    def report(self) -> dict[str, float | int | str]:
        """``reason``: ``'history'`` where the last query was pruned; ``'filling'`` or what began
        an episode where it saw everything. ``remembered``: queries that S_hat is made of.
        """
        return {'reason': self._reason, 'remembered': len(self._history)}

    def _site(self, at: int) -> PruningSite:
        rows = Rows(self._text and at == self._layer, at in self._half)
        return PruningSite(at, rows if rows.prompt or rows.slots else None)

    def _text_rows(self, view: PruningContext) -> int:
        asked = self._text and view.site.layer == self._layer
        return len(view.layout.prompt_positions) if asked else 0

    def _harvest(self, view: PruningContext, slots: Tensor) -> None:
        """Add this layer's attention; absent tokens have none. Keep the mean after the last."""
        total = view.memory.setdefault('action', slots.new_zeros(view.layout.visual))
        total[view.ids] += slots.mean(dim=0)
        if view.site.layer == self._half[-1]:
            self._seen = total / len(self._half)

    def _select(self, view: PruningContext, words: Tensor | None) -> Selection:
        past = enumerate(self._history, start=1)
        action = sum(self._gamma**age * scores for age, scores in past)[view.ids]
        if words is None:
            return Selection.of(self._best(view, action))
        if self._combine == 'sum':
            weight = self._text_weight
            both = weight * min_max(words) + (1 - weight) * min_max(action)
            return Selection.of(self._best(view, both))
        candidates = torch.zeros_like(view.ids, dtype=torch.bool)
        candidates[torch.cat([*self._best(view, words), *self._best(view, action)])] = True
        features = view.hidden[1 : 1 + len(view.ids)] if self._visual is None else self._visual
        patches = view.layout.patches
        return Selection.of(diverse_per_camera(features, patches, self.budget, candidates))

    def _best(self, view: PruningContext, scores: Tensor) -> list[Tensor]:
        return best_per_camera(view.ids, scores, view.kept_per_camera, self.budget)
