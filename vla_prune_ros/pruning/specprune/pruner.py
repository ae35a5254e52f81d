"""``specprune`` by name: a preset, and the knobs that people turn.

SpecPrune-VLA (arXiv 2509.05614): static, layer-wise dynamic and action-aware pruning.

Training-free. After the first two layers the tokens stay that the previous inference looked at,
that moved, or that the task's words look at now; deeper layers drop more by a running score; how
many depends on how fast the end effector moves. ``specprune_config`` holds the presets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import ProfileError
from ..base import EpisodeMonitor, Pruner, PruningContext, PruningSite, Query, Selection
from ..frame_change import METRICS, RECOMMENDED_COSINE, RECOMMENDED_HALVED, Change, Reference
from ..knobs import one_of, switch, weights, whole
from ..layout import Target
from ..methods.baselines import even_ranks
from ..modes import Controller
from ..selection import Budget, best_first, best_per_camera, budgets
from .config import COARSE, FINE, SPECPRUNE_PRESETS, Counts, SpecPruneConfig
from .importance import GlobalMemory, entropy_confidence, surviving_count
from .rows import ACTION, GLOBAL, TEXT, fit, harvest_sites, plan_sites
from .selection import Evidence, by_motion, fill_by_rank, unite

DENSE = 'dense'


class SpecPrune(Pruner):
    """One episode's pruner; see the module. Built by ``specprune_build.build``.

    :param config: counts and layers already fit ``target``.
    :param mode: ``'auto'``: the controller decides; ``'coarse'`` or ``'fine'`` fix it.
    """

    name = 'specprune'
    state_names = ('memory', '_confidence', 'controller', '_watch', '_stamp_ns')

    def __init__(self, config: SpecPruneConfig, target: Target, mode: str, preset: str) -> None:
        self.config, self.target, self.mode, self.preset = config, target, mode, preset
        self.memory = GlobalMemory()
        self._confidence: dict[int, Tensor] = {}  # layer -> scalar, not finite while unknown
        self.controller = Controller(config.controller, target)
        self.reference = Reference(config.change, config.look_back, target)
        self._asks = plan_sites(config, target)
        self.harvest_asks = harvest_sites(config)
        self._watch = EpisodeMonitor(target)
        self._mode = DENSE
        self._stamp_ns = 0
        self.evidence: Evidence | None = None
        self._report: dict[str, float | int | str] = {}

    @property
    def history_s(self) -> float:
        """Seconds of frames that the reference is chosen from; 0 where none are compared."""
        return self.reference.longest_s if self.config.compare else 0.0

    @property
    def half_resolution(self) -> bool:
        """Whether frames are compared at half the resolution."""
        return self.config.compare and self.config.change.half_resolution

    @property
    def label(self) -> str:
        """Name and preset, for reports."""
        return f'{self.name}:{self.preset}'

    @property
    def sites(self) -> tuple[PruningSite, ...]:
        """Where the pass that begins now acts; a dense one only harvests."""
        asks = self.harvest_asks if self._mode == DENSE else self._asks
        return tuple(ask.site() for ask in asks.values())

    @property
    def capturable(self) -> bool:
        """The sets of ``paper`` and ``legacy_2026`` have no fixed size."""
        return self.config.budgets is not None

    @property
    def confidence(self) -> Mapping[int, Tensor]:
        """Layer -> scalar w_conf of the first inference of the task; those that are known."""
        return {k: value for k, value in self._confidence.items() if bool(value.isfinite())}

    def begin(self, query: Query) -> str:
        """Compare frames, choose the mode; dense where nothing is known."""
        since_ns, self._stamp_ns = query.stamp_ns - self._stamp_ns, query.stamp_ns
        broken = self._watch.check(query)
        if broken:
            self._forget()
        moving = self.controller.update(query.motion)
        self.memory.age += 1
        reason = (broken or self._lack(query)) if self.config.start_dense else ''
        self._mode = DENSE if reason else moving if self.mode == 'auto' else self.mode
        self._report = {'preset': self.preset, 'reason': reason, **self._motion(query)}
        if self._mode != DENSE:
            since_s = 0.0 if broken else 1e-9 * since_ns
            fresh = self._gather(query, since_s)
            self.evidence = fresh if self.evidence is None else self.evidence.overwritten(fresh)
        return self._mode

    def keep(self, view: PruningContext) -> Tensor | Selection | None:
        """The tokens that stay at this site; in a dense pass all of them."""
        layer = view.site.layer
        asks = self.harvest_asks if self._mode == DENSE else self._asks
        seen = asks[layer].split(view)
        if GLOBAL in seen:
            self.memory.collect(view, seen[GLOBAL], len(self.harvest_asks))
        if self._mode == DENSE:
            return None
        if TEXT in seen:
            return self._static(view, seen[TEXT])
        if ACTION in seen and not view.memory.get('stopped'):
            self._score(view, seen[ACTION])
        return self._dynamic(view) if layer in self.config.prunes else None

    def after_pass(self, memory: Mapping[str, Any]) -> None:
        """The pass is over: if it harvested V_global, the scores are this query's."""
        self.memory.learn(memory, len(self.harvest_asks), self._mode, self._stamp_ns)

    def reset(self) -> None:
        """As at the start of an episode."""
        self._forget()
        self._watch.reset()

    def report(self) -> Mapping[str, float | int | str]:
        """Preset, why the query ran dense, motion and its source, changed patches per camera."""
        return self._report

    def refresher(self) -> 'Refresher | None':
        """Harvests V_global anew from a dense pass, where the preset takes it from those only.

        Once per chunk: None while the scores are younger than that, or of the last query itself.
        """
        if not self.config.global_dense or not self.config.global_layers or not self.memory.age:
            return None
        since_s = 1e-9 * (self._stamp_ns - self.memory.stamp_ns)
        young = 0 < since_s < 0.9 * self.target.chunk * self.target.control_period_s
        return None if young and not self.memory.empty else Refresher(self, self._stamp_ns)

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

    def _motion(self, query: Query) -> dict[str, float | int | str]:
        if self.controller.unknown:
            return {'motion': 'unknown'}
        return {'motion': query.motion.source, 'speed_m_s': query.motion.linear_m_s}

    def _gather(self, query: Query, since_s: float) -> Evidence:
        layout, config = query.layout, self.config
        device = torch.device('cpu') if query.visual is None else query.visual.device
        changes = self._changes(query, since_s, device)
        amount = torch.cat([c.amount for c in changes])
        moved = torch.cat([c.changed for c in changes])
        counts = self._counts(config.moved)
        most, removable = by_motion(amount, moved, counts, layout.patches, config)
        looked_at = torch.zeros_like(moved)
        if not self.memory.empty:
            # The released code chooses at the end of the query before, with its counts.
            mode = self._mode if config.global_dense else self.memory.mode
            top = config.global_tokens.of(mode)
            looked_at = self.memory.top(layout.patches, top, config.joint)
        return Evidence(amount, moved, most, removable, looked_at)

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

    def _counts(self, counts: Counts) -> tuple[int, ...]:
        return counts.of(self._mode)

    def _static(self, view: PruningContext, attention: Tensor) -> Tensor | Selection | None:
        layer, config = view.site.layer, self.config
        counts = self._counts(config.local)
        text = attention.mean(dim=0)
        wide = counts if layer else [max(1, config.first_keeps) * c for c in counts]
        chosen = best_per_camera(view.ids, text, view.kept_per_camera, wide)
        if not layer:
            view.memory['local'] = [c[:k] for c, k in zip(chosen, counts, strict=True)]
            if not config.first_keeps:
                return None
        local = torch.cat([*chosen, *(view.memory['local'] if layer else ())])
        if config.budgets is None:
            return unite(view.ids, self.evidence, local)
        budget = self._counts(config.budgets[layer])
        rest = self._rest(view)
        return fill_by_rank(
            view.ids, self.evidence, local, text, view.kept_per_camera, budget, rest
        )

    def _rest(self, view: PruningContext) -> Tensor | None:
        if self.config.fill != 'even':
            return None
        layout = view.layout
        return _evenly(layout.patches, len(layout.cameras), view.ids.device)

    def _score(self, view: PruningContext, attention: Tensor) -> None:
        layer, running = view.site.layer, self.config.running
        # That of the first inference of a task, as in paper and code; not of a broken one.
        confidence = entropy_confidence(attention)
        first = self._confidence.setdefault(layer, torch.full_like(confidence, torch.nan))
        confidence = torch.where(first.isfinite(), first, confidence)
        first.copy_(confidence)
        scores = self._importance(view)
        view.memory['importance'] = running.update(
            scores, view.ids, attention.mean(dim=0), confidence
        )

    def _importance(self, view: PruningContext) -> Tensor:
        if 'importance' not in view.memory:
            start = self.config.running.start(view.layout.visual, view.ids.device)
            view.memory['importance'] = start
        return view.memory['importance']

    def _dynamic(self, view: PruningContext) -> Tensor | Selection | None:
        config, scores = self.config, self._importance(view)[view.ids]
        if view.memory.get('stopped'):
            return None
        if config.budgets is not None:
            budget = self._counts(config.budgets[view.site.layer])
            return Selection.of(best_per_camera(view.ids, scores, view.kept_per_camera, budget))
        count = self._left(view)
        if count >= len(view.ids):
            view.memory['stopped'] = True  # the released code stops at the first that drops none
            return None
        return view.ids[best_first(scores)[:count]].sort().values

    def _left(self, view: PruningContext) -> int:
        config, left = self.config, len(view.ids)
        if config.ratio_of == 'visual':
            return max(int(config.keep_ratio * left), config.floor)
        length = len(view.positions)
        floor = config.floor + length - left
        return surviving_count(length, left, config.keep_ratio, floor)


