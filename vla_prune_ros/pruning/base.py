"""The seam between model and pruning.

At each :class:`PruningSite` of a forward pass (:mod:`.forward_state`) the pruner sees the visual
tokens kept so far and answers with those that it keeps. Ids are original: 0 .. V-1, camera by
camera, row-major. Positions are those of the un-pruned sequence, so that RoPE sees the gaps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..records import MotionHint
from .frames import FrameHistory
from .layout import Layout, Target
from .state import Stateful

Rows = Callable[[Layout], Sequence[int]]  # original positions of rows of attention
Stage = Callable[[str], AbstractContextManager[object]]  # times what runs in `with stage(name):`
SELECTION = 'selection'  # stage of all work of a pruner: comparing, scoring, choosing, gathering


@dataclass(frozen=True)
class PruningSite:
    """A place where a pruner acts. ``scores`` are means over heads; ``'attention'``: softmax over
    all keys of the layer that just ran; ``'logits'``: products of queries and keys of the layer
    that comes next, over sqrt(d), neither rotated nor normalised."""

    layer: int  # -1 is before layer 0; l >= 0 is after layer l
    rows: Rows | None = None  # that the pruner needs; visual ones while none is dropped
    scores: str = 'attention'
    hidden: bool = True  # whether the pruner reads PruningContext.hidden there

    @property
    def early(self) -> bool:
        """Whether to choose before the layer's output is computed, which then is computed for the
        kept tokens alone: they see the same keys and values."""
        return self.layer >= 0 and self.scores == 'attention' and not self.hidden

    @property
    def name(self) -> str:
        return 'before_L0' if self.layer < 0 else f'after_L{self.layer}'


@dataclass(frozen=True)
class AttentionRequest:
    """A site, and its rows by what they are for."""

    layer: int
    parts: Mapping[str, Rows]
    hidden: bool = False

    def site(self) -> PruningSite:
        return PruningSite(self.layer, self._rows if self.parts else None, hidden=self.hidden)

    def _rows(self, layout: Layout) -> list[int]:
        return [p for rows in self.parts.values() for p in rows(layout)]

    def split(self, context: 'PruningContext') -> dict[str, Tensor]:
        if not self.parts:
            return {}
        sizes = [len(rows(context.layout)) for rows in self.parts.values()]
        return dict(zip(self.parts, context.attention.split(sizes), strict=True))


class Selection(NamedTuple):
    """An answer whose size the host knows, so that no one waits for the device to count it."""

    ids: Tensor  # int64 (n,), ascending, a subset of PruningContext.ids
    kept_per_camera: tuple[int, ...] | None  # None: only the device knows
    # bool (n,), at the last site only: False for tokens that only fill the bucket. They are masked
    # in every layer and reported nowhere.
    visible: Tensor | None = None

    @classmethod
    def of(cls, per_camera: Sequence[Tensor]) -> 'Selection':
        """From the kept ids of each camera, in any order."""
        ids = torch.cat(list(per_camera)).sort().values
        return cls(ids, tuple(len(part) for part in per_camera))


@dataclass(frozen=True, kw_only=True)
class PruningContext:
    """What a pruner sees at a site; n visual tokens of a sequence of S' are kept so far."""

    site: PruningSite
    layout: Layout
    ids: Tensor  # int64 (n,), ascending original ids of the visual tokens
    hidden: Tensor | None  # (S', D) residual stream; None where the site does not ask for it
    positions: Tensor  # int64 (S',), original positions
    kept_per_camera: tuple[int, ...]
    attention: Tensor | None = None  # float32 (R, n), scores from the site's rows
    # float32 (R, S' or more), the same of every key: positions in order, then those of cached_kv.
    all_keys: Tensor | None = None
    bucket_size: int | None = None  # answer with so many tokens, some of them not visible
    # From site to site of one pass, of which a diffusion head makes several per query.
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a pruner knows when an inference begins."""

    layout: Layout
    model_images: Mapping[str, np.ndarray]  # camera -> uint8 (224, 224, 3), what the towers see
    instruction: str
    stamp_ns: int
    motion: MotionHint | None = None
    visual: Tensor | None = None  # (V, D) projected patch features, before the language model
    history: FrameHistory | None = None  # frames of the episode, the present ones included
    # Camera -> uint8 (S, S, 3), the present frames as the history keeps them; None: model_images.
    frames: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class NoOptions:
    """Options of a pruner that has none."""


class Pruner(Stateful, ABC):
    """Decides which visual tokens are kept.

    A subclass sets ``name`` and ``sites``, and writes :meth:`keep`. What it learns from query to
    query lives until :meth:`reset` and is named in ``state_names``. The registry builds it with
    ``(options, target)``, a record of ``options_type`` and the :class:`~.layout.Target`.
    """

    name: str
    sites: tuple[PruningSite, ...]
    options_type: type = NoOptions

    # `keep` only computes: every answer is None or a Selection, shapes follow from the mode alone,
    # and state that outlives the pass is kept in tensors that are overwritten in place. Such a
    # method can be captured once and replayed (engine/graphs.py).
    capturable = False
    # The data say how many tokens are kept, at one site before layer 0. Such a capturable method
    # has `count` and heeds `PruningContext.bucket_size`.
    bucketed = False
    history_s = 0.0  # seconds that Query.history must reach back; at 0 no frames are kept
    half_resolution = False  # frames are compared at half the resolution

    @property
    def label(self) -> str:
        return self.name

    def begin(self, query: Query) -> str:
        """Start an inference; returns the mode: ``'dense'``, ``'coarse'`` or ``'fine'``."""
        return 'coarse'

    @abstractmethod
    def keep(self, context: PruningContext) -> 'Tensor | Selection | None':
        """Original ids that are kept, a subset of ``context.ids``; None keeps all."""

    def count(self, context: PruningContext) -> Tensor:
        """How many tokens :meth:`keep` would keep, on the device: int64 (). ``bucketed`` only."""
        raise NotImplementedError(f'{self.name} is bucketed and has no count')

    def cached_kv(
        self, layer: int, ids: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Keys and values of dropped tokens that are still attended to: (1, kv heads, m, d) each.
        Called in every layer, if overridden, with those of the kept ``ids``, keys rotated."""
        return None

    def after_pass(self, memory: Mapping[str, Any]) -> None:  # noqa: B027 (most need none)
        """On the host, with ``PruningContext.memory``; after a replay, that of the capture."""

    def refresher(self) -> 'Pruner | None':
        """Keeps everything and harvests what the next query needs, after the chunk is out."""
        return None

    def report(self) -> Mapping[str, float | int | str]:
        """What the last query decided and why."""
        return {}

    def reset(self) -> None:  # noqa: B027 (most have no state)
        """Forget all earlier inferences."""


