"""Small jobs in several processes of one thread each."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..evaluate import process_pool
from ..evaluate.process_pool import Result

_THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')


def in_processes(
    work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """As :func:`.process_pool.in_processes`, with one thread per process."""
    with _one_thread():
        yield from process_pool.in_processes(work, jobs, workers)


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
