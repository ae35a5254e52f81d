"""Which rows SpecPrune-VLA looks at, and how its layers fit a decoder of another depth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from .layout import Layout
from .plan import Site, SiteView, text_positions

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

    def site(self) -> Site:
        """The site that asks for all parts at once; for none where there are no parts."""
        if not self.parts:
            return Site(self.layer, hidden=False)
        return Site(self.layer, self._rows, hidden=False)

    def _rows(self, layout: Layout) -> list[int]:
        return [p for _, rows in self.parts for p in rows(layout)]

    def split(self, view: SiteView) -> dict[str, Tensor]:
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