class Refresher(Pruner):
    """Keeps everything and gives ``parent`` what a dense pass looked at."""

    name = 'specprune_refresh'

    def __init__(self, parent: SpecPrune, stamp_ns: int) -> None:
        self._parent, self._stamp_ns = parent, stamp_ns
        self.sites = tuple(ask.site() for ask in parent.harvest_asks.values())

    def begin(self, query: Query) -> str:
        """Nothing is compared."""
        return DENSE

    def keep(self, view: PruningContext) -> None:
        """Harvest; the parent's scores change when the last site has been seen."""
        asks = self._parent.harvest_asks
        seen = asks[view.site.layer].split(view)[GLOBAL]
        self._parent.memory.collect(view, seen, len(asks))

    def after_pass(self, memory: Mapping[str, Any]) -> None:
        """The pass is over: the parent's scores are those of its query, if all were seen."""
        asks = self._parent.harvest_asks
        self._parent.memory.learn(memory, len(asks), DENSE, self._stamp_ns)


@cache
def _evenly(patches: int, cameras: int, device: torch.device) -> Tensor:
    """Scores by which patches spread over the picture come first: float32 (V,)."""
    return -even_ranks(patches).repeat(cameras).to(device, torch.float32)


MODES = ('auto', COARSE, FINE)
FILLS = ('even', 'text')
CHANGES = {'difference': RECOMMENDED_HALVED, 'cosine': RECOMMENDED_COSINE}


