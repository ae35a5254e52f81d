"""Pairing against a brute-force twin that tries every combination, and against the fault cases.

The twin keeps every message for ever and knows only the rule: of all sets of fresh images, one per
camera and within the slop, with a usable state sample, the one with the newest images.
"""

import itertools
import weakref
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused, ProfileError
from vla_prune_ros.runtime.pairing import NotReady, Pair, Pairing, PairingLimits

MS = 1_000_000
START_MS = 1_700_000_000_000
SLOP, AGE, FUTURE, REORDER = 40, 300, 50, 30
CAMERAS, STREAMS = ('primary', 'wrist', 'side'), ('pose', 'joints')


def pairing(cameras=CAMERAS[:2], streams=STREAMS[:1], **changes: float) -> Pairing:
    values = {'slop_s': SLOP, 'max_age_s': AGE, 'future_s': FUTURE, 'reorder_s': REORDER}
    limits = {name: ms / 1e3 for name, ms in values.items()} | changes
    return Pairing(cameras, streams, PairingLimits(**limits))


class Clocked:
    """Drives a pairing in milliseconds after ``START_MS`` (ROS) and after 0 (monotonic)."""

    def __init__(self, pairs: Pairing) -> None:
        self.pairs, self.now, self.mono = pairs, 0, 0

    def advance(self, ms: int, mono: int | None = None) -> None:
        self.now += ms
        self.mono += ms if mono is None else mono

    def push(self, stream: str, stamp: int | None = None) -> bool:
        stamp = self.now if stamp is None else stamp
        return self.pairs.push(
            stream, (START_MS + stamp) * MS, self.mono * MS, stamp, (START_MS + self.now) * MS
        )

    def push_all(self, stamp: int | None = None) -> None:
        for name in self.pairs.streams + self.pairs.cameras:
            self.push(name, stamp)

    def take(self) -> Pair | NotReady:
        return self.pairs.take((START_MS + self.now) * MS, self.mono * MS)

    def refused(self, stream: str, stamp: int) -> str:
        with pytest.raises(InputRefused) as caught:
            self.push(stream, stamp)
        assert self.pairs.losses[caught.value.reason] >= 1
        return caught.value.reason


@dataclass
class Twin:
    cameras: tuple[str, ...]
    streams: tuple[str, ...]
    heard: dict[str, dict[int, int]] = field(default_factory=dict)  # stream -> stamp -> receipt
    last: int = -(10**9)

    def push(self, stream: str, stamp: int, now: int, mono: int) -> str:
        newest = max(self.heard.get(stream, ()), default=None)
        if stamp > now + FUTURE:
            return 'stamp_future'
        if newest is not None and 0 < newest - stamp <= REORDER:
            return 'out_of_order'
        reset = newest is not None and newest - stamp > REORDER
        if reset:
            self.heard, self.last = {}, -(10**9)
        self.heard.setdefault(stream, {})[stamp] = mono
        return 'reset' if reset else 'stored'

    def take(self, now: int, mono: int) -> dict[str, int] | None:
        fresh = {
            name: [
                stamp
                for stamp, receipt in self.heard.get(name, {}).items()
                if now - stamp <= AGE and mono - receipt <= AGE
            ]
            for name in self.cameras + self.streams
        }
        best = None
        for images in itertools.product(*(fresh[name] for name in self.cameras)):
            newest = max(images)
            if newest <= self.last or newest - min(images) > SLOP:
                continue
            states = [self.state(fresh[name], newest) for name in self.streams]
            key = (newest, *images)
            if None not in states and (best is None or key > best[0]):
                best = key, dict(zip(self.cameras + self.streams, (*images, *states), strict=True))
        if best is None:
            return None
        self.last = best[0][0]
        return best[1]

    @staticmethod
    def state(stamps: list[int], anchor: int) -> int | None:
        before = [s for s in stamps if s <= anchor]
        after = [s for s in stamps if anchor < s <= anchor + SLOP]
        return max(before) if before else min(after, default=None)


