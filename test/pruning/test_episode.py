"""What ends an episode: a table of queries, in seconds and words."""

import numpy as np
import pytest
from pruning_pass import make_query

from vla_prune_ros.pruning.base import EpisodeMonitor
from vla_prune_ros.pruning.frames import FrameHistory
from vla_prune_ros.pruning.layout import Layout, Target

LAYOUT = Layout(('a',), 4, 1, 20, 8)
IMAGE = np.zeros((28, 28, 3), np.uint8)


def query(at_s, instruction='task', history=None):
    stamp_ns = round(at_s * 1e9)
    return make_query(LAYOUT, instruction=instruction, stamp_ns=stamp_ns, history=history)


FIRST, NEW, BACK, GAP = 'first', 'new_instruction', 'clock_jump', 'camera_gap'


@pytest.mark.parametrize(
    ('times_s', 'instructions', 'want'),
    [
        ((1.0, 1.4, 1.8, 2.6), 'xxxx', [FIRST, '', '', '']),  # 0.8 s: twice the usual
        ((0, 0, 0), 'xxy', [FIRST, '', NEW]),  # without stamps only the instruction tells
        ((5.0, 5.4, 5.3, 5.7), 'xxxx', [FIRST, '', BACK, '']),
        # Ten seconds per query are no silent camera: the second cannot tell, the third can.
        ((0.1, 10.1, 20.1, 30.1, 60.0), 'xxxxx', [FIRST, GAP, '', '', GAP]),
    ],
)
def test_queries_that_continue_an_episode(times_s, instructions, want):
    monitor = EpisodeMonitor(Target())
    queries = map(query, times_s, instructions)
    assert [monitor.check(q) for q in queries] == want
    monitor.reset()
    assert monitor.check(query(times_s[-1])) == FIRST


@pytest.mark.parametrize(
    ('chunk', 'period_s', 'limit_s'), [(8, 0.05, 0.5), (5, 0.2, 1.25), (1, 0.05, 0.5)]
)
def test_a_chunk_and_a_quarter_or_half_a_second(chunk, period_s, limit_s):
    for gap_s, want in ((limit_s, ''), (limit_s + 0.001, GAP)):
        monitor = EpisodeMonitor(Target(chunk=chunk, control_period_s=period_s))
        assert [monitor.check(query(at)) for at in (1.0, 1.0 + gap_s)] == [FIRST, want]


def test_frames_that_are_watched_decide_alone():
    monitor, history = EpisodeMonitor(Target()), FrameHistory(lambda image: image, 25_000_000)

    def frames(*times_s):
        for at in times_s:
            history.push('a', round(at * 1e9), IMAGE)

    frames(0.0, 0.3, 0.6)
    assert monitor.check(query(0.6, history=history)) == 'first'
    frames(*np.arange(0.9, 9.0, 0.3))
    assert monitor.check(query(8.7, history=history)) == ''
    frames(9.3, 9.5)  # 0.6 s after 8.7
    assert monitor.check(query(9.5, history=history)) == 'camera_gap'
    assert monitor.check(query(9.6, history=history)) == ''