def build(
    target: Target,
    preset: str = 'recommended',
    mode: str = 'auto',
    budget: Budget = None,
    refresh_every: int | None = None,
    enter_m_s: float | None = None,
    enter_rad_s: float | None = None,
    metric: str | None = None,
    change_threshold: float | Sequence[float] | None = None,
    global_scores: bool = True,
    moving_patches: bool = True,
    fill: str | None = None,
) -> SpecPrune:
    """SpecPrune-VLA.

    :param preset: ``'recommended'``, ``'careful'``, ``'paper'`` or ``'legacy_2026'``.
    :param mode: ``'auto'``, or ``'coarse'`` or ``'fine'`` whatever the robot does.
    :param budget: tokens per camera that stay after layer 1 in coarse mode; all other budgets of
        ``recommended`` and ``careful`` change in proportion. The other presets have none.
    :param refresh_every: a query runs dense when the global scores are older than this many
        queries; 0: never. ``recommended`` and ``careful`` only, where it is 8 by default.
    :param enter_m_s: speed in m/s below which fine mode may begin.
    :param enter_rad_s: angular speed in rad/s below which fine mode may begin.
    :param metric: of the patch comparison, ``'difference'`` (grey levels) or ``'cosine'``
        (similarity); the preset's where it is None.
    :param change_threshold: replaces the threshold of patch comparison, in its metric;
        one for all cameras or one per camera.
    :param global_scores: False leaves V_global out.
    :param moving_patches: False leaves the comparison of frames out: every patch counts as still.
    :param fill: what budgets hold beyond the evidence: ``'even'``, patches spread over the
        picture, or ``'text'``, those that the words look at most. ``recommended`` and ``careful``
        only, where it is ``'even'`` by default.
    :raises ProfileError: unknown preset or mode, or a value that is not possible.
    """
    one_of('specprune', 'preset', preset, tuple(SPECPRUNE_PRESETS))
    one_of('specprune', 'mode', mode, MODES)
    switch('specprune', 'global_scores', global_scores)
    switch('specprune', 'moving_patches', moving_patches)
    config = fit(_per_camera(SPECPRUNE_PRESETS[preset], target), target)
    if budget is not None:
        config = _with_budget(config, budgets('specprune', budget, target), target, preset)
    if refresh_every is not None:
        every = whole('specprune', 'refresh_every', refresh_every, low=0)
        if not config.global_dense:
            raise ProfileError(
                f'specprune: preset {preset!r} takes no refresh_every: it harvests in every query',
                "use preset 'recommended'",
            )
        config = replace(config, refresh_every=every)
    if fill is not None:
        config = replace(config, fill=one_of('specprune', 'fill', fill, FILLS))
        _require_budgets(config, 'fill', preset)
    controller = config.controller.with_thresholds(enter_m_s, enter_rad_s)
    config = replace(config, controller=controller)
    if metric is not None and one_of('specprune', 'metric', metric, METRICS) != (
        config.change.metric
    ):
        config = replace(config, change=CHANGES[metric])
    if change_threshold is not None:
        thresholds = weights(
            'specprune', 'change_threshold', change_threshold, len(target.cameras)
        )
        config = replace(config, change=replace(config.change, threshold=thresholds))
    if not global_scores:
        config = replace(config, global_layers=(), refresh_every=0)
    if not moving_patches:
        none = (0,) * len(target.cameras)
        config = replace(config, compare=False, moved=Counts(none, none), moved_more=False)
    return SpecPrune(config, target, mode, preset)


def _per_camera(config: SpecPruneConfig, target: Target) -> SpecPruneConfig:
    """The counts of one camera, or of three: the last one serves further cameras."""
    n = len(target.cameras)
    return config.map_counts(lambda counts: (counts + (counts[-1],) * n)[:n])


def _with_budget(
    config: SpecPruneConfig, budget: tuple[int, ...], target: Target, preset: str
) -> SpecPruneConfig:
    _require_budgets(config, 'budget', preset)
    reference = config.budgets[max(k for k in config.budgets if k <= 1)].coarse

    def scale(counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            min(target.patches, max(1, round(c * b / r)))
            for c, b, r in zip(counts, budget, reference, strict=True)
        )

    return replace(config, budgets={k: c.map(scale) for k, c in config.budgets.items()})


def _require_budgets(config: SpecPruneConfig, knob: str, preset: str) -> None:
    if config.budgets is None:
        raise ProfileError(
            f'specprune: preset {preset!r} takes no {knob}: its sets depend on what is seen',
            "use preset 'recommended'",
        )
