"""VLA-ADP: prune by the words of the task, but only while the arm travels."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...config import Above, option
from ...errors import ProfileError
from ..base import EpisodeMonitor, Pruner, PruningContext, PruningSite, Query, Selection
from ..layout import Layout, Target
from ..modes import COARSE, DENSE
from ..selection import Budget, budgets, per_camera, select_best
from ..state import Stateful

RATIO, SPLIT = 0.5, (0.4, 0.6)


@dataclass(frozen=True)
class VlaAdpOptions:
    budget: Budget = option(
        None,
        'visual tokens per camera that are kept where a query is pruned; none: by keep_ratio and '
        'split',
        low=1,
    )
    keep_ratio: float | None = option(
        None, 'ratio of all visual tokens that is kept; none: 0.5', low=Above(0), high=1
    )
    split: float | tuple[float, ...] | None = option(
        None, 'weights of the cameras, the last for all further ones; none: 0.4, 0.6', low=Above(0)
    )
    window: int = option(3, 'displacements that the gate compares', low=2, high=10**6)
    max_pruned: int = option(3, 'pruned queries in a row before one that sees everything', low=1)


def all_text(layout: Layout) -> list[int]:
    return [0, *layout.prompt_positions, layout.length - 1]


def split_budget(
    keep_ratio: float, split: Sequence[float], cameras: int, patches: int
) -> tuple[int, ...]:
    """Tokens per camera as the released code deals them out: the total is rounded, each camera
    gets its rounded part and at least 1; what is missing or too much is settled one by one,
    cameras of larger weight first; what a full camera cannot hold goes to the others. The last
    weight is divided among all further cameras."""
    total = max(1, round(keep_ratio * cameras * patches))
    *head, last = split[:cameras]
    rest = cameras - len(head)
    given = head + [last / rest] * rest
    counts = [max(1, round(total * (w / sum(given)))) for w in given]
    for camera in sorted(range(cameras), key=lambda i: -given[i]) * patches:
        step = (total > sum(counts)) - (total < sum(counts))
        counts[camera] = max(1, counts[camera] + step)
    surplus = sum(max(0, count - patches) for count in counts)
    counts = [min(count, patches) for count in counts]
    for camera in sorted(range(cameras), key=lambda i: -given[i]):
        more = min(surplus, patches - counts[camera])
        counts[camera] += more
        surplus -= more
    return tuple(counts)


class MotionGate(Stateful):
    """Prune while the end effector moves as far as in the windows before, at rest too; see
    everything when it moves less than in all of them, and after ``max_pruned`` pruned queries."""

    state_names = ('_moved', 'streak')

    def __init__(self, window: int = 3, max_pruned: int = 3) -> None:
        self._max_pruned = max_pruned
        self._moved: deque[float] = deque(maxlen=window - 1)
        self.streak = 0

    def reset(self) -> None:
        self._moved.clear()
        self.streak = 0

    def step(self, displacement_m: float | None) -> tuple[bool, str]:
        """Whether the next query is pruned, and why. None: the windows before are forgotten."""
        prune, why = self._compare(displacement_m)
        if prune and self.streak >= self._max_pruned:
            prune, why = False, 'refresh'
        self.streak = self.streak + 1 if prune else 0
        return prune, why

    def _compare(self, displacement_m: float | None) -> tuple[bool, str]:
        before = list(self._moved)
        if displacement_m is None:
            self._moved.clear()
            return False, 'no_motion'
        self._moved.append(displacement_m)
        if len(before) < self._moved.maxlen:
            return False, 'filling'
        if displacement_m >= max(before):
            return True, 'fast'
        return (False, 'slow') if displacement_m < min(before) else (True, 'between')


class VlaAdp(Pruner):
    """VLA-ADP (arXiv 2509.22093): text-driven selection before layer 0 behind a motion gate.

    A token's score is the product of keys and queries that layer 0 would form, mean over heads and
    all text tokens, neither rotated nor normalised, as released. Ours: kept tokens have their
    original positions (the released code closes the gaps, the likely cause of its loss, arXiv
    2610.08133); the displacement is speed times the time since the previous query, at most one
    chunk.
    """

    name = 'vla_adp'
    options_type = VlaAdpOptions
    state_names = ('_monitor', '_gate', '_last_ns')
    capturable = True
    sites = (PruningSite(-1, all_text, scores='logits'),)

    def __init__(self, options: VlaAdpOptions, target: Target) -> None:
        budget = options.budget
        if budget is None:
            split = SPLIT
            if options.split is not None:
                split = per_camera(self.name, 'split', options.split, target)
            ratio = options.keep_ratio or RATIO
            budget = split_budget(ratio, split, len(target.cameras), target.patches)
        elif options.keep_ratio is not None or options.split is not None:
            raise ProfileError(
                'vla_adp: budget is given with keep_ratio or split',
                'give either the tokens per camera or a ratio of them',
            )
        self.budget = budgets(self.name, budget, target)
        self._chunk_s = target.chunk * target.control_period_s
        self._monitor = EpisodeMonitor(target)
        self._gate = MotionGate(options.window, options.max_pruned)
        self.reset()

    def begin(self, query: Query) -> str:
        why = self._monitor.check(query)
        moved_m = None
        # A pause in the stream is no new episode here: only the last chunk's motion counts.
        if why and why != 'camera_gap':
            self._gate.reset()
            self._prune = False
        else:
            moved_m = self._displacement_m(query)
            self._prune, why = self._gate.step(moved_m)
        self._last_ns = query.stamp_ns
        self._report = {'reason': why, 'pruned_in_a_row': self._gate.streak}
        if moved_m is not None:
            self._report.update(displacement_m=moved_m, motion=query.motion.source)
        elif why == 'no_motion':
            self._report['motion'] = 'unknown'
        return COARSE if self._prune else DENSE

    def keep(self, context: PruningContext) -> Selection | None:
        if not self._prune:
            return None
        return select_best(context, context.attention.mean(dim=0), self.budget)

    def reset(self) -> None:
        self._monitor.reset()
        self._gate.reset()
        self._prune = False
        self._last_ns = 0
        self._report: dict[str, float | int | str] = {'reason': 'first', 'pruned_in_a_row': 0}

    def report(self) -> dict[str, float | int | str]:
        return dict(self._report)

    def _displacement_m(self, query: Query) -> float | None:
        motion = query.motion
        if motion is None or not math.isfinite(motion.linear_m_s) or motion.linear_m_s < 0:
            return None
        stamped = query.stamp_ns or self._last_ns
        since_s = 1e-9 * (query.stamp_ns - self._last_ns) if stamped else self._chunk_s
        return motion.linear_m_s * min(since_s, self._chunk_s)