PASSED_MS = st.integers(0, 60)
OFFSETS_MS = st.one_of(st.integers(-40, 20), st.integers(-400, 100))
scripts = st.lists(
    st.tuples(PASSED_MS, PASSED_MS, st.integers(0, 4), OFFSETS_MS, st.booleans()), max_size=80
)


@settings(deadline=None)
@given(scripts, st.integers(1, 3), st.integers(0, 2))
def test_against_the_twin(script, cameras, streams):
    clocked = Clocked(pairing(CAMERAS[:cameras], STREAMS[:streams]))
    twin = Twin(CAMERAS[:cameras], STREAMS[:streams])
    names = twin.cameras + twin.streams
    for ros, mono, which, offset, take in script:
        clocked.advance(ros, mono)
        stream, stamp = names[which % len(names)], clocked.now + offset
        expected = twin.push(stream, stamp, clocked.now, clocked.mono)
        if expected in ('stored', 'reset'):
            assert clocked.push(stream, stamp) == (expected == 'reset')
        else:
            assert clocked.refused(stream, stamp) == expected
        if take:
            wanted, got = twin.take(clocked.now, clocked.mono), clocked.take()
            assert isinstance(got, NotReady) if wanted is None else got.items == wanted
            if isinstance(got, Pair):
                check_pair(got, clocked, twin.cameras)


def check_pair(pair: Pair, clocked: Clocked, cameras: tuple[str, ...]) -> None:
    """What a pair says of itself, from the stamps it was made of."""
    images = [pair.items[name] for name in cameras]
    assert pair.stamp_ns == (START_MS + max(images)) * MS
    assert pair.skew_s == pytest.approx((max(images) - min(images)) / 1e3)
    for name, stamp in pair.items.items():
        assert pair.ages_s[name] == pytest.approx((clocked.now - stamp) / 1e3)


def test_a_strict_pair_waits_for_the_state_of_its_instant():
    clocked = Clocked(pairing(slop_s=0.0, state_slop_s=0.0))
    clocked.push_all()
    assert clocked.take().items == {'primary': 0, 'wrist': 0, 'pose': 0}
    clocked.advance(50)
    for camera in CAMERAS[:2]:
        clocked.push(camera)
    assert clocked.take().reason == 'skew'
    clocked.push('pose')
    assert clocked.take().items == {'primary': 50, 'wrist': 50, 'pose': 50}


class TestTime:
    def test_a_jump_back_without_the_clock_is_a_reset_not_starvation(self):
        """Stamps restart while the ROS clock stays: stale, with the remedy."""
        clocked = Clocked(pairing())
        clocked.push_all()
        assert isinstance(clocked.take(), Pair) and clocked.take().reason == 'nothing_new'
        clocked.advance(50)
        names = ('primary', 'wrist', 'pose')
        assert [clocked.push(name, -3_600_000) for name in names] == [True, False, False]
        wait = clocked.take()
        assert wait.reason == 'stale:primary' and 'use_sim_time' in wait.detail
        assert clocked.pairs.losses == {'time_jump': 1}

    def test_clear_forgets_the_last_pair(self):
        clocked = Clocked(pairing())
        clocked.push_all()
        clocked.take()
        clocked.pairs.clear('reset')
        for name in ('primary', 'wrist', 'pose'):
            assert clocked.take().reason == f'missing:{name}'
            clocked.push(name)
        assert isinstance(clocked.take(), Pair) and clocked.pairs.losses['reset'] == 1


