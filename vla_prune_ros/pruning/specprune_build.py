"""``specprune`` by name: a preset, and the knobs that people turn."""

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ProfileError
from .budget import Budget, budgets
from .frame_change import METRICS, RECOMMENDED_COSINE, RECOMMENDED_HALVED
from .knobs import one_of, switch, weights, whole
from .layout import Target
from .specprune import SpecPrune
from .specprune_config import COARSE, FINE, SPECPRUNE_PRESETS, Counts, SpecPruneConfig
from .specprune_sites import fit

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