def text_positions(layout: Layout) -> range:
    """Positions of the task's words; of the whole prompt where it has no such words."""
    return layout.task_positions if len(layout.task_positions) else layout.prompt_positions


MAX_GAP_S = 0.5


class EpisodeMonitor(Stateful):
    """Tells a query that continues an episode from one that does not. Where only frames of queries
    are known, a gap is more than a chunk and a quarter and twice the time between the two before:
    a slow policy is not a silent camera."""

    state_names = ('_last', '_interval_s')

    def __init__(self, target: Target) -> None:
        self._chunk_s = target.chunk * target.control_period_s
        self.reset()

    def reset(self) -> None:
        self._last: tuple[int, str] | None = None
        self._interval_s = 0.0

    def check(self, query: Query) -> str:
        """Why the query does not continue the last one: ``'first'``, ``'new_instruction'``,
        ``'clock_jump'`` (stamps went back) or ``'camera_gap'``; empty where it does."""
        last, self._last = self._last, (query.stamp_ns, query.instruction)
        gap_s, limit_s = self._gap(query, last)
        if last is None:
            return 'first'
        if query.instruction != last[1]:
            return 'new_instruction'
        if query.stamp_ns < last[0]:
            return 'clock_jump'
        return 'camera_gap' if gap_s > limit_s else ''

    def _gap(self, query: Query, last: tuple[int, str] | None) -> tuple[float, float]:
        gap_ns = 0 if query.history is None else query.history.take_gap_ns()
        if query.history is not None and query.history.watched:
            return 1e-9 * gap_ns, MAX_GAP_S
        before, self._interval_s = self._interval_s, 0.0
        if last is not None:
            self._interval_s = 1e-9 * (query.stamp_ns - last[0])
        return self._interval_s, max(MAX_GAP_S, 1.25 * self._chunk_s, 2.0 * before)
