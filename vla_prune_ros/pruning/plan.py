"""The seam between model and pruning: who is asked where, and what is gathered.

The language model walks its layers with a :class:`PruningPass`. At each :class:`Site` the pruner
sees the visual tokens that are still there (a :class:`SiteView`) and answers with the ids that
stay. Ids are always original ids: 0 .. V-1, camera by camera, row-major over the patches of a
camera. Positions are original positions in the un-pruned sequence; survivors keep theirs, so RoPE
sees the gaps.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import ProfileError
from ..records import MotionHint
from .frames import FrameHistory
from .layout import Layout

Stage = Callable[[str], AbstractContextManager[object]]
"""Times what runs inside ``with stage(name):``."""
SELECTION = 'selection'
"""The stage that holds all work of a pruner: comparison, scores, choice, gathering, harvest."""


@dataclass(frozen=True)
class Site:
    """A place where a pruner acts.

    :param layer: -1 is before layer 0; l >= 0 is after layer l.
    :param rows: the original positions of the rows that must be seen there, as a function of the
        layout; None where none are needed. Visual positions are allowed while none is dropped.
    :param scores: ``'attention'``: softmax over all keys of the layer that just ran, mean over
        heads (``layer`` >= 0). ``'logits'``: products of queries and keys of the layer that comes
        next, divided by sqrt(d), mean over heads, neither rotated nor normalised (``layer`` below
        the last).
    """

    layer: int
    rows: Callable[[Layout], Sequence[int]] | None = None
    scores: str = 'attention'

    @property
    def name(self) -> str:
        """``before_L0`` or ``after_L3``, as in timings and reports."""
        return 'before_L0' if self.layer < 0 else f'after_L{self.layer}'


class Chosen(NamedTuple):
    """An answer whose size the host knows, so that no one waits for the device to count it.

    :param ids: int64 (n,), ascending, a subset of ``SiteView.ids``.
    :param left: how many of them each camera has; None where only the device knows.
    :param seen: bool (n,), False for tokens that only fill up to the size that was asked for: no
        row sees them in any layer, and nobody is told that they are there. At the last site only.
    """

    ids: Tensor
    left: tuple[int, ...] | None
    seen: Tensor | None = None

    @classmethod
    def of(cls, per_camera: Sequence[Tensor]) -> 'Chosen':
        """From the ids that stay of each camera, in any order."""
        ids = torch.cat(list(per_camera)).sort().values
        return cls(ids, tuple(len(part) for part in per_camera))


@dataclass(frozen=True)
class SiteView:
    """What a pruner sees at a site.

    :param ids: int64 (n,), ascending: original ids of the visual tokens that are still there.
    :param hidden: (S', D) residual stream of every surviving token at this site.
    :param positions: int64 (S',) original positions of the rows of ``hidden``.
    :param left: how many of ``ids`` each camera has.
    :param attention: float32 (R, n), mean over heads of the site's scores from the asked rows to
        the surviving visual tokens; None where the site asks for none.
    :param size: answer with so many tokens, filled up by some that are not ``seen``; None for as
        many as there are.
    :param all_keys: float32 (R, S' or more), the same scores for every key: the rows of
        ``hidden`` in order, then the tokens that the pruner's ``reuse`` showed in that layer.
    :param memory: what a pruner keeps from site to site of one pass; empty when a pass begins. A
        diffusion head makes several passes per query.
    """

    site: Site
    layout: Layout
    ids: Tensor
    hidden: Tensor
    positions: Tensor
    left: tuple[int, ...]
    attention: Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    all_keys: Tensor | None = None
    size: int | None = None


@dataclass(frozen=True)
class Query:
    """What a pruner is told when an inference begins.

    :param model_images: camera -> uint8 (224, 224, 3), what the towers see.
    :param visual: (V, D) projected patch features, before the language model.
    :param motion: how the end effector moves, None where unknown.
    :param history: frames of the episode, the present ones included; None where none are kept.
    :param frames: camera -> uint8 (S, S, 3), the present frames as the history keeps them; None
        for ``model_images``.
    """

    layout: Layout
    model_images: Mapping[str, np.ndarray]
    instruction: str
    stamp_ns: int
    motion: MotionHint | None = None
    visual: Tensor | None = None
    history: FrameHistory | None = None
    frames: Mapping[str, np.ndarray] | None = None


class Pruner(Protocol):
    """Decides which visual tokens stay. State, if any, lives between ``reset`` calls.

    Optional attributes, found by name:

    - ``static: bool``: True where ``keep`` only computes: every answer is None or a
      :class:`Chosen`, shapes follow from the mode alone, and state that lives beyond the pass is
      kept in tensors that are overwritten in place. Such a method can be captured once and
      replayed (``engine/program.py``).
    - ``counted: bool``: True where the data say how many tokens stay, at one site before layer 0.
      Such a static method has ``count(view) -> Tensor``, that number on the device, and heeds
      ``SiteView.size``.
    - ``learn(memory) -> None``: called on the host when a pass is over, with its
      ``SiteView.memory``; after a replay, with the memory of the pass that was captured.
    - ``look_back_s: float``: seconds of frames that ``Query.history`` must reach back; without it,
      or at 0, no frames are kept.
    - ``halved: bool``: True where frames are compared at half the resolution.
    - ``report() -> Mapping[str, float | int | str]``: what the last query decided and why.
    - ``reuse(layer, ids, k, v) -> (k, v) | None``: called in every layer with the rotated keys
      and values (1, kv heads, n, d) of the visual tokens ``ids`` that are left; answers keys and
      values (1, kv heads, m, d) of tokens that are gone but still seen, or None.
    - ``refresher() -> Pruner | None``: a pruner that keeps everything and harvests what the next
      query needs, for a pass after the chunk is out; None where nothing is to be refreshed.
    """

    name: str
    sites: tuple[Site, ...]

    def begin(self, query: Query) -> str:
        """Start an inference; returns the mode: ``'dense'``, ``'coarse'`` or ``'fine'``."""

    def keep(self, view: SiteView) -> 'Tensor | Chosen | None':
        """Original ids that stay, a subset of ``view.ids``; None keeps all."""

    def reset(self) -> None:
        """Forget everything learnt from earlier inferences."""


def text_positions(layout: Layout) -> range:
    """Positions of the words of the task; of the whole prompt where it has no such words."""
    return layout.task_positions if len(layout.task_positions) else layout.prompt_positions


def check_survivors(ids: Tensor, alive: Tensor, site: Site) -> Tensor:
    """The answer of a pruner, ascending, or a refusal.

    :raises ProfileError: ids repeat or name tokens that are gone: a fault of the pruner.
    """
    ordered = ids.sort().values
    repeated = bool((ordered[1:] == ordered[:-1]).any()) if len(ordered) > 1 else False
    if repeated or not bool(torch.isin(ordered, alive).all()):
        raise ProfileError(
            f'pruner answered ids at {site.name} that repeat or are gone',
            'a pruner returns a subset of view.ids, each once',
        )
    return ordered


@lru_cache(maxsize=256)
def _on_device(rows: tuple[int, ...], device: torch.device, inference: bool) -> Tensor:
    """Row numbers as a tensor: made once, since a copy to a device cannot be captured.

    :param inference: whether it may be a tensor that no gradient passes through.
    """
    return torch.tensor(rows, dtype=torch.long, device=device)


@dataclass
class PruningPass:
    """One walk through the layers: which tokens are left, and what each site decided.

    :param positions: int64 (S',) original positions that are left.
    :param checked: whether answers are held against what is left, for which the host waits.
    :param size: see :class:`SiteView`.
    :param kept_by_site: site name -> int64 (n,) original visual ids that were left behind it.
    """

    layout: Layout
    pruner: Pruner
    positions: Tensor
    checked: bool = True
    size: int | None = None
    kept_by_site: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sites = {site.layer: site for site in self.pruner.sites}
        self._memory: dict[str, Any] = {}
        self._reuse = getattr(self.pruner, 'reuse', None)
        self._ids = torch.arange(self.layout.visual, device=self.positions.device)
        self._left: tuple[int, ...] | None = (self.layout.patches,) * len(self.layout.cameras)
        self.seen: Tensor | None = None
        self.bias: Tensor | None = None

    @property
    def ids(self) -> Tensor:
        """int64 (n,), ascending: original ids of the visual tokens that are left."""
        return self._ids

    @property
    def left(self) -> tuple[int, ...]:
        """How many of :attr:`ids` each camera has; the host waits where nobody told it."""
        if self._left is None:
            camera = self._ids // self.layout.patches
            counts = torch.bincount(camera, minlength=len(self.layout.cameras))
            self._left = tuple(counts.tolist())
        return self._left

    def survivors(self) -> dict[str, Tensor]:
        """``kept_by_site`` without tokens that only fill up a size; the host waits for it."""
        if self.seen is None:
            return self.kept_by_site
        *before, last = self.kept_by_site
        return {
            **{site: self.kept_by_site[site] for site in before},
            last: self.kept_by_site[last][self.seen],
        }

    def site_after(self, layer: int) -> Site | None:
        """The site behind ``layer`` (-1: before layer 0), if the pruner has one there."""
        return self._sites.get(layer)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Rows of the current sequence that hold the given original positions.

        :raises ProfileError: a visual position is asked for after tokens were dropped.
        """
        gone = self.layout.visual - len(self._ids)
        first = 1 + self.layout.visual
        if gone and any(0 < p < first for p in positions):
            raise ProfileError(
                'rows of visual tokens are asked for after some were dropped',
                'ask for them at the first site only',
            )
        rows = [p - gone if p >= first else p for p in positions]
        return _on_device(tuple(rows), self.positions.device, torch.is_inference_mode_enabled())

    @property
    def reuses(self) -> bool:
        """True where the pruner shows keys and values of tokens that are gone."""
        return self._reuse is not None

    def reused(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``layer``, with those of gone tokens that a pruner still shows.

        :param k: (1, kv heads, S', d), rotated.
        :returns: (1, kv heads, S' + m, d) each; the added ones come last.
        """
        seen = slice(1, 1 + len(self._ids))
        more = self._reuse(layer, self._ids, k[:, :, seen], v[:, :, seen])
        if more is None:
            return k, v
        return torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)

    def decide(self, site: Site, hidden: Tensor, attention: Tensor | None = None) -> Tensor | None:
        """Ask the pruner at ``site``; returns the rows (S'',) of the sequence that stay, None for
        all.

        :param hidden: (1, S', D).
        :param attention: float32 (R, S' or more) or None.
        """
        n = len(self._ids)
        answer = self.pruner.keep(self.view(site, hidden, attention))
        if answer is None:
            self.kept_by_site[site.name] = self._ids
            return None
        kept = self._accept(answer, site)
        at = torch.searchsorted(self._ids, kept)
        rest = torch.arange(1 + n, len(self.positions), device=kept.device)
        stay = torch.cat([at.new_zeros(1), at + 1, rest])
        self._ids = kept
        self.positions = self.positions[stay]
        self.kept_by_site[site.name] = kept
        if isinstance(answer, Chosen) and answer.seen is not None:
            self._hide(answer.seen, len(rest), hidden.dtype)
        return stay

    def view(self, site: Site, hidden: Tensor, attention: Tensor | None = None) -> SiteView:
        """What the pruner sees at ``site``; parameters as for :meth:`decide`.

        :raises ProfileError: a site before it was filled up.
        """
        if self.seen is not None:
            raise ProfileError(
                f'{site.name} comes after a site that was filled up to a size',
                'choose at one site only',
            )
        seen = None if attention is None else attention[:, 1 : 1 + len(self._ids)]
        return SiteView(
            site,
            self.layout,
            self._ids,
            hidden[0],
            self.positions,
            self.left,
            seen,
            self._memory,
            attention,
            self.size,
        )

    def finish(self) -> None:
        """Tell the pruner that the pass is over."""
        learn = getattr(self.pruner, 'learn', None)
        if learn is not None:
            learn(self._memory)

    def _accept(self, answer: 'Tensor | Chosen', site: Site) -> Tensor:
        known = isinstance(answer, Chosen)
        self._left = answer.left if known else None
        ids = answer.ids if known else answer
        return check_survivors(ids, self._ids, site) if self.checked else ids

    def _hide(self, seen: Tensor, rest: int, dtype: torch.dtype) -> None:
        """No row sees the visual tokens that are not ``seen``: (1, 1, 1, S') for the logits."""
        visible = torch.cat([seen.new_ones(1), seen, seen.new_ones(rest)])
        logits = torch.zeros(len(visible), dtype=dtype, device=seen.device)
        self.seen = seen
        self.bias = logits.masked_fill(~visible, -torch.inf)[None, None, None]
