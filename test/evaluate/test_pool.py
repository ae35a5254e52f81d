"""Jobs in other processes: every result once, errors come through, nothing is left behind."""

import math
import multiprocessing
import os
import signal
import time

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate import pool as process_pool
from vla_prune_ros.evaluate.pool import in_processes


def test_every_job_gives_its_result_once():
    found = list(in_processes(math.sqrt, [(float(n * n),) for n in range(20)], 2))
    assert sorted(found) == list(range(20))


def test_each_process_begins_as_it_is_told(tmp_path):
    assert list(in_processes(os.getcwd, [()], 1, os.chdir, (tmp_path,))) == [str(tmp_path)]


def test_ctrl_c_is_left_to_the_parent():
    assert list(in_processes(signal.getsignal, [(signal.SIGINT,)], 1)) == [signal.SIG_IGN]


def test_without_jobs_no_process_starts(monkeypatch):
    monkeypatch.setattr(process_pool, 'ProcessPoolExecutor', None)
    assert list(in_processes(math.sqrt, [], 2)) == []


def test_what_a_job_raises_is_raised_here():
    with pytest.raises(ValueError, match='math domain|nonnegative'):
        list(in_processes(math.sqrt, [(-1.0,)], 1))


def test_a_process_that_dies_is_said():
    with pytest.raises(VlaPruneError, match='a worker process died; run the same command again'):
        list(in_processes(os._exit, [(9,)], 1))


def test_whoever_stops_listening_waits_for_nobody():
    results = in_processes(time.sleep, [(0.0,), (600.0,)], 2)
    assert next(results) is None
    begun = time.monotonic()
    results.close()
    while multiprocessing.active_children():  # asked to end, and not yet gone
        assert time.monotonic() - begun < 60.0
        time.sleep(0.02)
