"""VLA-Pruner: what the text attends to, united with what the actions attended to before."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from ...config import Above, option
from ..base import AttentionRequest, EpisodeMonitor, Pruner, PruningContext, Query, Rows, Selection
from ..layout import Target
from ..modes import COARSE, DENSE
from ..selection import Budget, budget_option, budgets, diverse_per_camera, select_best


@dataclass(frozen=True)
class VlaPrunerOptions:
    budget: Budget = budget_option()
    layer: int = option(
        3, "tokens are dropped after this layer, counted from 0; clipped to the model's", low=0
    )
    window: int = option(3, 'w, earlier queries that count', low=1, high=10**6)
    gamma: float = option(0.8, 'weight that a query loses per query of age', low=Above(0), high=1)
    text: bool = option(True, 'false leaves S_vl out')
    combine: str = option('union', 'union (paper) or sum', choices=('union', 'sum'))
    text_weight: float = option(0.5, 'sum: weight of S_vl; S_hat has the rest', low=0, high=1)


def min_max(scores: Tensor) -> Tensor:
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low + 1e-8)


class VlaPruner(Pruner):
    """VLA-Pruner (arXiv 2511.16449): two signals, united, then thinned by diversity.

    S_vl(v) is the attention from the prompt to visual token v in the layer behind which tokens are
    dropped, mean over heads and rows. S_act(v) is that from the action slots, mean over the last
    half of the layers too; it is known only when a pass is over: S_hat = sum over i = 1 .. w of
    gamma^i S_act(t - i). Per camera with budget M, greedy max-min selection takes M of the M best
    of S_vl and the M best of S_hat. Queries before w are known see everything.

    From the released code (revision 3d156ee): the layer, diversity of the input embeddings,
    selection camera by camera, the prompt without BOS. ``combine='sum'`` is the rule of its helper
    for key and value reuse; ``text=False`` its advice for OpenVLA: nothing new enters then (arXiv
    2608.00391), since scores come from pruned passes. Ours: of the passes of a diffusion head the
    last counts.
    """

    name = 'vla_pruner'
    options_type = VlaPrunerOptions
    state_names = ('_monitor', '_history', '_action')

    def __init__(self, options: VlaPrunerOptions, target: Target) -> None:
        self.budget = budgets(self.name, options.budget, target)
        self._options = options
        # Behind the last layer nothing is computed.
        self._layer = min(options.layer, max(0, target.layers - 2))
        self._half = range(target.layers // 2, target.layers)
        self._monitor = EpisodeMonitor(target)
        self._history: deque[Tensor] = deque(maxlen=options.window)  # newest first, float32 (V,)
        self._requests = {at: self._request(at) for at in sorted({self._layer, *self._half})}
        self.sites = tuple(request.site() for request in self._requests.values())
        self.reset()

    def begin(self, query: Query) -> str:
        why = self._monitor.check(query)
        if why and why != 'camera_gap':  # a pause in the stream is no new episode here
            self._history.clear()
        elif self._action is not None:
            self._history.appendleft(self._action)
        self._action, self._visual = None, query.visual
        self._prune = len(self._history) == self._history.maxlen
        self._reason = 'history' if self._prune else (why or 'filling')
        return COARSE if self._prune else DENSE

    def keep(self, context: PruningContext) -> Selection | None:
        attention = self._requests[context.site.layer].split(context)
        if 'action' in attention:
            self._harvest(context, attention['action'])
        if context.site.layer != self._layer or not self._prune:
            return None
        return self._select(context, attention['text'].mean(dim=0) if self._options.text else None)

    def reset(self) -> None:
        self._monitor.reset()
        self._history.clear()
        self._action: Tensor | None = None  # S_act of the query that runs
        self._visual: Tensor | None = None
        self._prune = False
        self._reason = 'first'

    def report(self) -> dict[str, float | int | str]:
        return {'reason': self._reason, 'remembered': len(self._history)}

    def _request(self, layer: int) -> AttentionRequest:
        parts: dict[str, Rows] = {}
        if self._options.text and layer == self._layer:
            parts['text'] = lambda layout: layout.prompt_positions
        if layer in self._half:
            parts['action'] = lambda layout: layout.slot_positions
        return AttentionRequest(layer, parts, hidden=True)

    def _harvest(self, context: PruningContext, slots: Tensor) -> None:
        total = context.memory.setdefault('action', slots.new_zeros(context.layout.visual))
        total[context.ids] += slots.mean(dim=0)
        if context.site.layer == self._half[-1]:
            self._action = total / len(self._half)

    def _select(self, context: PruningContext, text: Tensor | None) -> Selection:
        past = enumerate(self._history, start=1)
        action = sum(self._options.gamma**age * scores for age, scores in past)[context.ids]
        if text is None:
            return select_best(context, action, self.budget)
        if self._options.combine == 'sum':
            weight = self._options.text_weight
            both = weight * min_max(text) + (1 - weight) * min_max(action)
            return select_best(context, both, self.budget)
        candidates = torch.zeros_like(context.ids, dtype=torch.bool)
        for scores in (text, action):
            candidates[select_best(context, scores, self.budget).ids] = True
        features = self._visual
        if features is None:
            features = context.hidden[1 : 1 + len(context.ids)]
        patches = context.layout.patches
        return Selection.of(diverse_per_camera(features, patches, self.budget, candidates))
