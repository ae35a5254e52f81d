"""What is executed of overlapping chunks, and how the gripper turns over. Expected values: a loop
that asks of each single step whether it runs, the executor's own schedule, closed forms for
motion, and all possible assignments for openings and closings."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vla_prune_ros.evaluate.replay import metrics
from vla_prune_ros.evaluate.replay.metrics import ChunkSeries, Executed, compare_flips
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.schedule import ChunkSchedule

T0 = 1_700_000_000_000_000_000
MS, S = 10**6, 10**9
DT_S, DT = 0.05, 50 * MS
K = 8


def series_of(stamps, epochs, actions, known):
    return ChunkSeries(stamps, epochs, actions=actions, known=known, dt_s=DT_S)


def borders(parts):
    return asdict(metrics.borders(parts))


def numbered(count, size=K):
    """Chunks whose steps tell chunk and place: x = 100 chunk + place."""
    actions = np.zeros((count, size, 7))
    actions[..., 0] = 100 * np.arange(count)[:, None] + np.arange(size)
    return actions


# --- execution --------------------------------------------------------------------------------


def one_by_one(stamps, epochs, known, size):
    """(stamp, chunk, place, run) of every step that is executed: those before it are known, and
    half of it at least is over when the next chunk of the epoch begins."""
    out, run = [], 0
    for i, stamp in enumerate(stamps):
        last = i + 1 == len(stamps) or epochs[i + 1] != epochs[i]
        whole = not last
        for place in itertools.count():
            begin = stamp + place * DT
            if not last and 2 * begin + DT > 2 * stamps[i + 1]:
                break  # the next one has taken over
            if place == size or not known[i][place]:
                whole = False
                break
            out.append((begin, i, place, run))
        if not whole:
            run += 1
    return out


@st.composite
def series(draw):
    size = draw(st.integers(1, 5))
    count = draw(st.integers(0, 6))
    gap = st.integers(1, 7 * DT) | st.integers(1, 14).map(lambda halves: halves * DT // 2)
    gaps = draw(st.lists(gap, min_size=count, max_size=count))
    stamps = [T0 + ns for ns in itertools.accumulate(gaps)]
    steps = draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=count, max_size=count))
    known = draw(st.lists(st.sampled_from([1, 1, 1, 0]), min_size=5 * count, max_size=5 * count))
    return (
        stamps,
        list(itertools.accumulate(steps)),
        np.array(known, bool).reshape(count, 5)[:, :size],
        size,
    )


@settings(max_examples=300, deadline=None)
@given(series())
def test_execution_is_that_of_single_steps(drawn):
    stamps, epochs, known, size = drawn
    found = series_of(stamps, epochs, numbered(len(stamps), size), known).executed
    expected = one_by_one(stamps, epochs, known, size)
    assert found.stamps_ns.tolist() == [begin for begin, *_ in expected]
    assert found.chunk.tolist() == [i for _, i, *_ in expected]
    assert found.steps[:, 0].tolist() == [100 * i + place for _, i, place, _ in expected]
    assert found.steps.shape == (len(expected), 7)
    assert found.run.tolist() == [run for *_, run in expected]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_executor_takes_the_same_steps(gaps):
    """Ticked once a control period, without delay; where a chunk is over, it has nothing."""
    stamps = [T0 + DT * n for n in itertools.accumulate([0, *gaps])]
    chunks = numbered(len(stamps))
    schedule, taken = ChunkSchedule(10.0), []
    for tick in range(T0, stamps[-1] + (K + 2) * DT, DT):
        if tick in stamps:
            rows = chunks[stamps.index(tick)]
            schedule.load(ActionChunk(tick, DT_S, rows[:, :6], rows[:, 6]), tick)
        due = schedule.due(tick, tick)
        if due.reason == 'step':
            taken.append((tick, due.delta[0]))
    known = np.ones((len(stamps), K), bool)
    found = series_of(stamps, [0] * len(stamps), chunks, known).executed
    times = found.stamps_ns.tolist()
    assert list(zip(times, found.steps[:, 0].tolist(), strict=True)) == taken
    breaks = [b - a > DT for a, b in itertools.pairwise(times)]
    assert [a != b for a, b in itertools.pairwise(found.run.tolist())] == breaks


# --- borders ----------------------------------------------------------------------------------


def straight(velocities, period_steps=4):
    """Chunks along (0.6, 0, 0.8), a new one every so many steps, and what is executed of them.

    :param velocities: (N, K), m/s of each step.
    """
    velocities = np.asarray(velocities, float)
    actions = np.zeros((*velocities.shape, 7))
    actions[..., :3] = velocities[..., None] * DT_S * np.array([0.6, 0.0, 0.8])
    actions[..., 3:] = np.random.default_rng(0).normal(size=(*velocities.shape, 4))
    stamps = [T0 + period_steps * DT * i for i in range(len(velocities))]
    return series_of(stamps, [0] * len(stamps), actions, np.ones(velocities.shape, bool))


def both(value):
    return pytest.approx({'p50': value, 'p95': value}, abs=1e-9)


@pytest.mark.parametrize(
    ('velocities', 'jump_mm', 'inside_mm', 'jerk'),
    [
        # 0.4 m/s2 over steps of 50 ms: each is 0.4 * 0.05 * 0.05 m = 1 mm longer.
        (0.4 * DT_S * (4 * np.arange(6)[:, None] + np.arange(K)), 1.0, 1.0, 0.0),
        # 0.1 m/s more from chunk to chunk: 5 mm per step. Two third differences span a border,
        # both of 5 mm over (50 ms)^3: 40 m/s3.
        (0.1 * np.arange(6)[:, None] * np.ones((6, K)), 5.0, 0.0, 40.0),
        # A sawtooth of 0, 1, 2, 3 | 0, 1, ... times 20 mm/s: +1 mm inside, 3 mm back at each
        # border; third differences there are -4 and +4 mm.
        (np.tile(0.02 * np.arange(K), (6, 1)), 3.0, 1.0, 4e-3 / DT_S**3),
    ],
    ids=['acceleration', 'jumps', 'sawtooth'],
)
def test_motion_of_a_closed_form(velocities, jump_mm, inside_mm, jerk):
    found = borders([straight(velocities)])
    assert found == {
        'borders': 5,
        'jump_mm': both(jump_mm),
        'inside_mm': both(inside_mm),
        'jerk_m_s3': both(jerk),
    }


def test_quantiles_run_over_the_borders_of_all_bags():
    """Jumps of 5, 10, 15 and 20 mm in one bag, 25 mm in another; between bags there is none."""
    speeds = 0.1 * np.cumsum([0, 1, 2, 3, 4])[:, None] * np.ones((5, K))
    found = borders([straight(speeds), straight(np.array([[9.0], [9.5]]) * np.ones(K))])
    assert found['borders'] == 5
    assert found['jump_mm'] == pytest.approx({'p50': 15.0, 'p95': 24.0})


def test_where_chunks_do_not_follow_each_other_there_is_no_border():
    """A gap between them; chunks of one step have nothing inside."""
    found = borders([straight([[0.1] * K, [0.9] * K], period_steps=20)])
    assert (found['borders'], found['jump_mm'], found['jerk_m_s3']) == (0, None, None)
    assert found['inside_mm'] == both(0.0)
    single = borders([straight([[0.1], [0.2], [0.4]], period_steps=1)])
    assert (single['borders'], single['inside_mm']) == (2, None)
    assert single['jerk_m_s3'] == both(5e-3 / DT_S**3)  # from +5 to +10 mm
    none = {'borders': 0, 'jump_mm': None, 'inside_mm': None, 'jerk_m_s3': None}
    empty = series_of([], [], np.zeros((0, K, 7)), np.ones((0, K), bool))
    assert borders([]) == borders([empty]) == none


# --- the gripper ------------------------------------------------------------------------------


def grips(values, run=()):
    """Steps 50 ms apart with these openings."""
    steps = np.zeros((len(values), 7))
    steps[:, 6] = values
    places = np.arange(len(values))
    return Executed(T0 + DT * places, steps, np.array(run or [0] * len(values)), places)


def test_a_flip_is_where_the_gripper_passes_the_middle_and_not_across_a_gap():
    found = grips([0.9, 0.51, 0.5, 0.49, 0.3, 0.0, 0.6, 0.6, 0.1]).flips()
    assert found == [(T0 + 3 * DT, False), (T0 + 6 * DT, True), (T0 + 8 * DT, False)]
    assert grips([1, 1, 1]).flips() == grips([0]).flips() == grips([]).flips() == []
    assert grips([1, 0, 1, 1], run=[0, 0, 1, 1]).flips() == [(T0 + DT, False)]


def at(*signed_ms):
    """Flips at milliseconds: positive ones open, negative ones close."""
    return [(T0 + abs(ms) * MS, ms > 0) for ms in signed_ms]


def figures(*pairs):
    return asdict(compare_flips([(at(*here), at(*there)) for here, there in pairs]))


def test_flips_are_matched_by_direction_within_a_second():
    assert figures(([1300], [300]))['offset_ms'] == {'mean': 1000.0, 'p95': 1000.0}
    assert figures(([1301], [300]))['matched'] == 0
    assert figures(([], []))['offset_ms'] is None


def test_flips_of_two_bags_do_not_meet():
    found = figures(([100], [130]), ([200], []), ([], [200]), ([-5], [-15]))
    assert (found['here'], found['there'], found['matched']) == (3, 3, 2)
    assert found['offset_ms']['mean'] == pytest.approx(20.0)


def best(here, there):
    """Of all assignments the one whose nearest pair is nearest, then the next, and so on."""
    far = float('inf')
    offsets = []
    places = [*range(len(there)), *[None] * len(here)]
    for chosen in set(itertools.permutations(places, len(here))):
        pairs = [(h, there[j]) for h, j in zip(here, chosen, strict=True) if j is not None]
        if all(h[1] == t[1] and abs(h[0] - t[0]) <= S for h, t in pairs):
            apart = sorted(abs(h[0] - t[0]) for h, t in pairs)
            offsets.append(apart + [far] * (len(here) - len(apart)))
    return [ns for ns in min(offsets) if ns < far]


flip = st.tuples(st.integers(T0, T0 + 3 * S), st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(flip, max_size=4).map(sorted), st.lists(flip, max_size=4).map(sorted))
def test_the_matching_is_the_nearest_of_all_assignments(here, there):
    distances = [abs(a - b) for a, _ in here for b, _ in there]
    assume(len(set(distances)) == len(distances))
    expected = [ns / MS for ns in best(here, there)]
    for mine, other in ((here, there), (there, here)):
        found = asdict(compare_flips([(mine, other)]))
        assert (found['here'], found['there']) == (len(mine), len(other))
        assert found['matched'] == len(expected)
        if expected:
            assert found['offset_ms']['mean'] == pytest.approx(np.mean(expected))
            assert found['offset_ms']['p95'] == pytest.approx(np.percentile(expected, 95))
