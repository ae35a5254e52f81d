"""SpecPrune-VLA in numbers: the paper, the released code, what we recommend, and the options.
Counts are tokens of 256 per camera, the last of a pair serves further cameras; layers are of 32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...config import Above, option
from ...errors import ProfileError
from .. import modes
from ..frame_change import (
    AUTHORS_2026,
    METRICS,
    PAPER_V3,
    RECOMMENDED_COSINE,
    RECOMMENDED_HALF,
    THRESHOLDS,
    ChangeSettings,
)
from ..layout import Target
from ..modes import COARSE, FINE
from ..selection import Budget, budgets, per_camera
from .importance import RunningMean

METHOD = 'specprune'
STATIC_LAYERS = (0, 1)


@dataclass(frozen=True)
class Counts:
    coarse: tuple[int, ...]
    fine: tuple[int, ...]

    def of(self, mode: str) -> tuple[int, ...]:
        return self.fine if mode == FINE else self.coarse

    def map(self, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> 'Counts':
        return Counts(change(self.coarse), change(self.fine))


@dataclass(frozen=True)
class SpecPruneConfig:
    """The constants of a preset; the defaults are ``recommended``."""

    # K, tokens that the text rows of a layer choose. Fine mode scales every K by 32 / 24, as in
    # the paper.
    local: Counts = Counts((24, 19), (32, 26))
    first_keeps: int = 2  # multiple of `local` that layer 0 chooses; 0: nothing is dropped there
    # 'task': the words of the task; 'released': the released code's windows, which shift by one
    # row between the layers and are fixed for the global scores.
    rows: str = 'task'
    change: ChangeSettings = RECOMMENDED_HALF
    compare: bool = True  # false: no frames are compared, every patch counts as still
    moved: Counts = Counts((20, 26), (27, 35))  # fewest patches kept for having changed most
    moved_more: bool = True  # patches beyond `moved` that changed are kept too, or come next
    global_layers: tuple[int, ...] = (14, 30)  # layers whose text rows give V_global
    global_tokens: Counts = Counts((12, 10), (16, 13))  # V_global's size per layer
    joint: bool = False  # V_global and `moved` rank all cameras together, by the sum of the counts
    global_dense: bool = True  # harvest in dense passes only
    updates: tuple[int, ...] = (14, 19, 24)  # layers whose action rows update the running score
    # Layers after which dynamic pruning acts; not 10: nothing is scored by then.
    prunes: tuple[int, ...] = (15, 20, 25)
    # Without budgets: what is kept there, and the fewest visual tokens of all cameras.
    keep_ratio: float = 1.0
    ratio_of: str = 'visual'  # or 'sequence'
    floor: int = 0
    running: RunningMean = RunningMean()
    # Layer -> tokens that are kept after it; None for the data-dependent sets.
    budgets: Mapping[int, Counts] | None = field(
        default_factory=lambda: {
            0: Counts((136, 128), (192, 184)),
            1: Counts((108, 100), (120, 112)),
            15: Counts((104, 96), (116, 108)),
            20: Counts((100, 92), (112, 104)),
            25: Counts((96, 88), (108, 100)),
        }
    )
    fill: str = 'even'  # what fills budgets up
    controller: modes.ControllerSettings = modes.RECOMMENDED
    look_back: str = 'clamped'  # rule of the reference frame: or 'paper', 'released'
    start_dense: bool = True  # dense where nothing is known: first query, new task, camera gap
    refresh_every: int = 8  # dense when V_global is older than this many queries


SPECPRUNE_PRESETS: Mapping[str, SpecPruneConfig] = {
    'recommended': SpecPruneConfig(),
    # With these a small trained policy lost less in closed loop (docs/results.md): fine mode
    # keeps half as many tokens again.
    'careful': SpecPruneConfig(
        moved=Counts((20, 26), (40, 50)),
        budgets={
            0: Counts((136, 128), (192, 184)),
            1: Counts((128, 120), (184, 176)),
            15: Counts((112, 104), (160, 152)),
            20: Counts((96, 88), (136, 128)),
            25: Counts((88, 80), (120, 112)),
        },
    ),
    # v3 of the paper (2026-05-24), K = 24 with its alpha of 0.8 and 40 * 0.8 in fine mode.
    # Nothing is dropped after the first layer: the paper's FLOP count starts pruning at the
    # third of 32 layers. Prune layers are v1's, since v3's are not known.
    'paper': SpecPruneConfig(
        local=Counts((24, 24), (32, 32)),
        first_keeps=0,
        change=PAPER_V3,
        moved=Counts((10, 10), (14, 13)),  # 20 in all
        moved_more=False,
        global_layers=(14, 31),
        global_tokens=Counts((15, 15), (20, 20)),  # 30 in all
        joint=True,
        global_dense=False,
        updates=(5, 10, 15, 20),
        prunes=(5, 10, 15, 20),
        keep_ratio=0.9,
        budgets=None,
        fill='text',
        controller=modes.PAPER,
        look_back='paper',
        refresh_every=0,
    ),
    # The released code of 2026, constant by constant. Its "precise" mode keeps fewer tokens.
    'legacy_2026': SpecPruneConfig(
        local=Counts((24, 19), (15, 12)),
        rows='released',
        change=AUTHORS_2026,
        moved=Counts((20, 26), (16, 20)),  # all but the 236 / 230 and 240 / 236 most similar
        global_tokens=Counts((12, 9), (7, 6)),
        global_dense=False,
        prunes=(10, 15, 20, 25),
        keep_ratio=0.9,
        ratio_of='sequence',
        floor=59,
        running=RunningMean(exact=False),
        budgets=None,
        fill='text',
        controller=modes.LEGACY_2026,
        look_back='released',
        start_dense=False,
        refresh_every=0,
    ),
}


@dataclass(frozen=True)
class SpecPruneOptions:
    """Where None is allowed, it leaves what the preset says."""

    preset: str = option(
        'recommended', 'the constants to start from', choices=tuple(SPECPRUNE_PRESETS)
    )
    mode: str = option(
        'auto',
        'auto: by the speed of the end effector; else the same in every query',
        choices=('auto', COARSE, FINE),
    )
    budget: Budget = option(
        None,
        'visual tokens per camera that are kept after layer 1 in coarse mode; all other budgets '
        'change in proportion; for presets with budgets',
        low=1,
    )
    fill: str | None = option(
        None,
        'what fills budgets up: even, patches spread over the image, or text, those that the '
        'words of the task attend to most; for presets with budgets',
        choices=('even', 'text'),
    )
    refresh_every: int | None = option(
        None,
        'a query runs dense when the global scores are older than this many queries; 0: never; '
        'for presets that harvest them in dense passes only',
        low=0,
    )
    enter_m_s: float | None = option(
        None, 'speed in m/s below which fine mode may begin', low=Above(0)
    )
    enter_rad_s: float | None = option(
        None, 'speed in rad/s below which fine mode may begin', low=Above(0)
    )
    metric: str | None = option(None, 'how frames are compared', choices=METRICS)
    change_threshold: float | tuple[float, ...] | None = option(
        None,
        'a patch changed where its difference is above (grey levels) or its cosine similarity '
        'below; one number for all cameras or one per camera',
        low=Above(0),
    )
    global_scores: bool = option(True, 'false leaves V_global out')
    moving_patches: bool = option(True, 'false leaves the comparison of frames out')


def configure(options: SpecPruneOptions, target: Target) -> SpecPruneConfig:
    """The preset for the model of ``target``, with what the options change."""
    config = adapt_to_model(SPECPRUNE_PRESETS[options.preset], target)
    given = {name: value for name, value in vars(options).items() if value is not None}
    absent = () if config.global_dense else ('refresh_every',)
    if config.budgets is None:
        absent += ('budget', 'fill')
    for name in given:
        if name in absent:
            raise ProfileError(
                f'{METHOD}: preset {options.preset!r} takes no {name}', "use preset 'recommended'"
            )
    if options.budget is not None:
        budget = budgets(METHOD, options.budget, target)
        config = _scale_budgets(config, budget, target.patches)
    speeds = {name: given[name] for name in ('enter_m_s', 'enter_rad_s') if name in given}
    config = replace(
        config,
        fill=given.get('fill', config.fill),
        refresh_every=given.get('refresh_every', config.refresh_every),
        controller=replace(config.controller, **speeds),
        change=_change(config.change, options, target),
    )
    if not options.global_scores:
        config = replace(config, global_layers=(), refresh_every=0)
    if not options.moving_patches:
        none = (0,) * len(target.cameras)
        config = replace(config, compare=False, moved=Counts(none, none), moved_more=False)
    return config


def _scale_budgets(
    config: SpecPruneConfig, budget: tuple[int, ...], patches: int
) -> SpecPruneConfig:
    reference = config.budgets[max(k for k in config.budgets if k in STATIC_LAYERS)].coarse

    def scale(counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            min(patches, max(1, round(c * b / r)))
            for c, b, r in zip(counts, budget, reference, strict=True)
        )

    return replace(config, budgets={k: c.map(scale) for k, c in config.budgets.items()})


def _change(change: ChangeSettings, options: SpecPruneOptions, target: Target) -> ChangeSettings:
    if options.metric not in (None, change.metric):
        change = RECOMMENDED_COSINE if options.metric == 'cosine' else RECOMMENDED_HALF
    if options.change_threshold is None:
        return change
    threshold = per_camera(METHOD, 'change_threshold', options.change_threshold, target)
    low, high = THRESHOLDS[change.metric]
    if not all(low <= t <= high for t in threshold):
        raise ProfileError(
            f'{METHOD}: change_threshold is {list(threshold)}',
            f'use numbers from {low:g} to {high:g} for {change.metric!r}',
        )
    return replace(change, threshold=threshold)


def adapt_to_model(config: SpecPruneConfig, target: Target) -> SpecPruneConfig:
    """A preset for a decoder of another depth, and other cameras. Layers move to the same ratio of
    the depth; the released code's stay, without those that a shallower decoder lacks."""
    n = len(target.cameras)

    def counts(published: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(map(target.scaled_count, (published + (published[-1],) * n)[:n]))

    def at(published: Sequence[int]) -> tuple[int, ...]:
        if config.rows == 'released':
            return tuple(layer for layer in published if layer < target.layers)
        return tuple(dict.fromkeys(map(target.scaled_layer, published)))

    def deep(published: Sequence[int]) -> tuple[int, ...]:
        return tuple(layer for layer in at(published) if layer not in STATIC_LAYERS)

    table = config.budgets
    if table is not None:  # of two layers that fall together the deeper one's budget holds
        scaled = {target.scaled_layer(layer): c.map(counts) for layer, c in table.items()}
        table = {**scaled, **{layer: table[layer].map(counts) for layer in STATIC_LAYERS}}
    return replace(
        config,
        local=config.local.map(counts),
        moved=config.moved.map(counts),
        global_tokens=config.global_tokens.map(counts),
        floor=target.scaled_count(config.floor),
        global_layers=at(config.global_layers),
        updates=deep(config.updates),
        prunes=deep(config.prunes),
        budgets=table,
    )
