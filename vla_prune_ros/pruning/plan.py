"""The seam between model and pruning: who is asked where, and what is gathered.

The language model walks its layers with a :class:`PruningPass`. At each :class:`Site` the pruner
sees the visual tokens that are still there (a :class:`SiteView`) and answers with the ids that
stay. Ids are always original ids: 0 .. V-1, camera by camera, row-major over the patches of a
camera. Positions are original positions in the un-pruned sequence; survivors keep theirs, so RoPE
sees the gaps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import ProfileError
from ..records import MotionHint

# 'In: What action should the robot take to' behind BOS; '? \\n Out : _' behind the task words
# (reference tokenisation of the published prompt).
PREFIX_TOKENS = 10
SUFFIX_TOKENS = 5


@dataclass(frozen=True)
class Layout:
    """Where everything is: ``[BOS | visual | proprio | time | prompt | slots | stop]``.

    :param cameras: camera names in model order.
    :param patches: visual tokens per camera.
    :param proprio: 1 with a proprioception token, else 0.
    :param prompt: number of prompt ids, BOS included.
    :param slots: action slots, K * D.
    :param time: 1 with the time token of a diffusion head, else 0.
    """

    cameras: tuple[str, ...]
    patches: int
    proprio: int
    prompt: int
    slots: int
    time: int = 0

    @property
    def visual(self) -> int:
        """Number of visual tokens V before pruning."""
        return self.patches * len(self.cameras)

    @property
    def length(self) -> int:
        """Length S of the un-pruned sequence."""
        return self.visual + self.proprio + self.time + self.prompt + self.slots + 1

    @property
    def prompt_positions(self) -> range:
        """Positions of the prompt ids behind BOS."""
        start = 1 + self.visual + self.proprio + self.time
        return range(start, start + self.prompt - 1)

    @property
    def task_positions(self) -> range:
        """Positions of the words of the task, without the fixed words of the prompt."""
        start = self.visual + self.proprio + self.time + PREFIX_TOKENS
        return range(start, start + max(0, self.prompt - PREFIX_TOKENS - SUFFIX_TOKENS))

    @property
    def slot_positions(self) -> range:
        """Positions of the action slots."""
        start = self.prompt_positions.stop
        return range(start, start + self.slots)

    @property
    def readout_positions(self) -> range:
        """Positions whose hidden states the action head reads: one before each slot."""
        return range(self.slot_positions.start - 1, self.slot_positions.stop - 1)

    def camera_masks(self, ids: Tensor) -> dict[str, np.ndarray]:
        """Camera -> bool (patches,) that marks the given original ids."""
        mask = np.zeros(self.visual, dtype=bool)
        mask[ids.cpu().numpy()] = True
        return {
            c: mask[i * self.patches : (i + 1) * self.patches] for i, c in enumerate(self.cameras)
        }


@dataclass(frozen=True)
class Site:
    """A place where a pruner acts.

    :param layer: -1 is before layer 0; l >= 0 is after layer l.
    :param rows: the original positions of the attention rows that must be seen there, as a
        function of the layout (only for ``layer`` >= 0); None where no attention is needed. Rows
        are never visual.
    """

    layer: int
    rows: Callable[[Layout], Sequence[int]] | None = None

    @property
    def name(self) -> str:
        """``before_L0`` or ``after_L3``, as in timings and reports."""
        return 'before_L0' if self.layer < 0 else f'after_L{self.layer}'


@dataclass(frozen=True)
class SiteView:
    """What a pruner sees at a site.

    :param ids: int64 (n,), ascending: original ids of the visual tokens that are still there.
    :param hidden: (S', D) residual stream of every surviving token at this site.
    :param positions: int64 (S',) original positions of the rows of ``hidden``.
    :param attention: float32 (R, n), mean over heads of the layer's attention from the asked rows
        to the surviving visual tokens (softmax over all keys); None where the site asks for none.
    """

    site: Site
    layout: Layout
    ids: Tensor
    hidden: Tensor
    positions: Tensor
    attention: Tensor | None = None


@dataclass(frozen=True)
class Query:
    """What a pruner is told when an inference begins.

    :param model_images: camera -> uint8 (224, 224, 3), what the towers see.
    :param motion: how the end effector moves, None where unknown.
    """

    layout: Layout
    model_images: Mapping[str, np.ndarray]
    instruction: str
    stamp_ns: int
    motion: MotionHint | None = None


class Pruner(Protocol):
    """Decides which visual tokens stay. State, if any, lives between ``reset`` calls."""

    name: str
    sites: tuple[Site, ...]

    def begin(self, query: Query) -> str:
        """Start an inference; returns the mode: ``'dense'``, ``'coarse'`` or ``'fine'``."""

    def keep(self, view: SiteView) -> Tensor | None:
        """Original ids that stay, a subset of ``view.ids``; None keeps all."""

    def reset(self) -> None:
        """Forget everything learnt from earlier inferences."""


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


@dataclass
class PruningPass:
    """One walk through the layers: which tokens are left, and what each site decided.

    :param positions: int64 (S',) original positions that are left.
    :param kept_by_site: site name -> int64 (n,) original visual ids that were left behind it.
    """

    layout: Layout
    pruner: Pruner
    positions: Tensor
    kept_by_site: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sites = {site.layer: site for site in self.pruner.sites}
        self._ids = torch.arange(self.layout.visual, device=self.positions.device)

    @property
    def ids(self) -> Tensor:
        """int64 (n,), ascending: original ids of the visual tokens that are left."""
        return self._ids

    def site_after(self, layer: int) -> Site | None:
        """The site behind ``layer`` (-1: before layer 0), if the pruner has one there."""
        return self._sites.get(layer)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """Rows of the current sequence that hold the given original, non-visual positions."""
        gone = self.layout.visual - len(self._ids)
        first = 1 + self.layout.visual
        rows = [p - gone if p >= first else p for p in positions]
        return torch.tensor(rows, dtype=torch.long, device=self.positions.device)

    def decide(self, site: Site, hidden: Tensor, attention: Tensor | None = None) -> Tensor | None:
        """Ask the pruner at ``site``; returns the rows (S'',) of the sequence that stay, None for
        all.

        :param hidden: (1, S', D).
        :param attention: float32 (R, S') or None.
        """
        n = len(self._ids)
        seen = None if attention is None else attention[:, 1 : 1 + n]
        view = SiteView(site, self.layout, self._ids, hidden[0], self.positions, seen)
        answer = self.pruner.keep(view)
        if answer is None:
            self.kept_by_site[site.name] = self._ids
            return None
        kept = check_survivors(answer, self._ids, site)
        at = torch.searchsorted(self._ids, kept)
        rest = torch.arange(1 + n, len(self.positions), device=kept.device)
        stay = torch.cat([at.new_zeros(1), at + 1, rest])
        self._ids = kept
        self.positions = self.positions[stay]
        self.kept_by_site[site.name] = kept
        return stay
