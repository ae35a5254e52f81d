"""The seam between model and pruning: who is asked where, and what is kept.

The language model runs its layers with a ``PruningState`` (:mod:`.forward_state`). At each
:class:`PruningSite` the pruner sees the visual tokens that are left (a :class:`PruningContext`)
and answers with the ids that are kept. Ids are always original ids: 0 .. V-1, camera by camera,
row-major over the patches of a camera. Positions are original positions in the un-pruned sequence;
kept tokens keep theirs, so RoPE sees the gaps.
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

Stage = Callable[[str], AbstractContextManager[object]]
"""Times what runs inside ``with stage(name):``."""
SELECTION = (
    'selection'  # the stage of all work of a pruner: comparing, scoring, choosing, gathering
)


@dataclass(frozen=True)
class PruningSite:
    """A place where a pruner acts.

    :param layer: -1 is before layer 0; l >= 0 is after layer l.
    :param rows: the original positions of the rows that must be seen there, as a function of the
        layout; None where none are needed. Visual positions are allowed while none is dropped.
    :param scores: ``'attention'``: softmax over all keys of the layer that just ran, mean over
        heads (``layer`` >= 0). ``'logits'``: products of queries and keys of the layer that comes
        next, divided by sqrt(d), mean over heads, neither rotated nor normalised (``layer`` below
        the last).
    :param hidden: whether the pruner reads ``PruningContext.hidden`` there.
    """

    layer: int
    rows: Callable[[Layout], Sequence[int]] | None = None
    scores: str = 'attention'
    hidden: bool = True

    @property
    def early(self) -> bool:
        """Whether the choice can be made before the layer's output is computed, which then is
        computed for the kept tokens alone: they see the same keys and values, and nobody sees
        what the others would have become."""
        return self.layer >= 0 and self.scores == 'attention' and not self.hidden

    @property
    def name(self) -> str:
        """``before_L0`` or ``after_L3``, as in timings and reports."""
        return 'before_L0' if self.layer < 0 else f'after_L{self.layer}'


class Selection(NamedTuple):
    """An answer whose size the host knows, so that no one waits for the device to count it.

    :param ids: int64 (n,), ascending, a subset of ``PruningContext.ids``.
    :param kept_per_camera: how many of them each camera has; None where only the device knows.
    :param visible: bool (n,), False for tokens that only fill the bucket: they are masked in every
        layer and reported nowhere. At the last site only.
    """

    ids: Tensor
    kept_per_camera: tuple[int, ...] | None
    visible: Tensor | None = None

    @classmethod
    def of(cls, per_camera: Sequence[Tensor]) -> 'Selection':
        """From the kept ids of each camera, in any order."""
        ids = torch.cat(list(per_camera)).sort().values
        return cls(ids, tuple(len(part) for part in per_camera))


@dataclass(frozen=True, kw_only=True)
class PruningContext:
    """What a pruner sees at a site.

    :param ids: int64 (n,), ascending: original ids of the visual tokens that are left.
    :param hidden: (S', D) residual stream at this site; None where the site does not ask for it.
    :param positions: int64 (S',) original positions of the tokens that are left.
    :param kept_per_camera: how many of ``ids`` each camera has.
    :param attention: float32 (R, n), mean over heads of the site's scores from the asked rows to
        the visual tokens that are left; None where the site asks for none.
    :param all_keys: float32 (R, S' or more), the same scores for every key:
        ``positions`` in order, then the tokens that ``Pruner.cached_kv`` added in that layer.
    :param bucket_size: answer with so many tokens, filled up by some that are not ``visible``;
        None for as many as there are.
    :param memory: what a pruner keeps from site to site of one pass; empty when a pass begins. A
        diffusion head makes several passes per query.
    """

    site: PruningSite
    layout: Layout
    ids: Tensor
    hidden: Tensor | None
    positions: Tensor
    kept_per_camera: tuple[int, ...]
    attention: Tensor | None = None
    all_keys: Tensor | None = None
    bucket_size: int | None = None
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a pruner knows when an inference begins.

    :param model_images: camera -> uint8 (224, 224, 3), what the towers see.
    :param motion: how the end effector moves, None where unknown.
    :param visual: (V, D) projected patch features, before the language model.
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


@dataclass(frozen=True)
class NoOptions:
    """Options of a pruner that has none."""


class Pruner(Stateful, ABC):
    """Decides which visual tokens are kept.

    A subclass sets ``name`` and ``sites``, and writes :meth:`keep`. Everything else has a default.
    What it learns from query to query lives until :meth:`reset`, and is named in ``state_names``.
    One that can be built by name takes ``(options, target)``, a record of ``options_type`` whose
    fields are made by :func:`vla_prune_ros.config.option`, and the :class:`~.layout.Target`.
    """

    name: str
    sites: tuple[PruningSite, ...]
    options_type: type = NoOptions

    capturable = False
    """``keep`` only computes: every answer is None or a :class:`Selection`, shapes follow from the
    mode alone, and state that outlives the pass is kept in tensors that are overwritten in place.
    Such a method can be captured once and replayed (:mod:`vla_prune_ros.engine.graphs`)."""

    bucketed = False
    """The data say how many tokens are kept, at one site before layer 0. Such a capturable method
    has :meth:`count` and heeds ``PruningContext.bucket_size``."""

    history_s = 0.0
    """Seconds of frames that ``Query.history`` must reach back; at 0 no frames are kept."""

    half_resolution = False
    """Frames are compared at half the resolution."""

    @property
    def label(self) -> str:
        """Name for reports, with the preset where there is one."""
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

        Called in every layer, if overridden.

        :param ids: int64 (n,), the visual tokens that are left.
        :param k: (1, kv heads, n, d), their rotated keys; ``v``, their values, alike.
        """
        return None

    def after_pass(self, memory: Mapping[str, Any]) -> None:  # noqa: B027 (most need none)
        """A pass is over. Called on the host with its ``PruningContext.memory``; after a replay,
        with the memory of the pass that was captured."""

    def refresher(self) -> 'Pruner | None':
        """A pruner that keeps everything and harvests what the next query needs, for a pass after
        the chunk is out; None where nothing is to be refreshed."""
        return None

    def report(self) -> Mapping[str, float | int | str]:
        """What the last query decided and why."""
        return {}

    def reset(self) -> None:  # noqa: B027 (most have no state)
        """Forget everything learnt from earlier inferences."""


def text_positions(layout: Layout) -> range:
    """Positions of the task's words; of the whole prompt where it has no such words."""
    return layout.task_positions if len(layout.task_positions) else layout.prompt_positions


MAX_GAP_S = 0.5


class EpisodeMonitor(Stateful):
    """Tells a query that continues an episode from one that does not, whoever calls ``reset``.

    A camera that was silent for more than 0.5 s leaves nothing to compare with. Where only the
    frames of queries are known, the limit is a chunk and a quarter, or twice the time between the
    two queries before, if that is longer: a policy that needs seconds per query is not a silent
    camera.
    """

    state_names = ('_last', '_interval_s')

    def __init__(self, target: Target) -> None:
        self._chunk_s = target.chunk * target.control_period_s
        self.reset()

    def reset(self) -> None:
        self._last: tuple[int, str] | None = None
        self._interval_s = 0.0

    def check(self, query: Query) -> str:
        """Why the query does not continue the last one; empty where it does.

        ``'first'``, ``'new_instruction'``, ``'clock_jump'`` (stamps went back) or
        ``'camera_gap'``.
        """
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
