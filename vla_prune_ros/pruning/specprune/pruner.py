"""SpecPrune-VLA (arXiv 2509.05614): after the first two layers tokens are kept that the previous
inference attended to, that moved, or that the task's words attend to now; deeper layers drop more
by a running score; how many depends on how fast the end effector moves.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..base import (
    AttentionRequest,
    EpisodeMonitor,
    Pruner,
    PruningContext,
    PruningSite,
    Query,
    Rows,
    Selection,
    text_positions,
)
from ..frame_change import Change, ReferenceFrame
from ..layout import Layout, Target
from ..methods.baselines import even_ranks
from ..modes import DENSE, Controller
from ..selection import best_first, best_per_camera, select_best
from .config import METHOD, STATIC_LAYERS, SpecPruneConfig, SpecPruneOptions, configure
from .importance import GlobalMemory, entropy_confidence, num_kept_of_sequence
from .selection import TokenScores, rank_by_motion, select_to_budget, select_union

TEXT, GLOBAL, ACTION = 'text', 'global', 'action'


def released_text_rows(layer: int, layout: Layout) -> range:
    """The released code's rows after layer 0 (no fixed words, no last prompt token) or 1 (one row
    later); the complete prompt where it is shorter than that."""
    prompt = layout.prompt_positions
    window = range(prompt.start + 9 + layer, prompt.stop - 1 + layer)
    return window if len(window) else prompt


def released_global_rows(layout: Layout) -> range:
    """The released code's fixed window: positions 522 ... 546 with two cameras and a state. With a
    short prompt it reaches into the action slots."""
    start = layout.prompt_positions.start + 8
    return range(start, min(start + 25, layout.length))


def global_rows(config: SpecPruneConfig) -> Rows:
    return released_global_rows if config.rows == 'released' else text_positions


def plan_sites(config: SpecPruneConfig, target: Target) -> dict[int, AttentionRequest]:
    static = [layer for layer in STATIC_LAYERS if layer < target.layers]
    harvested = () if config.global_dense else config.global_layers
    requests = {}
    for layer in sorted({*static, *config.updates, *harvested, *config.prunes}):
        parts: dict[str, Rows] = {}
        if layer in static:
            released = config.rows == 'released'
            parts[TEXT] = partial(released_text_rows, layer) if released else text_positions
        if layer in config.updates:
            parts[ACTION] = lambda layout: layout.slot_positions
        if layer in harvested:
            parts[GLOBAL] = global_rows(config)
        requests[layer] = AttentionRequest(layer, parts)
    return requests


class SpecPrune(Pruner):
    name = METHOD
    options_type = SpecPruneOptions
    state_names = ('memory', '_confidence', 'controller', '_monitor', '_stamp_ns')

    def __init__(self, options: SpecPruneOptions, target: Target) -> None:
        self.config = configure(options, target)
        self.target, self.mode, self.preset = target, options.mode, options.preset
        # The sets of presets without budgets have no fixed size.
        self.capturable = self.config.budgets is not None
        if self.config.compare:
            self.half_resolution = self.config.change.half_resolution
        self.memory = GlobalMemory(len(self.config.global_layers))
        self._confidence: dict[int, Tensor] = {}  # layer -> scalar, not finite while unknown
        self.controller = Controller(self.config.controller, target)
        self.reference = ReferenceFrame(self.config.change, self.config.look_back, target)
        self._requests = plan_sites(self.config, target)
        self.harvest_requests = {
            layer: AttentionRequest(layer, {GLOBAL: global_rows(self.config)})
            for layer in self.config.global_layers
        }
        self._monitor = EpisodeMonitor(target)
        self._mode = DENSE
        self._stamp_ns = 0
        self.token_scores: TokenScores | None = None
        self._report: dict[str, float | int | str] = {}

    @property
    def history_s(self) -> float:
        return self.reference.longest_s if self.config.compare else 0.0

    @property
    def label(self) -> str:
        return f'{self.name}:{self.preset}'

    @property
    def sites(self) -> tuple[PruningSite, ...]:
        return tuple(request.site() for request in self._active_requests().values())

    @property
    def confidence(self) -> Mapping[int, Tensor]:
        """Layer -> scalar w_conf of the first inference of the task; those that are known."""
        return {k: value for k, value in self._confidence.items() if bool(value.isfinite())}

    def begin(self, query: Query) -> str:
        since_ns, self._stamp_ns = query.stamp_ns - self._stamp_ns, query.stamp_ns
        broken = self._monitor.check(query)
        if broken:
            self._forget()
        moving = self.controller.update(query.motion)
        self.memory.age += 1
        reason = (broken or self._lack(query)) if self.config.start_dense else ''
        self._mode = DENSE if reason else moving if self.mode == 'auto' else self.mode
        self._report = {'preset': self.preset, 'reason': reason, 'motion': 'unknown'}
        if not self.controller.unknown:
            motion = query.motion
            self._report.update(motion=motion.source, speed_m_s=motion.linear_m_s)
        if self._mode != DENSE:
            since_s = 0.0 if broken else 1e-9 * since_ns
            fresh = self._score_tokens(query, since_s)
            if self.token_scores is not None:
                fresh = self.token_scores.overwritten(fresh)
            self.token_scores = fresh
        return self._mode

    def keep(self, context: PruningContext) -> Tensor | Selection | None:
        layer = context.site.layer
        attention = self._active_requests()[layer].split(context)
        if GLOBAL in attention:
            self.memory.collect(context, attention[GLOBAL])
        if self._mode == DENSE:
            return None
        if TEXT in attention:
            return self._keep_static(context, attention[TEXT])
        if ACTION in attention and not context.memory.get('stopped'):
            self._update_importance(context, attention[ACTION])
        return self._keep_dynamic(context) if layer in self.config.prunes else None

    def after_pass(self, memory: Mapping[str, Any]) -> None:
        self.memory.after_pass(memory, self._mode, self._stamp_ns)

    def reset(self) -> None:
        self._forget()
        self._monitor.reset()

    def report(self) -> Mapping[str, float | int | str]:
        return self._report

    def refresher(self) -> 'Refresher | None':
        """Harvests V_global anew from a dense pass, where the preset takes it from those only:
        once per chunk, and not while the scores are of the last query itself."""
        if not self.config.global_dense or not self.config.global_layers or not self.memory.age:
            return None
        since_s = 1e-9 * (self._stamp_ns - self.memory.stamp_ns)
        young = 0 < since_s < 0.9 * self.target.chunk * self.target.control_period_s
        return None if young and not self.memory.empty else Refresher(self, self._stamp_ns)

    def _active_requests(self) -> Mapping[int, AttentionRequest]:
        return self.harvest_requests if self._mode == DENSE else self._requests

    def _forget(self) -> None:
        self.memory.forget()
        with torch.inference_mode():  # in which these tensors may have been made
            for value in self._confidence.values():
                value.fill_(torch.nan)
        self.controller.reset()

    def _lack(self, query: Query) -> str:
        config = self.config
        if config.global_layers and self.memory.empty:
            return 'first'
        if config.refresh_every and self.memory.age > config.refresh_every:
            return 'refresh_due'
        missing = config.compare and not self.reference.available(query)
        return 'no_reference' if missing else ''

    def _score_tokens(self, query: Query, since_s: float) -> TokenScores:
        layout, config = query.layout, self.config
        device = torch.device('cpu') if query.visual is None else query.visual.device
        changes = self._changes(query, since_s, device)
        amount = torch.cat([c.amount for c in changes])
        moved = torch.cat([c.changed for c in changes])
        most_moved, removable = rank_by_motion(amount, moved, config.moved.of(self._mode), config)
        in_global = torch.zeros_like(moved)
        if not self.memory.empty:
            # The released code chooses at the end of the query before, with its counts.
            mode = self._mode if config.global_dense else self.memory.mode
            top = config.global_tokens.of(mode)
            in_global = self.memory.top(layout.patches, top, config.joint)
        return TokenScores(
            amount=amount,
            moved=moved,
            most_moved=most_moved,
            removable=removable,
            in_global=in_global,
        )

    def _changes(self, query: Query, since_s: float, device: torch.device) -> list[Change]:
        layout = query.layout
        if not self.config.compare:
            still = torch.zeros(layout.patches, device=device)
            return [Change(still, still.bool())] * len(layout.cameras)
        motion = None if self.controller.unknown else query.motion
        changes, steps = self.reference.changes(query, motion, since_s, device)
        self._report['look_back_steps'] = steps
        for camera, change in zip(layout.cameras, changes, strict=True):
            self._report[f'changed_{camera}'] = int(change.changed.sum())
        return changes

    def _keep_static(
        self, context: PruningContext, attention: Tensor
    ) -> Tensor | Selection | None:
        layer, config = context.site.layer, self.config
        counts = config.local.of(self._mode)
        text = attention.mean(dim=0)
        wide = counts if layer else [max(1, config.first_keeps) * c for c in counts]
        best = best_per_camera(context.ids, text, context.kept_per_camera, wide)
        if not layer:
            context.memory['local'] = [ids[:k] for ids, k in zip(best, counts, strict=True)]
            if not config.first_keeps:
                return None
        local = torch.cat([*best, *(context.memory['local'] if layer else ())])
        if config.budgets is None:
            return select_union(context.ids, self.token_scores, local)
        fill, layout = None, context.layout
        if config.fill == 'even':
            fill = _spread(layout.patches, len(layout.cameras), context.ids.device)
        return select_to_budget(
            context.ids,
            self.token_scores,
            local,
            text,
            kept_per_camera=context.kept_per_camera,
            budget=config.budgets[layer].of(self._mode),
            fill=fill,
        )

    def _update_importance(self, context: PruningContext, attention: Tensor) -> None:
        layer, running = context.site.layer, self.config.running
        # That of the first inference of a task, as in paper and code; not of a broken one.
        confidence = entropy_confidence(attention)
        first = self._confidence.setdefault(layer, torch.full_like(confidence, torch.nan))
        confidence = torch.where(first.isfinite(), first, confidence)
        first.copy_(confidence)
        context.memory['importance'] = running.update(
            self._importance(context), context.ids, attention.mean(dim=0), confidence
        )

    def _importance(self, context: PruningContext) -> Tensor:
        if 'importance' not in context.memory:
            start = self.config.running.start(context.layout.visual, context.ids.device)
            context.memory['importance'] = start
        return context.memory['importance']

    def _keep_dynamic(self, context: PruningContext) -> Tensor | Selection | None:
        config, scores = self.config, self._importance(context)[context.ids]
        if context.memory.get('stopped'):
            return None
        if config.budgets is not None:
            budget = config.budgets[context.site.layer].of(self._mode)
            return select_best(context, scores, budget)
        num_kept = self._num_kept(context)
        if num_kept >= len(context.ids):
            # The released code stops at the first layer that drops none.
            context.memory['stopped'] = True
            return None
        return context.ids[best_first(scores)[:num_kept]].sort().values

    def _num_kept(self, context: PruningContext) -> int:
        config, visual = self.config, len(context.ids)
        if config.ratio_of == 'visual':
            # A later layer's confidence is not defined without tokens.
            least = int(context.site.layer < max(config.updates, default=0))
            return max(int(config.keep_ratio * visual), config.floor, least)
        length = len(context.positions)
        floor = config.floor + length - visual
        return num_kept_of_sequence(length, visual, config.keep_ratio, floor)


class Refresher(Pruner):
    name = 'specprune_refresh'

    def __init__(self, parent: SpecPrune, stamp_ns: int) -> None:
        self._parent, self._stamp_ns = parent, stamp_ns
        self.sites = tuple(request.site() for request in parent.harvest_requests.values())

    def keep(self, context: PruningContext) -> None:
        self._parent.memory.collect(context, context.attention)

    def after_pass(self, memory: Mapping[str, Any]) -> None:
        self._parent.memory.after_pass(memory, DENSE, self._stamp_ns)


@cache
def _spread(patches: int, cameras: int, device: torch.device) -> Tensor:
    return -even_ranks(patches).repeat(cameras).to(device, torch.float32)
