"""Jobs in this process, in several that never outlive this one, or on a Ray cluster."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from ..errors import VlaPruneError

Result = TypeVar('Result')


def in_processes(
    work: Callable[..., Result],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    begin: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Results of ``work(*job)`` as they come; closing the iterator ends the processes at once.

    :param begin: called as ``begin(*given)`` in each process before its first job.
    :raises VlaPruneError: a process died. What a job raised is raised here.
    """
    if not jobs:
        return
    before = set(multiprocessing.active_children())
    # A forked process would inherit torch's threads and OpenGL contexts in whatever state.
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


class Setting(Protocol):
    device: str
    threads: int


class Worker(Protocol):
    def run(self, job: Any) -> Any: ...

    def close(self) -> None: ...


Kind = Callable[[Setting], Worker]
_worker: Worker | None = None  # of a worker process


def run_jobs(
    kind: Kind, jobs: Sequence[Any], setting: Setting, workers: int = 1, ray: str = ''
) -> Iterator[Any]:
    """Outcomes of all jobs as they are ready. Closing the iterator ends the workers.

    :param workers: processes; 1 runs in this one. With ``ray`` they are actors.
    :param ray: address of a cluster, ``'auto'`` for the one that runs, ``'local'`` for one that
        lives as long as this run.
    :raises VlaPruneError: Ray is not installed or not there, or a worker process died.
    """
    workers = min(workers, len(jobs))
    if not jobs:
        return
    if ray:
        yield from _on_ray(kind, jobs, setting, workers, ray)
    elif workers > 1:
        yield from in_processes(
            _work, [(job,) for job in jobs], workers, _start_worker, (kind, setting)
        )
    else:
        with contextlib.closing(kind(setting)) as worker:
            yield from map(worker.run, jobs)


def _start_worker(kind: Kind, setting: Setting) -> None:
    global _worker
    _worker = kind(setting)


def _work(job: Any) -> Any:
    assert _worker is not None  # the initializer has run
    return _worker.run(job)


def _on_ray(
    kind: Kind, jobs: Sequence[Any], setting: Setting, workers: int, address: str
) -> Iterator[Any]:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # sent to nobody
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise VlaPruneError('ray cannot be imported', "pip install 'vla_prune_ros[ray]'") from None
    try:
        ray.init(
            address=None if address == 'local' else address,
            num_cpus=workers * setting.threads if address == 'local' else None,
            include_dashboard=False if address == 'local' else None,
            logging_level='warning',
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise VlaPruneError(
            f'no Ray cluster at {address!r} ({(str(error).splitlines() or [""])[0]})',
            'start one with ray start --head, or use --ray local',
        ) from None
    gpus = 1 if setting.device.startswith('cuda') else 0
    actor = ray.remote(num_cpus=setting.threads, num_gpus=gpus)(kind)
    actors = [actor.remote(setting) for _ in range(workers)]
    try:
        pool = ActorPool(actors)
        yield from pool.map_unordered(lambda worker, job: worker.run.remote(job), jobs)
        ray.get([one.close.remote() for one in actors])
    except ray.exceptions.RayError as error:
        raise VlaPruneError(
            f'a Ray worker failed ({(str(error).splitlines() or [""])[-1]})',
            'install the same version and the checkpoint on every machine, and run it again; it '
            'goes on from here',
        ) from None
    finally:
        ray.shutdown()