class TestFaults:
    def test_a_camera_that_stops_then_returns(self):
        clocked = Clocked(pairing())
        reasons = []
        for k in range(60):
            names = ('primary', 'pose') if 20 <= k < 40 else ('primary', 'wrist', 'pose')
            for name in names:
                clocked.push(name)
            got = clocked.take()
            reasons.append('pair' if isinstance(got, Pair) else got.reason)
            clocked.advance(33)
        assert reasons[:21] == ['pair'] * 21  # one more: the last wrist image is within the slop
        assert reasons[21:28] == ['skew'] * 7 and reasons[29:40] == ['stale:wrist'] * 11
        assert reasons[40:] == ['pair'] * 20

    @pytest.mark.parametrize(
        'stamp, silent, what',
        [(-AGE - 1, 0, 'header stamp is 0.301 s old'), (0, AGE + 1, 'no message for 0.301 s')],
    )
    def test_an_old_header_or_an_old_receipt(self, stamp, silent, what):
        """A network that delays by more than the limit; a source that went silent."""
        clocked = Clocked(pairing())
        clocked.push_all(stamp)
        clocked.advance(0, silent)
        wait = clocked.take()
        assert wait.reason == 'stale:primary' and what in wait.detail

    @pytest.mark.parametrize('by, works', [(SLOP, True), (SLOP + 1, False)])
    def test_skewed_cameras(self, by, works):
        clocked = Clocked(pairing())
        clocked.push('pose')
        clocked.push('wrist')
        clocked.advance(by)
        clocked.push('primary')
        got = clocked.take()
        if works:
            assert got.skew_s == by / 1e3
        else:
            assert got.reason == 'skew' and f'wrist -{by}.0 ms' in got.detail

    def test_stamps_that_are_refused(self):
        clocked = Clocked(pairing())
        clocked.push_all()
        clocked.push('primary', FUTURE)
        assert clocked.refused('wrist', FUTURE + 1) == 'stamp_future'
        with pytest.raises(InputRefused, match='/clock'):
            clocked.push('wrist', 10**7)
        assert clocked.refused('primary', -START_MS) == 'stamp_zero'
        assert clocked.refused('pose', -1) == clocked.refused('pose', -REORDER) == 'out_of_order'
        assert clocked.push('pose', -REORDER - 1) is True  # later than that is a reset
        assert clocked.take().reason == 'missing:primary'
        with pytest.raises(ProfileError, match="'lidar'.*primary"):
            clocked.push('lidar')

    def test_the_same_stamp_again_replaces(self):
        clocked = Clocked(pairing(CAMERAS[:1], ()))
        clocked.push('primary')
        clocked.pairs.push('primary', START_MS * MS, 0, 'second', START_MS * MS)
        assert clocked.take().items == {'primary': 'second'}
        assert clocked.pairs.losses == {'duplicate': 1}

    def test_health_takes_nothing(self):
        clocked = Clocked(pairing())
        assert clocked.pairs.health(START_MS * MS, 0).reason == 'missing:primary'
        clocked.push_all()
        assert clocked.pairs.health(START_MS * MS, 0) is None
        assert isinstance(clocked.take(), Pair)
        for clocks in (((START_MS + AGE + 1) * MS, 0), (START_MS * MS, (AGE + 1) * MS)):
            assert clocked.pairs.health(*clocks).reason == 'stale:primary'


class Item:
    """Of which weak references are possible."""


class TestMemory:
    def test_images_are_bounded_by_depth_and_all_by_age(self):
        clocked, items = Clocked(pairing(max_age_s=10.0, depth=5)), weakref.WeakSet()
        names, clock = clocked.pairs.cameras + clocked.pairs.streams, START_MS * MS
        for i in range(50):
            for name in names:
                item = Item()
                items.add(item)
                clocked.pairs.push(name, clock + i, 0, item, clock + i)
        del item
        assert len(items) == 5 + 5 + 50
        for name in names:
            clocked.pairs.push(name, clock + 20_000 * MS, 0, None, clock + 20_000 * MS)
        assert not items

    def test_nothing_that_may_still_be_fresh_is_dropped(self):
        """The newest stamp may run ahead of the clock, and must not age what is behind it."""
        clocked = Clocked(pairing(CAMERAS[:1]))
        for name, stamp in (('pose', -AGE), ('pose', FUTURE), ('primary', -AGE)):
            clocked.push(name, stamp)
        assert clocked.take().items == {'primary': -AGE, 'pose': -AGE}


@pytest.mark.parametrize(
    'cameras, streams, changes',
    [
        ((), ('pose',), {}),
        (('a', 'a'), (), {}),
        (('a',), ('a',), {}),
        (('a',), (), {'slop_s': float('nan')}),
        (('a',), (), {'max_age_s': 0.0}),
        (('a',), (), {'depth': 0}),
    ],
)
def test_bad_configuration(cameras, streams, changes):
    with pytest.raises(ProfileError):
        pairing(cameras, streams, **changes)
