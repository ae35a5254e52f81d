"""Coarse or fine as truth tables, against plain transcriptions, and as properties.

Expected modes come from the rules as the paper (v1) and the 2026 code state them; look-backs are
worked out by hand from the printed formulas.
"""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.modes import (
    LEGACY_2026,
    PAPER,
    RECOMMENDED,
    Controller,
    look_back_clamped,
    look_back_legacy,
    look_back_paper,
)
from vla_prune_ros.records import MotionHint

LIBERO = Target()
ROBOT = Target(control_period_s=0.2, step_m=1.0, step_rad=1.0)
PRESETS = {'paper': PAPER, 'legacy_2026': LEGACY_2026, 'recommended': RECOMMENDED}
presets = pytest.mark.parametrize('settings', PRESETS.values(), ids=PRESETS)
NAN, INF = float('nan'), float('inf')


def motion(linear, angular, vertical):
    return MotionHint(linear, angular, vertical, 'test')


def at(settings, mode, target=LIBERO):
    """A controller that is in ``mode``."""
    controller = Controller(settings, target)
    if mode == 'fine':
        assert controller.update(motion(1e-3, 1e-3, -1e-3)) == 'fine'
    assert controller.mode == mode
    return controller


@pytest.mark.parametrize(
    ('settings', 'before', 'linear', 'angular', 'vertical', 'after'),
    [
        # Slow as a whole, by 0.35 m/s and 2 rad/s, and by 0.09 m/s and 0.5 rad/s.
        (PAPER, 'coarse', 0.34, 1.9, 0.0, 'fine'),
        (PAPER, 'coarse', 0.34, 1.9, 1e-6, 'coarse'),
        (PAPER, 'coarse', 0.35, 1.9, -0.1, 'coarse'),
        (PAPER, 'coarse', 0.34, 2.0, -0.1, 'coarse'),
        (PAPER, 'fine', 0.36, 0.0, -0.3, 'coarse'),
        (PAPER, 'fine', 0.1, 2.1, -0.1, 'coarse'),
        (PAPER, 'fine', 0.35, 2.0, 0.0, 'fine'),
        (RECOMMENDED, 'coarse', 0.089, 0.49, 0.01, 'fine'),
        (RECOMMENDED, 'coarse', 0.089, 0.49, 0.011, 'coarse'),
        (RECOMMENDED, 'coarse', 0.091, 0.49, 0.0, 'coarse'),
        (RECOMMENDED, 'coarse', 0.089, 0.51, 0.0, 'coarse'),
        (RECOMMENDED, 'fine', 0.134, 0.74, 0.3, 'fine'),
        (RECOMMENDED, 'fine', 0.136, 0.0, 0.0, 'coarse'),
        (RECOMMENDED, 'fine', 0.0, 0.76, 0.0, 'coarse'),
        # The 2026 rule counts units of LIBERO: 0.05 m or 0.5 rad in 0.05 s.
        (LEGACY_2026, 'coarse', 0.34, 90.0, 0.3, 'fine'),  # slow as a whole, whatever else
        (LEGACY_2026, 'coarse', 0.36, 0.0, 0.0, 'coarse'),  # fast in the plane
        (LEGACY_2026, 'coarse', 0.90, 1.9, -0.8999, 'fine'),  # a fast straight descent
        (LEGACY_2026, 'coarse', 0.90, 2.1, -0.8999, 'coarse'),  # the same while turning
        (LEGACY_2026, 'coarse', 0.90, 1.9, -0.85, 'coarse'),  # 0.296 in the plane
        (LEGACY_2026, 'coarse', 0.90, 0.0, 0.8999, 'coarse'),  # a fast straight ascent
        (LEGACY_2026, 'fine', 0.90, 0.0, 0.19, 'fine'),
        (LEGACY_2026, 'fine', 0.90, 0.0, 0.21, 'coarse'),
        (LEGACY_2026, 'fine', 0.0, 2.9, 0.0, 'fine'),
        (LEGACY_2026, 'fine', 0.0, 3.1, 0.0, 'coarse'),
    ],
)
def test_the_rules_as_truth_tables(settings, before, linear, angular, vertical, after):
    controller = at(settings, before)
    assert controller.update(motion(linear, angular, vertical)) == after == controller.mode
    assert not controller.unknown


