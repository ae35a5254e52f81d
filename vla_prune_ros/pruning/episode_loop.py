"""When the 2026 code of SpecPrune-VLA asks its policy, and what it tells it, step by step.

Revision 8091adc4 (``run_libero_eval.py``) mixes its controller with the queue of actions, and the
mixture decides how often the policy is asked and in which mode. To compare with ``legacy_2026`` as
published, :class:`AuthorsLoop` keeps the same books, oddities included:

- the first nine control steps never reach the robot: one whole chunk and an action of the next;
- entering fine mode throws the queued actions away, except at the very first evaluation;
- fine mode ends only with an empty queue, so a slow action right after it costs two queries;
- after a long motion the reference frame is the present one, or one of the first of the episode.

A closed loop around it::

    loop = AuthorsLoop()
    while True:
        frames.append(camera())
        if loop.needs_query():
            query = loop.query()
            loop.load(policy(frames[-1], frames[query.reference_frame], query.fine))
        step = loop.step()
        if step.executed:
            robot(step.action)
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from ..errors import ActionRefused
from .modes import LEGACY_2026, UnitSpeed, look_back_legacy

FIRST_EXECUTED = 10
"""Control step, counted from 1, whose action is the first to reach the robot."""
FIRST_JUDGED = 11
"""Control step after which the controller looks at the motion for the first time."""


@dataclass(frozen=True)
class LoopQuery:
    """What the policy is asked with.

    :param index: queries before this one in the episode.
    :param acting_step: the control step in progress, counted from 1.
    :param fine: the mode, ``precise`` in the original.
    :param look_back: T in control steps, see ``controller.look_back_legacy``.
    :param frames_stored: frames of the episode so far, one per control step, the present included.
    :param reference_frame: index into them, the same for every camera.
    :param executed: actions that had reached the robot when the present frame was taken.
    :param executed_at_reference: the same for the reference frame.
    :param moved_units: x, y, z: sum of the executed translations since the last query, in action
        units.
    """

    index: int
    acting_step: int
    fine: bool
    look_back: int
    frames_stored: int
    reference_frame: int
    executed: int
    executed_at_reference: int
    moved_units: tuple[float, float, float]


@dataclass(frozen=True)
class LoopStep:
    """What became of one control step.

    :param acting_step: the control step, counted from 1.
    :param action: float64 (D,), as the policy gave it.
    :param executed: False where it is thrown away instead of being sent to the robot.
    :param fine_before: the mode before the controller looked at the action.
    :param fine_after: the mode after it.
    :param queue_left: actions behind this one, before any flush.
    :param queries: queries of the episode so far.
    :param flushed: True where the actions behind this one were thrown away.
    """

    acting_step: int
    action: np.ndarray
    executed: bool
    fine_before: bool
    fine_after: bool
    queue_left: int
    queries: int
    flushed: bool


class AuthorsLoop:
    """Queue, mode and motion of one episode.

    :param chunk: actions that the queue holds; of a longer chunk the last ones stay.
    :param adapter: the original's ``action_adapter``: False executes from the first step, never
        leaves coarse mode and never counts motion, so that T stays 6.
    """

    def __init__(self, chunk: int = 8, adapter: bool = True) -> None:
        self._adapter = adapter
        self._queue: deque[np.ndarray] = deque(maxlen=chunk)
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._queue.clear()
        self._moved = np.zeros(3)
        self.fine = False
        self.queries = 0
        self.acting_step = 1

    def needs_query(self) -> bool:
        """True where the control step in progress has no action left."""
        return not self._queue

    def query(self) -> LoopQuery:
        """What to ask the policy with now. Asking twice changes nothing; :meth:`load` does."""
        frames = self.acting_step
        look_back = look_back_legacy(float(np.linalg.norm(self._moved)))
        reference = _reference(frames, look_back)
        return LoopQuery(
            index=self.queries,
            acting_step=self.acting_step,
            fine=self.fine,
            look_back=look_back,
            frames_stored=frames,
            reference_frame=reference,
            executed=self._executed_before(frames - 1),
            executed_at_reference=self._executed_before(reference),
            moved_units=tuple(self._moved.tolist()),
        )

    def load(self, chunk: np.ndarray) -> None:
        """Take the policy's answer and start counting motion anew.

        :param chunk: (K, D), K >= 1, D >= 6, in action units: x, y, z, rotation vector, more.
        :raises ActionRefused: another shape, not finite, or actions are still queued.
        """
        actions = np.array(chunk, np.float64)
        if actions.ndim != 2 or not len(actions) or actions.shape[1] < 6:
            raise ActionRefused(
                'shape', f'chunk has shape {actions.shape}', 'give (K, D) with D of 6 or more'
            )
        if not np.isfinite(actions).all():
            raise ActionRefused('non_finite', 'chunk is not finite', 'check the policy')
        if self._queue:
            raise ActionRefused(
                'queue', f'{len(self._queue)} actions are still queued', 'ask needs_query() first'
            )
        self._queue.extend(actions)
        self._moved = np.zeros(3)
        self.queries += 1

    def step(self) -> LoopStep:
        """Take the next action and end the control step.

        :raises ActionRefused: no action is queued.
        """
        if not self._queue:
            raise ActionRefused('queue', 'no action is queued', 'load() a chunk first')
        action = self._queue.popleft()
        left, was_fine, number = len(self._queue), self.fine, self.acting_step
        executed = not self._adapter or number >= FIRST_EXECUTED
        flushed = self._adapter and executed and self._judge(action)
        self.acting_step += 1
        return LoopStep(number, action, executed, was_fine, self.fine, left, self.queries, flushed)

    def _judge(self, action: np.ndarray) -> bool:
        """Count the motion of an executed action and update the mode; True where it flushes."""
        self._moved += action[:3]
        if self.acting_step < FIRST_JUDGED:
            return False
        was_fine = self.fine
        self.fine = LEGACY_2026.axes.fine(was_fine, _speed(action), may_leave=not self._queue)
        entered = self.fine and not was_fine
        flushed = entered and bool(self._queue) and self.acting_step > FIRST_JUDGED
        if flushed:
            self._queue.clear()
        return flushed

    def _executed_before(self, frame: int) -> int:
        """Actions executed before the frame of index ``frame`` was taken."""
        return max(0, frame + 1 - FIRST_EXECUTED) if self._adapter else frame


def _speed(action: np.ndarray) -> UnitSpeed:
    return UnitSpeed(
        linear=float(np.linalg.norm(action[:3])),
        horizontal=float(np.linalg.norm(action[:2])),
        vertical=float(action[2]),
        angular=float(np.linalg.norm(action[3:6])),
    )


def _reference(frames: int, look_back: int) -> int:
    """Index of the reference frame: counted from the end; from the beginning below 1.

    The present frame where too few are stored, and where an index from the beginning does not
    exist yet.
    """
    if look_back >= 1:
        return frames - look_back if frames >= look_back else frames - 1
    return min(-look_back, frames - 1)
