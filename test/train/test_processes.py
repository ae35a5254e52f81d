"""Jobs in other processes: every result once, one thread each, errors come through."""

import math
import os

import pytest

from vla_prune_ros.train.processes import in_processes


def test_children_have_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    jobs = [('OMP_NUM_THREADS',), ('MKL_NUM_THREADS',), ('NO_SUCH_VARIABLE',)]
    found = list(in_processes(os.getenv, jobs, 1))
    assert sorted(map(str, found)) == ['1', '1', 'None']
    assert os.environ['OMP_NUM_THREADS'] == '2' and 'MKL_NUM_THREADS' not in os.environ


def test_without_jobs_no_process_starts(monkeypatch):
    monkeypatch.setattr('vla_prune_ros.train.processes.ProcessPoolExecutor', None)
    assert list(in_processes(math.sqrt, [], 2)) == []


def test_what_a_job_raises_is_raised_here():
    with pytest.raises(ValueError, match='math domain|nonnegative'):
        list(in_processes(math.sqrt, [(-1.0,)], 1))
