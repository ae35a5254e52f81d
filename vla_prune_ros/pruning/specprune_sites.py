"""Where SpecPrune-VLA acts: presets are written for 32 layers and 256 patches, models differ."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from .layout import Target
from .specprune_config import SpecPruneConfig
from .specprune_rows import (
    ACTION,
    GLOBAL,
    PUBLISHED_LAYERS,
    TEXT,
    Ask,
    action_rows,
    global_rows,
    scaled_layer,
    text_rows,
)

STATIC_LAYERS = (0, 1)
PUBLISHED_PATCHES = 256


def plan_sites(config: SpecPruneConfig, target: Target) -> dict[int, Ask]:
    """Layer -> what is asked there, in order of depth.

    :param config: already fit to ``target``.
    """
    released = config.rows == 'released'
    parts: dict[int, list] = {}
    for layer in STATIC_LAYERS:
        if layer < target.layers:
            parts.setdefault(layer, []).append((TEXT, text_rows(released, layer)))
    for layer in config.updates:
        parts.setdefault(layer, []).append((ACTION, action_rows))
    if not config.global_dense:
        for layer in config.global_layers:
            parts.setdefault(layer, []).append((GLOBAL, global_rows(released)))
    for layer in config.prunes:
        parts.setdefault(layer, [])
    return {layer: Ask(layer, tuple(parts[layer])) for layer in sorted(parts)}


def harvest_sites(config: SpecPruneConfig) -> dict[int, Ask]:
    """Layer -> the rows that V_global is harvested from."""
    rows = global_rows(config.rows == 'released')
    return {layer: Ask(layer, ((GLOBAL, rows),)) for layer in config.global_layers}


def fit(config: SpecPruneConfig, target: Target) -> SpecPruneConfig:
    """A preset for a decoder of another depth or a camera of other tokens.

    The released code's layers stay where they are, and those that a shallower decoder lacks are
    left out, as running it on such a model does. The other presets move to the same share of the
    depth. Counts grow and shrink with the patches of a camera, rounded up.
    """
    if target.layers != PUBLISHED_LAYERS:
        config = _fit_layers(config, target.layers)
    return config if target.patches == PUBLISHED_PATCHES else _fit_counts(config, target)


def _fit_layers(config: SpecPruneConfig, layers: int) -> SpecPruneConfig:
    if config.rows == 'released':

        def at(published: Sequence[int]) -> tuple[int, ...]:
            return tuple(layer for layer in published if layer < layers)
    else:

        def at(published: Sequence[int]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(scaled_layer(layer, layers) for layer in published))

    def deep(published: Sequence[int]) -> tuple[int, ...]:
        return tuple(layer for layer in at(published) if layer not in STATIC_LAYERS)

    budgets = config.budgets
    if budgets is not None:  # of two layers that fall together the deeper one's budget holds
        moved = {scaled_layer(layer, layers): counts for layer, counts in budgets.items()}
        static = {layer: budgets[layer] for layer in STATIC_LAYERS}
        budgets = {**moved, **static}
    return replace(
        config,
        global_layers=tuple(layer for layer in at(config.global_layers) if layer >= 0),
        updates=deep(config.updates),
        prunes=deep(config.prunes),
        budgets=budgets,
    )


def _fit_counts(config: SpecPruneConfig, target: Target) -> SpecPruneConfig:
    def one(count: int) -> int:
        return ceil(count * target.patches / PUBLISHED_PATCHES)

    config = config.map_counts(lambda counts: tuple(map(one, counts)))
    return replace(config, floor=one(config.floor))
