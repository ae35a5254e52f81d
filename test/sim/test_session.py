"""Twists as actions, episodes, held commands, lock-step, pace, on a scene that only adds up.

Expected numbers are counted by hand: 20 Hz, so 50 ms per step; an action of 1.0 is 0.05 m or 0.5
rad per step (robosuite's ``osc_pose.json``).
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.sim.scene import Scene, SceneState, twist_to_action
from vla_prune_ros.sim.session import Pacer, Session

STEP_NS = 50_000_000
START_NS = 1_000_000_000
FORWARD, STILL = [0.1, 0.0, 0.0], np.zeros(3)


def vectors(limit):
    return st.lists(st.floats(-limit, limit), min_size=3, max_size=3)


@given(vectors(1.0), vectors(10.0), st.floats(0.0, 1.0), st.floats(20.0, 100.0))
def test_an_action_gives_the_twist_back(v, w, opened, rate):
    action = twist_to_action(np.array(v), np.array(w), opened, rate)
    assert action.shape == (7,) and action.dtype == np.float64
    np.testing.assert_allclose(action[:3] * 0.05 * rate, v, atol=1e-12)
    np.testing.assert_allclose(action[3:6] * 0.5 * rate, w, atol=1e-12)
    np.testing.assert_allclose((1.0 - action[6]) / 2.0, opened, atol=1e-12)


def test_a_twist_beyond_the_unit_is_clipped_and_keeps_its_sign():
    action = twist_to_action(np.array([5.0, -5.0, 0.0]), np.array([-99.0, 0.0, 99.0]), 0.0, 20.0)
    np.testing.assert_array_equal(action, [1.0, -1.0, 0.0, -1.0, 0.0, 1.0, 1.0])


class AddingScene(Scene):
    """Moves exactly by the commanded delta."""

    control_hz, cameras, description, time_s = 20.0, (), 'adding', 0.0

    def __init__(self):
        self.seeds, self.actions, self.position = [], [], np.zeros(3)

    def reset(self, seed):
        self.seeds.append(seed)
        self.position = np.zeros(3)
        self.instruction = f'task {seed}'

    def step(self, action):
        self.actions.append(action)
        self.position = self.position + 0.05 * action[:3]

    def state(self):
        upright = np.array([0.0, 0.0, 0.0, 1.0])
        return SceneState(self.position, upright, (), np.zeros(0), np.zeros(0))

    def images(self):
        return {}

    def success(self):
        return False


@pytest.fixture
def s():
    return Session(AddingScene(), seed=7, command_timeout_s=0.2)


def advance(s, steps):
    for _ in range(steps):
        s.advance()


def test_time_starts_at_one_second_and_rises_across_episodes(s):
    times = [s.now_ns]
    for _ in range(3):
        s.advance()
        times.append(s.now_ns)
    assert times == [START_NS + k * STEP_NS for k in range(4)]
    s.next_episode()
    assert s.now_ns == START_NS + 4 * STEP_NS
    assert (s.episode, s.seed, s.step, s.moved_m) == (1, 8, 0, 0.0)
    s.next_episode(2_000_000_000)
    assert s.now_ns == START_NS + 5 * STEP_NS + 2_000_000_000
    assert Session(AddingScene(), 0, 0.2, start_ns=5).now_ns == 5


def test_seeds_count_up_and_can_start_anew(s):
    """Two methods then see the same scenes."""
    s.next_episode()
    s.restart_seeds(7)
    for _ in range(2):
        s.next_episode()
    assert s.scene.seeds == [7, 8, 7, 8]


def test_a_twist_is_held_until_it_is_older_than_the_timeout(s):
    s.commands.set_twist(FORWARD, STILL, s.now_ns)
    advance(s, 8)
    moved = [bool(a[0]) for a in s.scene.actions]
    assert moved == [True] * 5 + [False] * 3  # ages 0, 50, 100, 150 and 200 ms, then too old
    assert s.moved_m == pytest.approx(5 * 0.005)
    assert s.report()['commands'] == 1


def test_a_newer_command_replaces_the_older_and_a_reset_drops_it(s):
    s.commands.set_twist(FORWARD, STILL, s.now_ns)
    s.advance()
    s.commands.set_gripper(-3.0)  # clipped to closed
    s.commands.set_twist([0.0, 0.0, -0.1], STILL, s.now_ns)
    s.advance()
    np.testing.assert_allclose(s.scene.actions[1][:3], [0.0, 0.0, -0.1])
    assert s.commands.applied == 2
    s.next_episode()
    s.advance()
    assert not s.scene.actions[2][:6].any() and s.commands.applied == 0
    assert [a[6] for a in s.scene.actions] == [-1.0, 1.0, -1.0]  # open at first and anew


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_the_older_stays(s, bad):
    s.commands.set_twist(FORWARD, STILL, s.now_ns)
    s.commands.set_gripper(0.25)
    for where in range(6):
        values = np.where(np.arange(6) == where, bad, 0.0)
        with pytest.raises(InputRefused) as refusal:
            s.commands.set_twist(values[:3], values[3:], s.now_ns)
        assert refusal.value.reason == 'non_finite'
    with pytest.raises(InputRefused):
        s.commands.set_gripper(bad)
    s.advance()
    np.testing.assert_allclose(s.scene.actions[0], [0.1, 0, 0, 0, 0, 0, 0.5], atol=1e-12)


@settings(max_examples=30)
@given(st.floats(0.1, 20.0))
def test_due_happens_at_the_asked_rate(rate):
    s = Session(AddingScene(), 7, 0.2)
    count = 0
    for _ in range(400):
        s.advance()
        count += s.due(rate)
    assert abs(count - rate * 20.0) <= 1  # 400 steps are 20 s
    s.next_episode()
    assert s.due(rate)


def paced(factor):
    """With a clock whose seconds pass when told."""
    clock = SimpleNamespace(now=100.0)
    return clock, Pacer(0.05, factor, lambda: clock.now)


def test_pacer_spreads_steps_and_measures():
    clock, pacer = paced(0.5)  # half speed: 0.1 s of wall time per step
    for _ in range(10):
        assert pacer.wait_s() == pytest.approx(0.1)
        clock.now += pacer.wait_s()
        pacer.stepped()
    assert pacer.measured() == pytest.approx(0.5)


def test_pacer_makes_up_for_jitter_below_one_step_but_not_for_a_stall():
    clock, pacer = paced(1.0)
    clock.now += 0.07
    pacer.stepped()
    assert pacer.wait_s() == pytest.approx(0.03)
    clock.now += 3.0
    made = 0
    while pacer.wait_s() == 0.0:
        pacer.stepped()
        made += 1
    assert made <= 2


def test_pacer_without_limit_never_waits():
    _, pacer = paced(0.0)
    for _ in range(5):
        assert pacer.wait_s() == 0.0
        pacer.stepped()
    assert pacer.measured() == 0.0  # no wall time has passed on this clock
