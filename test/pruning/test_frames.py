"""The frame history against a list that forgets nothing by itself, and its promises one by one.

A frame is an array that holds its own number; prepared, it is negative.
"""

import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.pruning.frames import FrameHistory

MS = 1_000_000
SPACING = 25 * MS  # half a control period of 20 Hz, as the policy has it


def frame(number):
    return np.array([number], np.int64)


def history(spacing=SPACING, length=24):
    return FrameHistory(lambda raw: -raw, spacing, length)


def number(image):
    return None if image is None else int(image[0])


class Counted:
    """A frame that counts how often it is decoded, and may be broken."""

    def __init__(self, value, broken=False):
        self.value, self.broken, self.decoded = value, broken, 0

    def __call__(self):
        self.decoded += 1
        if self.broken:
            raise InputRefused('jpeg', 'frame is cut off', 'send it whole')
        return frame(self.value)


class ListModel:
    """All stored frames as ``[stamp, answer, queried]``; the rules are written out one by one."""

    def __init__(self, spacing, length):
        self.spacing, self.length = spacing, length
        self.clear()

    def clear(self):
        self.stored, self.query_at, self.present = [], None, None
        self.last = self.before_last = None  # what queries brought

    def push(self, stamp, value):
        if self.stored and stamp - self.stored[-1][0] < self.spacing:
            return
        self.stored.append([stamp, -value, False])

    def query(self, stamp, value):
        if self.query_at is not None and stamp < self.query_at:
            self.clear()
        self.query_at = stamp
        self.before_last, self.last = self.last, value
        recent = self.stored[-self.length :]
        not_later = [e for e in recent if e[0] <= stamp]
        mine = not_later[-1] if not_later else None
        if mine is not None and mine[0] != stamp and stamp - mine[0] >= self.spacing:
            mine = None
        if mine is not None and stamp == 0 and mine[2]:  # no stamps: another instant
            mine = None
        if mine is None and len(not_later) == len(recent):
            mine = [stamp, value, True]
            self.stored.append(mine)
        elif mine is not None and mine[0] == stamp:
            mine[1:] = [value, True]
        self.present = mine

    def before(self, stamp, back):
        found = self.by_stamps(stamp, back)
        return self.before_last if found is None else found

    def by_stamps(self, stamp, back):
        recent = self.stored[-self.length :]
        places = [i for i, e in enumerate(recent) if e is self.present]
        if stamp == self.query_at and places:
            recent = recent[: places[0]]
            if stamp == 0:
                return recent[-1][1] if recent else None
        half = self.spacing // 2
        past = [e for e in recent if e[0] < stamp - half]
        old = [e for e in past if stamp - e[0] >= back - half]
        return old[-1][1] if old else past[0][1] if past else None

    def first(self, index):
        return self.stored[index][1] if index < min(2, len(self.stored)) else None


STEPS = st.one_of(
    st.tuples(st.just('push'), st.integers(-15, 40)),
    st.tuples(st.just('query'), st.sampled_from([-30, -5, 0, 0, 1, 9, 10, 11, 35])),
    st.tuples(st.just('before'), st.integers(0, 60)),
    st.tuples(st.just('first'), st.integers(0, 2)),
    st.tuples(st.just('clear'), st.just(0)),
)


