"""Which step of a chunk is due now, and the gripper's latch: the timing half of the executor.
A chunk is computed from images that are already old when it arrives. Its steps carry absolute
times, so the executor skips what is past instead of replaying it late."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..errors import ActionRefused, ProfileError
from ..records import ActionChunk

FREE, SYNCHRONOUS = 'free', 'synchronous'
STEPPING = (FREE, SYNCHRONOUS)
"""Of the parameter ``stepping``, which simulator, policy and executor share.

``free``: the simulator steps on whatever the others do, as a robot would. ``synchronous``: time
stands still until the command of its present instant is in, so an episode does not depend on the
speed of the machine. ``simulator`` repeats the observation of T until it has a twist and a gripper
command that are stamped T; ``chunk_executor`` repeats both, wall time ages no chunk, and disarming
only pauses; ``vla_policy`` queries when the chunk before is used up, from messages of one stamp.
"""

_RESET_NS = 1_000_000_000  # a stamp that falls back further is a restarted clock, not lateness


@dataclass(frozen=True, eq=False)
class Due:
    """What the executor does at one instant.

    :param reason: ``'step'`` (move), or why not: ``'empty'`` (no chunk yet), ``'future'`` (before
        the next step's time), ``'dry'`` (all steps past) or ``'stale'`` (chunk too old).
    :param step: index into the chunk, None without a step, as ``gripper`` (0 closed ... 1 open).
    :param delta: float64 (6,), m and rad for the whole step; zeros without a step.
    :param skipped: steps that were newly given up, because their time passed or the chunk aged.
    :param first: this step was not returned before; a position target advances only then.
    :param dt_s: the step's duration; 0 without a chunk."""

    reason: str
    step: int | None
    delta: np.ndarray
    gripper: float | None
    skipped: int = 0
    first: bool = False
    dt_s: float = 0.0


class ChunkSchedule:
    """Holds the latest chunk and says which of its steps is due. Not thread-safe.

    Step ``i`` is active while ``stamp + i dt <= now < stamp + (i + 1) dt``, in whole nanoseconds,
    so that under a clock which ticks once per control period each step has a tick of its own.
    A step is decided once: executed when it is first returned, skipped, or superseded.

    :param max_chunk_age_s: by stamp (ROS clock) and by receipt (monotonic clock).
    :raises ProfileError: the age is not above 0."""

    def __init__(self, max_chunk_age_s: float) -> None:
        if not (np.isfinite(max_chunk_age_s) and max_chunk_age_s > 0):
            raise ProfileError(f'max_chunk_age_s is {max_chunk_age_s}', 'use seconds above 0')
        self._max_age_ns = round(max_chunk_age_s * 1e9)
        # Chunks loaded, refused and time_jump; steps executed, skipped and superseded.
        self.counters: Counter[str] = Counter()
        self._chunk: ActionChunk | None = None
        self._receipt_ns = 0
        self._dt_ns = 0
        self._next = 0  # steps below are decided
        self._current: int | None = None  # the step executed last

    def load(self, chunk: ActionChunk, receipt_ns: int) -> bool:
        """Replace the current chunk; ``receipt_ns``: monotonic time of arrival.

        :returns: True where its stamp lies more than 1 s before the current one's: the clock was
            restarted.
        :raises ActionRefused: ``shape``, ``non_finite``, ``dt`` or ``not_newer``; the current
            chunk stays."""
        try:
            _require_usable(chunk)
            reset = self._is_reset(chunk.stamp_ns)
        except ActionRefused:
            self.counters['refused'] += 1
            raise
        self.clear()
        self.counters['time_jump'] += reset
        self.counters['loaded'] += 1
        self._chunk, self._receipt_ns = chunk, receipt_ns
        self._dt_ns = round(chunk.dt_s * 1e9)
        return reset

    def clear(self) -> None:
        """Forget the chunk; its undecided steps count as superseded."""
        self.counters['superseded'] += self.remaining
        self._chunk, self._next, self._current = None, 0, None

    @property
    def stamp_ns(self) -> int | None:
        return None if self._chunk is None else self._chunk.stamp_ns

    @property
    def remaining(self) -> int:
        """Undecided steps."""
        return 0 if self._chunk is None else len(self._chunk) - self._next

    def due(self, now_ns: int, mono_ns: int) -> Due:
        """What to do at ``now_ns`` (ROS clock) and ``mono_ns`` (monotonic clock).
        A clock that steps back gives ``'future'`` until it reaches the next undecided step."""
        chunk = self._chunk
        if chunk is None:
            return self._idle('empty')
        if max(now_ns - chunk.stamp_ns, mono_ns - self._receipt_ns) > self._max_age_ns:
            return self._idle('stale', self._skip_to(len(chunk)))
        active = (now_ns - chunk.stamp_ns) // self._dt_ns
        if active >= len(chunk):
            return self._idle('dry', self._skip_to(len(chunk)))
        if active < 0 or (active < self._next and active != self._current):
            return self._idle('future')
        first = active >= self._next
        skipped = self._skip_to(active)
        if first:
            self._next, self._current = active + 1, active
            self.counters['executed'] += 1
        return Due(
            'step',
            step=active,
            delta=np.array(chunk.deltas[active], np.float64),
            gripper=float(chunk.gripper[active]),
            skipped=skipped,
            first=first,
            dt_s=chunk.dt_s,
        )

    def _skip_to(self, end: int) -> int:
        """Give up the undecided steps before ``end``: how many."""
        skipped = max(0, end - self._next)
        self._next += skipped
        self.counters['skipped'] += skipped
        return skipped

    def _idle(self, reason: str, skipped: int = 0) -> Due:
        dt_s = 0.0 if self._chunk is None else self._chunk.dt_s
        return Due(reason, step=None, delta=np.zeros(6), gripper=None, skipped=skipped, dt_s=dt_s)

    def _is_reset(self, stamp_ns: int) -> bool:
        if self._chunk is None or stamp_ns > self._chunk.stamp_ns:
            return False
        behind_ns = self._chunk.stamp_ns - stamp_ns
        if behind_ns <= _RESET_NS:
            what = f'chunk is {behind_ns / 1e6:.1f} ms behind the current one'
            raise ActionRefused('not_newer', what, 'let one policy node publish chunks')
        return True


def _require_usable(chunk: ActionChunk) -> None:
    deltas, gripper = np.asarray(chunk.deltas), np.asarray(chunk.gripper)
    if not len(deltas) or deltas.shape != (len(deltas), 6) or gripper.shape != (len(deltas),):
        what = f'chunk has deltas {deltas.shape} and gripper {gripper.shape}'
        raise ActionRefused('shape', what, 'publish 6 deltas and a gripper value for each step')
    if not (np.isfinite(deltas).all() and np.isfinite(gripper).all()):
        raise ActionRefused(
            'non_finite', 'chunk has a value that is not finite', 'check its publisher'
        )
    if not (np.isfinite(chunk.dt_s) and round(chunk.dt_s * 1e9) >= 1):
        raise ActionRefused('dt', f'chunk dt is {chunk.dt_s} s', 'publish rising time_from_start')


class GripperLatch:
    """Turns the predicted opening into open or close, with hysteresis.

    Checkpoints are trained on binary grippers; a value that hovers around the middle must not make
    the fingers chatter: between ``close_below`` and ``open_above`` the last command holds.

    :raises ProfileError: not ``0 <= close_below <= open_above <= 1``."""

    def __init__(self, close_below: float = 0.4, open_above: float = 0.6) -> None:
        if not 0.0 <= close_below <= open_above <= 1.0:  # False for NaN as well
            what = f'gripper thresholds are {close_below} and {open_above}'
            raise ProfileError(what, 'use 0 <= close_below <= open_above <= 1')
        self.close_below = close_below
        self.open_above = open_above
        self.command: float | None = None

    def update(self, value: float) -> float | None:
        """The command after ``value``: 0.0 close, 1.0 open, None before the first decided one."""
        if value < self.close_below:
            self.command = 0.0
        elif value > self.open_above:
            self.command = 1.0
        return self.command

    def reset(self) -> None:
        self.command = None
