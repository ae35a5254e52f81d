"""The 2026 code's rules against the record of its episode loop.

Revision 8091adc4 of SpecPrune-VLA (``run_libero_eval.py``) mixes its controller with the queue of
actions, and the mixture decides how often the policy is asked and in which mode. The loop below
keeps the same books with the package's mode rule and look-back, oddities included:

- the first nine control steps never reach the robot: one complete chunk and an action of the next;
- entering fine mode throws the queued actions away, except at the very first evaluation;
- fine mode ends only with an empty queue, so a slow action right after it costs two queries;
- after a long motion the reference frame is the present one, or one of the first of the episode.

``specprune/controller.json`` is what the original loop did with scripted chunks and no simulator:
every query and every executed action.
"""

import json
from collections import deque

import numpy as np
import pytest

from vla_prune_ros.pruning.modes import LEGACY_2026, UnitSpeed, look_back_legacy

FIRST_EXECUTED = 10  # control step, counted from 1, whose action is the first to reach the robot
FIRST_JUDGED = 11  # control step after which the controller sees the motion for the first time


class AuthorsLoop:
    """Queue, mode and motion of one episode; queries and steps in the words of the record."""

    def __init__(self, chunk=8):
        self._queue = deque(maxlen=chunk)
        self._moved = np.zeros(3)
        self.fine, self.queries, self.acting_step = False, 0, 1

    def needs_query(self):
        return not self._queue

    def query(self):
        """What the policy is asked with now."""
        frames = self.acting_step
        look_back = look_back_legacy(float(np.linalg.norm(self._moved)))
        if look_back >= 1:
            reference = frames - look_back if frames >= look_back else frames - 1
        else:  # counted from the beginning; the present frame where that one does not exist yet
            reference = min(-look_back, frames - 1)
        return {
            'query': self.queries,
            'acting_step': self.acting_step,
            'precise': self.fine,
            'look_back_T': look_back,
            'frames_stored': frames,
            'reference_frame_index': reference,
            'reference_frame_index_wrist': reference,
            'executed_env_steps_at_reference': max(0, reference + 1 - FIRST_EXECUTED),
            'executed_env_steps_now': max(0, frames - FIRST_EXECUTED),
            'accumulated_xyz': self._moved.tolist(),
        }

    def load(self, chunk):
        """Take the policy's answer (K, D) and start counting motion anew."""
        self._queue.extend(chunk)
        self._moved = np.zeros(3)
        self.queries += 1

    def step(self):
        """Take the next action and end the control step; None where the robot never gets it."""
        action = self._queue.popleft()
        step = {
            'acting_step': self.acting_step,
            'precise_before': self.fine,
            'queue_left': len(self._queue),
            'infer_step': self.queries,
            'executed': action[:6].tolist(),
        }
        executed = self.acting_step >= FIRST_EXECUTED
        flushed = executed and self._judge(action)
        self.acting_step += 1
        return {**step, 'precise_after': self.fine, 'flushed': flushed} if executed else None

    def _judge(self, action):
        """Count the motion of an executed action and update the mode; True where it flushes."""
        self._moved += action[:3]
        if self.acting_step < FIRST_JUDGED:
            return False
        speed = UnitSpeed(
            linear=float(np.linalg.norm(action[:3])),
            horizontal=float(np.linalg.norm(action[:2])),
            vertical=float(action[2]),
            angular=float(np.linalg.norm(action[3:6])),
        )
        was_fine = self.fine
        self.fine = LEGACY_2026.axes.fine(was_fine, speed, may_leave=not self._queue)
        entered = self.fine and not was_fine
        flushed = entered and bool(self._queue) and self.acting_step > FIRST_JUDGED
        if flushed:
            self._queue.clear()
        return flushed


def run(chunks, steps):
    """Queries and executed steps of an episode of ``steps`` control steps; chunks are cycled."""
    loop, queries, done = AuthorsLoop(), [], []
    for _ in range(steps):
        if loop.needs_query():
            queries.append(loop.query())
            loop.load(np.array(chunks[(len(queries) - 1) % len(chunks)], float))
        done.append(loop.step())
    return queries, [step for step in done if step is not None]


def assert_as_recorded(scenario):
    last = max(scenario['queries'][-1]['acting_step'], scenario['steps'][-1]['acting_step'])
    queries, executed = run(scenario['policy_chunks'], last)
    assert queries == scenario['queries']
    # The gripper's number is the robot's business.
    want = [{**s, 'executed': s['executed'][:6]} for s in scenario['steps']]
    assert executed[: len(want)] == want
    assert len(executed) - len(want) in (0, 1)  # the record may end with a query


SCENARIOS = ['slow_from_start', 'fast_then_slow_in_chunk', 'enter_then_exit_up', 'random0']


@pytest.mark.parametrize('name', SCENARIOS)
def test_the_original_s_record(data_dir, name):
    text = (data_dir / 'specprune' / 'controller.json').read_text(encoding='utf-8')
    assert_as_recorded(json.loads(text)[name])


def test_further_records(golden_dir):
    path = golden_dir / 'pruning' / 'specprune' / 'controller.json'
    if not path.is_file():
        pytest.skip(f'{path} is not there')
    for scenario in json.loads(path.read_text(encoding='utf-8')).values():
        assert_as_recorded(scenario)