@given(
    st.lists(STEPS, max_size=40), st.sampled_from([1, 10, 11]), st.integers(1, 6), st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_history_equals_a_list(steps, spacing, length, stamped):
    ours, model = history(spacing, length), ListModel(spacing, length)
    clock = 100 if stamped else 0
    for value, (what, amount) in enumerate(steps, start=1):
        stamp = max(1, clock + amount) if stamped else 0
        if what == 'push':
            ours.push('a', stamp, frame(value) if value % 2 else Counted(value))
            model.push(stamp, value)
        elif what == 'query':
            ours.push_prepared(stamp, {'a': frame(value)})
            model.query(stamp, value)
        elif what == 'before':
            for at in {clock, model.query_at or 0}:
                expected = model.before(at, amount)
                assert number(ours.before('a', at, amount)) == expected
                assert ours.has_earlier('a', at) == (expected is not None)
        elif what == 'first':
            assert number(ours.first('a', amount)) == model.first(amount)
        else:
            ours.clear()
            model.clear()
        if what in ('push', 'query'):
            clock = max(clock, stamp) if what == 'push' else stamp
        assert ours.count('a') == len(model.stored)


def test_a_silent_camera_shows_as_a_gap_once():
    ours = history()
    assert not ours.watched and ours.take_gap_ns() == 0
    for stamp in (1000, 1050, 1740, 1800):
        ours.push('a', stamp * MS, frame(stamp))
        ours.push('b', (stamp // 100) * 100 * MS, frame(stamp))
    assert ours.watched and ours.take_gap_ns() == 700 * MS  # camera b, 1000 to 1700
    assert ours.take_gap_ns() == 0
    ours.push_prepared(2000 * MS, {'a': frame(2000)})
    assert ours.take_gap_ns() == 200 * MS
    ours.push_prepared(500 * MS, {'a': frame(500)})  # a new episode: time between them is no gap
    assert ours.take_gap_ns() == 0
    ours.push('a', 900 * MS, frame(900))
    ours.clear()
    assert ours.take_gap_ns() == 0 and not ours.watched
    ours.push('a', 1000 * MS, frame(1))
    assert ours.watched
    ours.push_prepared(1100 * MS, {'a': frame(2), 'b': frame(2)})
    assert not ours.watched  # every camera


def test_drawing_on_a_queried_image_leaves_the_history_alone():
    ours, image = history(), frame(5)
    ours.push_prepared(1000 * MS, {'a': image})
    image[:] = 99
    assert number(ours.before('a', 1400 * MS, 50 * MS)) == 5


def test_frames_are_prepared_once_and_only_when_asked():
    prepared = []
    ours = FrameHistory(lambda raw: prepared.append(number(raw)) or -raw, SPACING)
    frames = [Counted(i) for i in range(10)]
    for i, counted in enumerate(frames):
        ours.push('a', (1000 + 50 * i) * MS, counted)
    ours.push_prepared(1450 * MS, {'a': frame(7)})
    assert prepared == []
    for _ in range(3):
        assert number(ours.before('a', 1450 * MS, 100 * MS)) == -7
        assert number(ours.first('a', 0)) == 0
    assert sorted(prepared) == [0, 7]
    assert [f.decoded for f in frames] == [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize('where', ['decoding', 'preparing'])
def test_a_broken_frame_gives_none_and_is_tried_once(where):
    def prepare(raw):
        if where == 'preparing':
            raise InputRefused('image', 'image is grey', 'send colour')
        return raw

    ours, broken = FrameHistory(prepare, SPACING), Counted(1, broken=where == 'decoding')
    ours.push('a', 1000 * MS, broken)
    ours.push_prepared(1400 * MS, {'a': frame(2)})
    for _ in range(2):
        assert ours.before('a', 1400 * MS, 50 * MS) is None
        assert ours.first('a', 0) is None
    assert broken.decoded == 1
    ours.push_prepared(1800 * MS, {'a': frame(3)})
    assert number(ours.before('a', 1800 * MS, 50 * MS)) == 2


def test_memory_is_bounded_and_the_first_two_frames_are_kept():
    ours, alive = history(length=5), []
    for i in range(200):
        image = frame(i)
        alive.append(weakref.ref(image))
        ours.push('a', (1000 + 50 * i) * MS, image)
        if i % 8 == 7:
            ours.push_prepared((1000 + 50 * i) * MS, {'a': frame(i)})
            ours.before('a', (1000 + 50 * i) * MS, 100 * MS)
    del image
    held = [i for i, ref in enumerate(alive) if ref() is not None]
    assert set(held) <= {0, 1, *range(195, 200)} and {0, 1} <= set(held)
    assert [number(ours.first('a', i)) for i in (0, 1)] == [0, -1]
    assert alive[0]() is None and alive[1]() is None  # prepared: what they came from is gone
    ours.clear()
    assert ours.count('a') == 0 and ours.first('a', 0) is None
    assert not any(ref() is not None for ref in alive)


def test_one_thread_asks_while_others_push():
    """A frame's number is its stamp: every answer must be older than the query."""
    ours, faults, stop = history(spacing=10, length=8), [], threading.Event()
    done = {'a': 0, 'b': 0}

    def camera(name):
        stamp = 0
        while not stop.is_set() and stamp < 10_000_000:
            stamp += 10
            ours.push(name, stamp, frame(stamp))
            done[name] = stamp

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=camera, args=(name,)) for name in done]
    try:
        for thread in threads:
            thread.start()
        while min(done.values()) < 100:
            pass
        last = 0
        for _ in range(300):
            now = min(done.values())
            ours.push_prepared(now, {name: frame(-now) for name in done})
            for name in done:
                found = ours.before(name, now, 30)
                # At the same stamp as the query before its frame is the one that was asked for.
                same = now == last and number(found) == -now
                if found is not None and not number(found) > -now and not same:
                    faults.append((now, number(found)))
                assert number(ours.first(name, 1)) == -20
            last = now
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert faults == []


def test_a_push_does_not_wait_for_the_frames_that_are_saved():
    ours, pushed = history(), threading.Event()
    ours.push('a', MS, lambda: frame(1 if pushed.wait(20) else 0))
    saved = []
    saver = threading.Thread(target=lambda: saved.append(ours.state()))
    saver.start()
    ours.push('a', 100 * MS, frame(2))
    pushed.set()
    saver.join()
    assert [number(raw) for _, raw, _, _ in saved[0]['a']['entries']] == [1, 2]
