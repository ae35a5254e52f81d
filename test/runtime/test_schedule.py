"""The schedule against a brute-force twin that looks at every step, and against closed cases.

The twin knows only the definition: step i is active in [stamp + i dt, stamp + (i + 1) dt).
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ActionRefused, ProfileError
from vla_prune_ros.records import ActionChunk
from vla_prune_ros.runtime.schedule import ChunkSchedule, GripperLatch

MS = 1_000_000
START = 10**15


def make(stamp_ms: int = 0, steps: int = 8, dt_ms: int = 50) -> ActionChunk:
    """Step i moves by i + 1 in every column."""
    deltas = np.repeat(np.arange(1.0, steps + 1)[:, None], 6, axis=1)
    return ActionChunk(START + stamp_ms * MS, dt_ms / 1000, deltas, np.linspace(0, 1, steps))


def due(schedule: ChunkSchedule, now_ms: int, mono_ms: int | None = None):
    return schedule.due(START + now_ms * MS, (now_ms if mono_ms is None else mono_ms) * MS)


@dataclass
class Twin:
    """One flag per step of every chunk: undecided, 'executed', 'skipped' or 'superseded'."""

    max_age_ms: int
    fate: list[list[str | None]] = field(default_factory=list)
    stamp: int = 0
    received: int = 0
    dt: int = 0
    last: int | None = None

    def load(self, stamp: int, steps: int, dt: int, mono: int) -> None:
        if self.fate:
            self.fate[-1] = [f or 'superseded' for f in self.fate[-1]]
        self.fate.append([None] * steps)
        self.stamp, self.dt, self.received, self.last = stamp, dt, mono, None

    def counts(self) -> np.ndarray:
        """Executed, skipped, superseded, undecided."""
        fates = [fate for chunk in self.fate for fate in chunk]
        return np.array([fates.count(f) for f in ('executed', 'skipped', 'superseded', None)])

    def due(self, now: int, mono: int) -> tuple[str, int | None]:
        if not self.fate:
            return 'empty', None
        fate = self.fate[-1]
        stale = now - self.stamp > self.max_age_ms or mono - self.received > self.max_age_ms
        for i in range(len(fate)):
            past = now >= self.stamp + (i + 1) * self.dt
            if fate[i] is None and (past or stale):
                fate[i] = 'skipped'
        if stale:
            return 'stale', None
        if now >= self.stamp + len(fate) * self.dt:
            return 'dry', None
        for i in range(len(fate)):
            active = self.stamp + i * self.dt <= now < self.stamp + (i + 1) * self.dt
            if active and (fate[i] is None or (fate[i] == 'executed' and self.last == i)):
                fate[i], self.last = 'executed', i
                return 'step', i
        return 'future', None


operations = st.lists(
    st.one_of(
        st.tuples(st.just('tick'), st.integers(-80, 160)),
        st.tuples(st.just('load'), st.integers(-2500, 200), st.integers(1, 6), st.integers(1, 60)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(operations)
def test_steps_and_counts_against_the_twin(script):
    """Random ticks, backwards too, with random chunks in between."""
    schedule, twin, chunk = ChunkSchedule(0.3), Twin(300), make()
    now = mono = 0
    for operation, *values in script:
        if operation == 'tick':
            now, mono = now + values[0], mono + abs(values[0])
            before = twin.counts()
            reason, step = twin.due(now, mono)
            executed, skipped, _, _ = twin.counts() - before
            got = due(schedule, now, mono)
            assert (got.reason, got.step) == (reason, step)
            assert (got.first, got.skipped) == (bool(executed), skipped)
            assert got.dt_s == twin.dt / 1000
            np.testing.assert_array_equal(got.delta, np.full(6, 0.0 if step is None else step + 1))
            assert got.gripper == (None if step is None else chunk.gripper[step])
            assert not np.shares_memory(got.delta, chunk.deltas)
        else:
            stamp = now + values[0]
            behind = twin.stamp - stamp if twin.fate else -1
            loaded = make(stamp, *values[1:])
            if 0 <= behind <= 1000:
                with pytest.raises(ActionRefused) as caught:
                    schedule.load(loaded, mono * MS)
                assert caught.value.reason == 'not_newer'
            else:
                chunk = loaded
                assert schedule.load(chunk, mono * MS) == (behind > 1000)
                twin.load(stamp, *values[1:], mono)
    counted = [schedule.counters[fate] for fate in ('executed', 'skipped', 'superseded')]
    assert [*counted, schedule.remaining] == twin.counts().tolist()


class TestCases:
    def test_a_step_begins_and_ends_at_its_time(self):
        """Exact to the nanosecond: begun at stamp + i dt, over at stamp + (i + 1) dt."""
        schedule = ChunkSchedule(1.0)
        schedule.load(make(), 0)
        times = (-1, 0, 50 * MS - 1, 50 * MS, 100 * MS)
        assert [schedule.due(START + ns, 0).step for ns in times] == [None, 0, 0, 1, 2]

    def test_clear_forgets_and_accepts_an_older_chunk(self):
        schedule = ChunkSchedule(1.0)
        schedule.load(make(500), 0)
        schedule.clear()
        assert due(schedule, 510).reason == 'empty' and schedule.counters['superseded'] == 8
        assert schedule.load(make(400), 0) is False


class TestRefusals:
    def refused(self, **changes: object) -> str:
        schedule = ChunkSchedule(1.0)
        schedule.load(make(), 0)
        fields = {**vars(make(100)), **changes}
        with pytest.raises(ActionRefused) as caught:
            schedule.load(ActionChunk(**fields), 0)
        assert schedule.counters['refused'] == 1
        assert due(schedule, 10).step == 0  # the current chunk stays
        return caught.value.reason

    def test_by_reason(self):
        for bad in (np.nan, np.inf):
            assert self.refused(deltas=np.full((8, 6), bad)) == 'non_finite'
            assert self.refused(gripper=np.full(8, bad)) == 'non_finite'
        for deltas, gripper in (((0, 6), 0), ((8, 7), 8), ((8,), 8), ((8, 6), 7)):
            assert self.refused(deltas=np.zeros(deltas), gripper=np.zeros(gripper)) == 'shape'
        for dt_s in (0.0, -0.05, np.nan, np.inf, 1e-12):
            assert self.refused(dt_s=dt_s) == 'dt'
        for behind_ms in (0, 1, 1000):
            assert self.refused(stamp_ns=START - behind_ms * MS) == 'not_newer'

    def test_a_restarted_clock_is_not_refused(self):
        schedule = ChunkSchedule(1.0)
        schedule.load(make(5000), 0)
        assert schedule.load(make(3999), 0) is True
        assert schedule.counters['time_jump'] == 1 and due(schedule, 4000, 0).step == 0


@pytest.mark.parametrize('age', [0.0, -1.0, np.nan, np.inf])
def test_age_limit(age):
    with pytest.raises(ProfileError, match='max_chunk_age_s'):
        ChunkSchedule(age)


class TestGripperLatch:
    @settings(deadline=None)
    @given(st.lists(st.floats(-0.5, 1.5), max_size=30))
    def test_is_the_last_value_outside_the_band(self, values):
        latch = GripperLatch()
        for i, value in enumerate(values):
            decided = [v for v in values[: i + 1] if v < 0.4 or v > 0.6]
            expected = None if not decided else float(decided[-1] > 0.6)
            assert latch.update(value) == expected

    def test_chatter_around_the_middle_changes_nothing(self):
        latch = GripperLatch()
        values = (0.5, 0.9, 0.45, 0.55, 0.4, np.nan, 0.39, 0.6)
        assert [latch.update(v) for v in values] == [None, 1, 1, 1, 1, 1, 0, 0]
        latch.reset()
        assert latch.update(0.5) is None

    @pytest.mark.parametrize('close, open_', [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (np.nan, 0.5)])
    def test_thresholds(self, close, open_):
        with pytest.raises(ProfileError, match='threshold'):
            GripperLatch(close, open_)
