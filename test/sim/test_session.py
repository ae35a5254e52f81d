"""Episodes, held commands and pace, on a scene that only adds up what it is told.

Expected numbers are counted by hand: 20 Hz, so 50 ms per step and 5 cm per unit of action.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.sim.scene import Scene, SceneState
from vla_prune_ros.sim.session import Pacer, Session

STEP_NS = 50_000_000


class AddingScene(Scene):
    """Moves exactly by the commanded delta."""

    control_hz = 20.0
    cameras = ()
    description = 'adding'
    time_s = 0.0

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
        return SceneState(
            self.position, np.array([0.0, 0.0, 0.0, 1.0]), (), np.zeros(0), np.zeros(0)
        )

    def images(self):
        return {}

    def success(self):
        return False

    def close(self):
        pass


def session(timeout_s=0.2, seed=7):
    return Session(AddingScene(), seed, timeout_s)


def test_time_starts_at_one_second_and_rises_by_the_period():
    s = session()
    times = [s.now_ns]
    for _ in range(3):
        s.advance()
        times.append(s.now_ns)
    assert times == [1_000_000_000, 1_050_000_000, 1_100_000_000, 1_150_000_000]


def test_time_rises_across_episodes_and_seeds_count_up():
    s = session()
    s.advance()
    before = s.now_ns
    s.next_episode()
    assert s.now_ns == before + STEP_NS
    assert (s.episode, s.seed, s.step, s.moved_m) == (1, 8, 0, 0.0)
    assert s.scene.seeds == [7, 8]


def test_time_can_jump_ahead_between_episodes():
    s = session()
    s.next_episode(2_000_000_000)
    assert s.now_ns == 1_000_000_000 + STEP_NS + 2_000_000_000
    assert Session(AddingScene(), 0, 0.2, start_ns=5).now_ns == 5


def test_the_report_says_where_shapes_stand_in_for_files():
    s = session()
    assert s.report()['generated_assets'] == 'false'
    s.scene.generated_assets = True
    assert s.report()['generated_assets'] == 'true'


def test_seeds_can_start_anew():
    """Two methods then see the same scenes."""
    s = session(seed=7)
    s.next_episode()
    s.restart_seeds(7)
    for _ in range(2):
        s.next_episode()
    assert s.scene.seeds == [7, 8, 7, 8]


def test_twist_is_held_until_it_is_older_than_the_timeout():
    s = session(timeout_s=0.2)
    s.commands.set_twist([0.1, 0.0, 0.0], np.zeros(3), s.now_ns)
    for _ in range(8):
        s.advance()
    moved = [bool(a[0]) for a in s.scene.actions]
    assert moved == [True] * 5 + [False] * 3  # ages 0, 50, 100, 150 and 200 ms, then too old
    assert s.moved_m == pytest.approx(5 * 0.005)
    assert s.report()['commands'] == 1


def test_a_newer_twist_replaces_the_older_at_once():
    s = session()
    s.commands.set_twist([0.1, 0.0, 0.0], np.zeros(3), s.now_ns)
    s.advance()
    s.commands.set_twist([0.0, 0.0, -0.1], np.zeros(3), s.now_ns)
    s.advance()
    np.testing.assert_allclose(s.scene.actions[1][:3], [0.0, 0.0, -0.1])
    assert s.commands.applied == 2


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('where', range(6))
def test_non_finite_twist_is_refused_and_the_older_one_stays(bad, where):
    s = session()
    s.commands.set_twist([0.1, 0.0, 0.0], np.zeros(3), s.now_ns)
    values = np.zeros(6)
    values[where] = bad
    with pytest.raises(InputRefused) as refusal:
        s.commands.set_twist(values[:3], values[3:], s.now_ns)
    assert refusal.value.reason == 'non_finite'
    s.advance()
    np.testing.assert_allclose(s.scene.actions[0][:6], [0.1, 0, 0, 0, 0, 0], atol=1e-12)


def test_gripper_is_open_at_first_then_held_then_open_after_a_reset():
    s = session()
    s.advance()
    s.commands.set_gripper(0.0)
    for _ in range(10):
        s.advance()
    s.next_episode()
    s.advance()
    assert [a[6] for a in s.scene.actions] == [-1.0] + [1.0] * 10 + [-1.0]


def test_non_finite_gripper_is_refused_and_others_are_clipped():
    s = session()
    with pytest.raises(InputRefused):
        s.commands.set_gripper(float('nan'))
    s.commands.set_gripper(-3.0)
    s.advance()
    assert s.scene.actions[0][6] == 1.0


def test_a_twist_from_before_the_reset_does_not_move_the_next_episode():
    s = session()
    s.commands.set_twist([0.1, 0.0, 0.0], np.zeros(3), s.now_ns)
    s.next_episode()
    s.advance()
    assert not s.scene.actions[0][:6].any()
    assert s.commands.applied == 0


@given(st.floats(0.1, 20.0))
def test_due_happens_at_the_asked_rate(rate):
    s = session()
    count = 0
    for _ in range(400):
        s.advance()
        count += s.due(rate)
    assert abs(count - rate * 20.0) <= 1  # 400 steps are 20 s


def test_due_is_true_at_the_start_of_every_episode():
    s = session()
    assert s.due(0.1)
    s.advance()
    assert not s.due(0.1)
    s.next_episode()
    assert s.due(0.1)


class HandClock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self):
        return self.now


def test_pacer_spreads_steps_and_measures():
    clock = HandClock()
    pacer = Pacer(0.05, 0.5, clock)  # half speed: 0.1 s of wall time per step
    for _ in range(10):
        assert pacer.wait_s() == pytest.approx(0.1)
        clock.now += pacer.wait_s()
        pacer.stepped()
    assert pacer.measured() == pytest.approx(0.5)


def test_pacer_does_not_make_up_for_a_long_stall():
    clock = HandClock()
    pacer = Pacer(0.05, 1.0, clock)
    clock.now += 3.0
    made = 0
    while pacer.wait_s() == 0.0:
        pacer.stepped()
        made += 1
    assert made <= 2


def test_pacer_makes_up_for_jitter_below_one_step():
    clock = HandClock()
    pacer = Pacer(0.05, 1.0, clock)
    clock.now += 0.07
    pacer.stepped()
    assert pacer.wait_s() == pytest.approx(0.03)


def test_pacer_without_limit_never_waits():
    pacer = Pacer(0.05, 0.0, HandClock())
    for _ in range(5):
        assert pacer.wait_s() == 0.0
        pacer.stepped()
    assert pacer.measured() == 0.0  # no wall time has passed on this clock
