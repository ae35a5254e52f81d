"""Small jobs in several processes of one thread each."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar('Result')
_THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def in_processes(
    work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """Results of ``work(*job)`` as they come, in any order.

    :param work: a function of a module. Processes are spawned, because an OpenGL context does not
        survive a fork.
    :raises Exception: what a job raised; jobs that did not begin are given up.
    """
    if not jobs:
        return
    context = multiprocessing.get_context('spawn')
    with _one_thread(), ProcessPoolExecutor(workers, context) as pool:
        waiting = [pool.submit(work, *job) for job in jobs]
        try:
            for job in as_completed(waiting):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """For children: several small jobs beat one that is shared between threads."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
