"""The 2026 episode loop against the original's own record and a plain twin.

``specprune/controller.json`` is what the original loop did with scripted chunks and no simulator:
every query and every executed action.
"""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import ActionRefused
from vla_prune_ros.pruning.episode_loop import AuthorsLoop

SLOW = [0.1, 0.05, 0.1, 0.0, 0.01, 0.0, 0.7]
FAST = [0.5, -0.4, 0.3, 0.02, 0.0, 0.0, 0.7]
TURN = [0.4, 0.3, 0.05, 0.3, 0.2, 0.1, 0.7]


def run(loop, chunks, steps):
    """Queries and steps of an episode of ``steps`` control steps; chunks are cycled."""
    queries, done = [], []
    for _ in range(steps):
        if loop.needs_query():
            queries.append(loop.query())
            loop.load(np.array(chunks[(len(queries) - 1) % len(chunks)]))
        done.append(loop.step())
    return queries, done


def query_record(query):
    """In the words of the original's record."""
    return {
        'query': query.index,
        'acting_step': query.acting_step,
        'precise': query.fine,
        'look_back_T': query.look_back,
        'frames_stored': query.frames_stored,
        'reference_frame_index': query.reference_frame,
        'reference_frame_index_wrist': query.reference_frame,
        'executed_env_steps_at_reference': query.executed_at_reference,
        'executed_env_steps_now': query.executed,
        'accumulated_xyz': list(query.moved_units),
    }


def step_record(step):
    """As above; the gripper's number is the robot's business."""
    return {
        'acting_step': step.acting_step,
        'precise_before': step.fine_before,
        'queue_left': step.queue_left,
        'infer_step': step.queries,
        'executed': step.action[:6].tolist(),
        'precise_after': step.fine_after,
        'flushed': step.flushed,
    }


def assert_as_recorded(scenario):
    last = max(scenario['queries'][-1]['acting_step'], scenario['steps'][-1]['acting_step'])
    queries, steps = run(AuthorsLoop(), scenario['policy_chunks'], last)
    assert [query_record(q) for q in queries] == scenario['queries']
    executed = [step_record(s) for s in steps if s.executed]
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


def norm(numbers):
    return math.sqrt(sum(n * n for n in numbers))


def twin(chunks, steps):
    """The loop as sections (g) and (h) of its description tell it, with plain lists."""
    queue, frames, fine, queries, log = [], [], False, 0, []
    moved = [0.0, 0.0, 0.0]
    judged = False
    for acting in range(1, steps + 1):
        frames.append(acting - 1)
        if not queue:
            x = -16 / 3 * norm(moved) / 6 + 22 / 3
            back = min(int(x) + 3, 6)
            present = back > len(frames) or -back >= len(frames)
            log.append(('query', acting, fine, back, frames[-1] if present else frames[-back]))
            queue = [list(a) for a in chunks[queries % len(chunks)]][-8:]
            moved = [0.0, 0.0, 0.0]
            queries += 1
        a = queue.pop(0)
        if acting < 10:
            continue
        moved = [m + d for m, d in zip(moved, a[:3], strict=True)]
        before, left, flush = fine, len(queue), False
        if acting > 10:
            v, xy, rot = norm(a[:3]), norm(a[:2]), norm(a[3:6])
            if fine:
                fine = not ((a[2] > 0.2 or rot > 0.3) and not queue)
            elif v < 0.35 or (xy < 0.1 and a[2] < 0.1 and rot < 0.2):
                fine = True
                flush = judged and bool(queue)
            judged = True
        if flush:
            queue = []
        log.append(('step', acting, before, fine, left, flush))
    return log


# Sixteenths add up exactly, and no sum of squares of them meets a threshold.
numbers = st.integers(-24, 24).map(lambda n: n / 16)
small = st.integers(-2, 2).map(lambda n: n / 16)
actions = st.tuples(*[numbers] * 6) | st.tuples(*[small] * 6) | st.just((0.9375,) * 3 + (0.0,) * 3)
held = st.tuples(actions, st.integers(1, 8)).map(lambda held: [held[0]] * held[1])
chunk_lists = st.lists(st.lists(actions, min_size=1, max_size=10) | held, min_size=1, max_size=6)


@given(chunk_lists)
def test_any_chunks_against_the_twin(chunks):
    queries, steps = run(AuthorsLoop(), chunks, 60)
    got = [('query', q.acting_step, q.fine, q.look_back, q.reference_frame) for q in queries]
    got += [
        ('step', s.acting_step, s.fine_before, s.fine_after, s.queue_left, s.flushed)
        for s in steps
        if s.executed
    ]
    assert sorted(got) == sorted(twin(chunks, 60))


