"""Jobs in processes that never outlive whoever asked for them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ..errors import VlaPruneError

Result = TypeVar('Result')


def in_processes(
    work: Callable[..., Result],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    begin: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Results of ``work(*job)`` as they come, in any order.

    Closing the iterator, or an exception such as Ctrl-C, ends the processes at once.

    :param work: a function of a module. Processes are spawned: a forked one would inherit torch's
        threads and OpenGL contexts in whatever state.
    :param begin: called as ``begin(*given)`` in each process before its first job.
    :raises VlaPruneError: a process died.
    :raises Exception: what a job raised; jobs that did not begin are given up.
    """
    if not jobs:
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start, (begin, given))
    try:
        for future in as_completed([pool.submit(work, *job) for job in jobs]):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise VlaPruneError(
            'a worker process died',
            'run the same command again with fewer --workers (memory?); it goes on from here',
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
            child.join()


def _start(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
