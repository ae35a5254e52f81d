"""Which rows SpecPrune-VLA looks at, and how its layers fit a decoder of another depth.

Where SpecPrune-VLA acts: presets are written for 32 layers and 256 patches, models differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from torch import Tensor

from ..base import PruningContext, PruningSite, text_positions
from ..layout import Layout, Target
from .config import SpecPruneConfig

Rows = Callable[[Layout], Sequence[int]]
TEXT, GLOBAL, ACTION = 'text', 'global', 'action'
PUBLISHED_LAYERS = 32


def action_rows(layout: Layout) -> range:
    """The action slots."""
    return layout.slot_positions


def released_text_rows(layer: int) -> Rows:
    """The released code's rows after layer 0 or 1.

    Layer 0: without the nine fixed words and the last prompt token; layer 1: one row later. The
    whole prompt where it is shorter than that.
    """
    return partial(_released_window, layer)


def _released_window(layer: int, layout: Layout) -> range:
    prompt = layout.prompt_positions
    window = range(prompt.start + 9 + layer, prompt.stop - 1 + layer)
    return window if len(window) else prompt


def released_global_rows(layout: Layout) -> range:
    """The released code's fixed window: positions 522 ... 546 with two cameras and a state.

    It starts at the ninth prompt token and is 25 rows long, so that with a short prompt it reaches
    into the action slots.
    """
    start = layout.prompt_positions.start + 8
    return range(start, min(start + 25, layout.length))


def scaled_layer(layer: int, layers: int) -> int:
    """The layer at the same share of the depth: 31 is the last one of any decoder."""
    return max(1, round((layer + 1) * layers / PUBLISHED_LAYERS)) - 1


@dataclass(frozen=True)
class Ask:
    """One site, and what each part of its rows is for."""

    layer: int
    parts: tuple[tuple[str, Rows], ...]

    def site(self) -> PruningSite:
        """The site that asks for all parts at once; for none where there are no parts."""
        if not self.parts:
            return PruningSite(self.layer, hidden=False)
        return PruningSite(self.layer, self._rows, hidden=False)

    def _rows(self, layout: Layout) -> list[int]:
        return [p for _, rows in self.parts for p in rows(layout)]

    def split(self, view: PruningContext) -> dict[str, Tensor]:
        """Purpose -> its rows of ``view.attention``, float32 (rows, n)."""
        if not self.parts:
            return {}
        sizes = [len(rows(view.layout)) for _, rows in self.parts]
        parts = view.attention.split(sizes)
        return {name: part for (name, _), part in zip(self.parts, parts, strict=True)}


def text_rows(released: bool, layer: int) -> Rows:
    """Rows of the task's words at layer 0 or 1."""
    return released_text_rows(layer) if released else text_positions


def global_rows(released: bool) -> Rows:
    """Rows that V_global is harvested from."""
    return released_global_rows if released else text_positions


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
