"""Jobs in other processes have one thread each; ``test_process_pool.py`` tries the rest."""

import math
import os

import pytest

from vla_prune_ros.train.collect import in_processes


def test_children_have_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    jobs = [('OMP_NUM_THREADS',), ('MKL_NUM_THREADS',), ('NO_SUCH_VARIABLE',)]
    found = list(in_processes(os.getenv, jobs, 1))
    assert sorted(map(str, found)) == ['1', '1', 'None']
    assert os.environ['OMP_NUM_THREADS'] == '2' and 'MKL_NUM_THREADS' not in os.environ


def test_an_error_leaves_the_parent_its_own_threads(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    with pytest.raises(ValueError, match='math domain|nonnegative'):
        list(in_processes(math.sqrt, [(-1.0,)], 1))
    assert os.environ['OMP_NUM_THREADS'] == '2'
