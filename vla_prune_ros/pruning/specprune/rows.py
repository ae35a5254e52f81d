"""Where SpecPrune-VLA acts, and which attention rows it reads there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..base import PruningContext, PruningSite, text_positions
from ..layout import Layout, Target
from .config import STATIC_LAYERS, SpecPruneConfig

Rows = Callable[[Layout], Sequence[int]]
TEXT, GLOBAL, ACTION = 'text', 'global', 'action'


def action_rows(layout: Layout) -> range:
    return layout.slot_positions


def released_text_rows(layer: int, layout: Layout) -> range:
    """The released code's rows after layer 0 (no fixed words, no last prompt token) or 1 (one row
    later).

    The complete prompt where it is shorter than that.
    """
    prompt = layout.prompt_positions
    window = range(prompt.start + 9 + layer, prompt.stop - 1 + layer)
    return window if len(window) else prompt


def released_global_rows(layout: Layout) -> range:
    """The released code's fixed window: positions 522 ... 546 with two cameras and a state.

    With a short prompt it reaches into the action slots.
    """
    start = layout.prompt_positions.start + 8
    return range(start, min(start + 25, layout.length))


@dataclass(frozen=True)
class AttentionRequest:
    """One site, and what each part of its rows is for: (purpose, rows)."""

    layer: int
    parts: tuple[tuple[str, Rows], ...]

    def site(self) -> PruningSite:
        return PruningSite(self.layer, self._rows if self.parts else None, hidden=False)

    def _rows(self, layout: Layout) -> list[int]:
        return [p for _, rows in self.parts for p in rows(layout)]

    def split(self, context: PruningContext) -> dict[str, Tensor]:
        if not self.parts:
            return {}
        sizes = [len(rows(context.layout)) for _, rows in self.parts]
        parts = context.attention.split(sizes)
        return {name: part for (name, _), part in zip(self.parts, parts, strict=True)}


def global_rows(config: SpecPruneConfig) -> Rows:
    return released_global_rows if config.rows == 'released' else text_positions


def plan_sites(config: SpecPruneConfig, target: Target) -> dict[int, AttentionRequest]:
    parts: dict[int, list[tuple[str, Rows]]] = {}
    for layer in STATIC_LAYERS:
        if layer < target.layers:
            released = config.rows == 'released'
            rows = partial(released_text_rows, layer) if released else text_positions
            parts.setdefault(layer, []).append((TEXT, rows))
    for layer in config.updates:
        parts.setdefault(layer, []).append((ACTION, action_rows))
    if not config.global_dense:
        for layer in config.global_layers:
            parts.setdefault(layer, []).append((GLOBAL, global_rows(config)))
    for layer in config.prunes:
        parts.setdefault(layer, [])
    return {layer: AttentionRequest(layer, tuple(parts[layer])) for layer in sorted(parts)}


def harvest_sites(config: SpecPruneConfig) -> dict[int, AttentionRequest]:
    rows = global_rows(config)
    return {layer: AttentionRequest(layer, ((GLOBAL, rows),)) for layer in config.global_layers}