def test_the_first_nine_steps_never_reach_the_robot():
    _, steps = run(AuthorsLoop(), [[FAST] * 8], 20)
    assert [s.acting_step for s in steps if not s.executed] == list(range(1, 10))


def test_entering_flushes_except_at_the_first_look():
    _, steps = run(AuthorsLoop(), [[FAST] * 8, [FAST, FAST] + [SLOW] * 6], 20)
    assert [s.acting_step for s in steps if s.flushed] == []
    assert steps[10].fine_after and not steps[9].fine_after
    _, steps = run(AuthorsLoop(), [[FAST] * 8, [FAST] * 3 + [SLOW] * 5], 20)
    assert [s.acting_step for s in steps if s.flushed] == [12]


def test_a_slow_action_right_after_fine_mode_costs_two_queries():
    chunks = [[SLOW] * 8, [SLOW] * 8, [TURN] * 8, [SLOW] * 8, [FAST] * 8]
    queries, steps = run(AuthorsLoop(), chunks, 30)
    assert [q.acting_step for q in queries] == [1, 9, 17, 25, 26]
    assert steps[24].flushed and not steps[23].fine_after


@pytest.mark.parametrize(
    ('moved', 'look_back', 'reference'),
    [
        (10.0, 2, 15),
        (11.0, 1, 16),  # the present frame
        (12.0, 0, 0),  # counted from the beginning
        (13.02, -1, 1),
        (160.0, -131, 16),  # an index that does not exist yet: the present frame
    ],
)
def test_reference_after_a_long_motion(moved, look_back, reference):
    """Seven actions are counted up to the third query, at control step 17 with 17 frames."""
    x = moved / 7
    queries, _ = run(AuthorsLoop(), [[[x, 0, 0, 0, 0, 0]] * 8], 17)
    assert (queries[2].look_back, queries[2].reference_frame) == (look_back, reference)
    assert np.linalg.norm(queries[2].moved_units) == pytest.approx(moved)


def test_without_the_adapter():
    """As the recorded tensors were made: queries at 1, 9, 17, 25, T = 6, always coarse."""
    queries, steps = run(AuthorsLoop(adapter=False), [[SLOW] * 8], 32)
    assert [q.acting_step for q in queries] == [1, 9, 17, 25]
    assert [q.reference_frame for q in queries] == [0, 3, 11, 19]
    assert [q.executed for q in queries] == [0, 8, 16, 24]
    assert [q.executed_at_reference for q in queries] == [0, 3, 11, 19]
    assert all(s.executed and not s.fine_after and not s.flushed for s in steps)
    assert {q.look_back for q in queries} == {6}


def test_reset_begins_an_episode():
    loop = AuthorsLoop()
    chunks = [[FAST] * 8, [SLOW] * 8, [FAST] * 8]
    first = run(loop, chunks, 21)
    assert loop.fine
    loop.reset()
    again = run(loop, chunks, 21)
    assert again[0] == first[0]
    assert [step_record(s) for s in again[1]] == [step_record(s) for s in first[1]]


def test_a_query_asked_twice_is_the_same():
    loop = AuthorsLoop()
    run(loop, [[FAST] * 8], 16)
    assert loop.query() == loop.query() and loop.query().moved_units != (0.0, 0.0, 0.0)


def test_a_longer_chunk_keeps_its_last_actions():
    loop = AuthorsLoop(chunk=2)
    loop.load(np.arange(5)[:, None] * np.ones(7))
    assert [loop.step().action[0] for _ in range(2)] == [3.0, 4.0]
    assert loop.needs_query()


@pytest.mark.parametrize(
    ('chunk', 'reason'),
    [
        (np.zeros((0, 7)), 'shape'),
        (np.zeros(7), 'shape'),
        (np.zeros((8, 5)), 'shape'),
        (np.full((8, 7), np.nan), 'non_finite'),
    ],
)
def test_a_chunk_that_is_not_usable(chunk, reason):
    loop = AuthorsLoop()
    with pytest.raises(ActionRefused) as refused:
        loop.load(chunk)
    assert refused.value.reason == reason and loop.needs_query() and loop.queries == 0


def test_calls_out_of_order():
    loop = AuthorsLoop()
    with pytest.raises(ActionRefused, match='no action is queued; load'):
        loop.step()
    loop.load(np.array([SLOW] * 8))
    with pytest.raises(ActionRefused, match='8 actions are still queued'):
        loop.load(np.array([SLOW] * 8))