speeds = st.tuples(
    st.floats(0, 2) | st.sampled_from([0.0, 0.09, 0.11, 0.34, 0.36]),
    st.floats(0, 1) | st.sampled_from([0.0, 0.19, 0.21, 0.29, 0.31]),
    st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 0.09, 0.11, 0.19, 0.21, 1.0]),
)


@given(st.floats(0.01, 2), st.floats(0.01, 10), st.floats(1, 4), st.lists(speeds, max_size=30))
def test_a_change_back_needs_a_crossing_of_the_whole_band(enter, turn, factor, steps):
    """Between two changes the speed has been on both sides of the band."""
    settings = replace(RECOMMENDED, leave_factor=factor, enter_m_s=enter, enter_rad_s=turn)
    controller, before = Controller(settings, LIBERO), 'coarse'
    for linear, angular, vertical in steps:
        mode = controller.update(motion(linear, angular, vertical))
        if (before, mode) == ('coarse', 'fine'):
            assert linear < enter and angular < turn
        if (before, mode) == ('fine', 'coarse'):
            assert linear > factor * enter or angular > factor * turn
        before = mode


@presets
@given(before=st.lists(speeds, max_size=8), after=st.lists(speeds, max_size=8))
def test_only_what_came_since_the_reset_counts(settings, before, after):
    used, fresh = Controller(settings, LIBERO), Controller(settings, LIBERO)
    for step in before:
        used.update(motion(*step))
    used.update(None)
    used.reset()
    assert used.mode == 'coarse' and not used.unknown
    assert [used.update(motion(*s)) for s in after] == [fresh.update(motion(*s)) for s in after]


UNKNOWN = [None, motion(NAN, 0, 0), motion(0, INF, 0), motion(0, 0, -INF), motion(0, 0, NAN)]


@presets
@pytest.mark.parametrize('mode', ['coarse', 'fine'])
@pytest.mark.parametrize('hint', UNKNOWN)
def test_unknown_motion_is_answered_conservatively_and_not_remembered(settings, mode, hint):
    controller = at(settings, mode)
    safe = 'coarse' if settings is LEGACY_2026 else 'fine'
    assert controller.update(hint) == safe
    assert controller.unknown and controller.mode == mode


def test_overridden_thresholds_of_the_2026_rule_are_si_too():
    settings = replace(LEGACY_2026, enter_m_s=0.1, enter_rad_s=0.5)
    assert Controller(settings, ROBOT).update(motion(0.11, 9.0, 0.0)) == 'coarse'
    assert Controller(settings, ROBOT).update(motion(0.09, 9.0, 0.0)) == 'fine'
    assert Controller(settings, ROBOT).update(motion(3.0, 0.4, -3.0)) == 'fine'
    assert Controller(settings, ROBOT).update(motion(3.0, 0.6, -3.0)) == 'coarse'
    assert Controller(LEGACY_2026, ROBOT).update(motion(3.0, 0.6, -3.0)) == 'fine'


@given(st.integers(0, 20_000))
def test_look_back_in_exact_arithmetic(thousandths):
    """Rational numbers; whole values of x, where rounding decides, are left out."""
    x = Fraction(22, 3) - Fraction(16, 18) * Fraction(thousandths, 1000)
    assume(x.denominator != 1)
    assert look_back_legacy(thousandths / 1000) == min(6, math.trunc(x) + 3)
    assert look_back_clamped(thousandths / 1000) == min(6, max(2, math.floor(x) + 3))


@pytest.mark.parametrize(
    ('speed', 'steps'), [(0.0, 11), (0.01, 10), (1.0, 10), (1.2, 9), (9.0, 2), (50.0, 2)]
)
def test_look_back_of_the_paper(speed, steps):
    """floor(7 - v) + 4 within 2 ... 11."""
    assert look_back_paper(speed) == steps
