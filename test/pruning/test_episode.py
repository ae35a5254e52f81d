"""What ends an episode: a table of queries, in seconds and words."""

import numpy as np
import pytest
from pruning_pass import make_query

from vla_prune_ros.pruning.base import EpisodeMonitor
from vla_prune_ros.pruning.frames import FrameHistory
from vla_prune_ros.pruning.layout import Layout, Target

LAYOUT = Layout(('a',), 4, 1, 20, 8)
PICTURE = np.zeros((28, 28, 3), np.uint8)


def query(at_s, instruction='task', history=None):
    stamp_ns = round(at_s * 1e9)
    return make_query(LAYOUT, instruction=instruction, stamp_ns=stamp_ns, history=history)


def answers(*times_s, words=None, target=None):
    watch = EpisodeMonitor(target or Target())
    return [
        watch.check(query(at, word))
        for at, word in zip(times_s, words or ['task'] * len(times_s), strict=True)
    ]


def test_a_chunk_apart_is_one_episode():
    assert answers(1.0, 1.4, 1.8, 2.6) == ['first', '', '', '']  # 0.8 s: twice the usual


def test_without_stamps_only_the_instruction_tells():
    assert answers(0, 0, 0, words=['x', 'x', 'y']) == ['first', '', 'new_instruction']


def test_stamps_that_go_back():
    assert answers(5.0, 5.4, 5.3, 5.7) == ['first', '', 'clock_jump', '']


@pytest.mark.parametrize(
    ('chunk', 'period_s', 'limit_s'), [(8, 0.05, 0.5), (5, 0.2, 1.25), (1, 0.05, 0.5)]
)
def test_a_chunk_and_a_quarter_or_half_a_second(chunk, period_s, limit_s):
    target = Target(chunk=chunk, control_period_s=period_s)
    assert answers(1.0, 1.0 + limit_s, target=target) == ['first', '']
    assert answers(1.0, 1.001 + limit_s, target=target) == ['first', 'camera_gap']


def test_a_slow_policy_is_not_a_silent_camera():
    """Ten seconds per query: the second one cannot tell, the third can."""
    assert answers(0.1, 10.1, 20.1, 30.1, 60.0) == ['first', 'camera_gap', '', '', 'camera_gap']


def test_frames_that_are_watched_decide_alone():
    watch, history = EpisodeMonitor(Target()), FrameHistory(lambda image: image, 25_000_000)

    def frames(*times_s):
        for at in times_s:
            history.push('a', round(at * 1e9), PICTURE)

    frames(0.0, 0.3, 0.6)
    assert watch.check(query(0.6, history=history)) == 'first'
    frames(*np.arange(0.9, 9.0, 0.3))
    assert watch.check(query(8.7, history=history)) == ''
    frames(9.3, 9.5)  # 0.6 s after 8.7
    assert watch.check(query(9.5, history=history)) == 'camera_gap'
    assert watch.check(query(9.6, history=history)) == ''


def test_reset_begins_anew():
    watch = EpisodeMonitor(Target())
    watch.check(query(1.0))
    watch.reset()
    assert watch.check(query(1.1)) == 'first'
