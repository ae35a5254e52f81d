"""One thread for inference, so that callbacks, services and the watchdog never wait for the
model."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_LOG = logging.getLogger(__name__)

Proceed = Callable[[], bool]
"""Asked by work that may be given up: False where the thread is wanted for something else."""


class _Job(NamedTuple):
    payload: Any
    generation: int
    since: float  # when the slot was filled; a job that replaces another inherits it


class InferenceWorker:
    """Runs the latest job in a daemon thread of its own.

    The slot holds one job: a newer one replaces an older one that has not started, since an answer
    to the older image is worth nothing. A generation number ties a result to what was true when
    its job was submitted; :meth:`invalidate` discards whatever is queued or running.

    :param run: job -> result, in the worker thread.
    :param on_result: takes a result, in the worker thread; it must be short and must not wait for
        a thread that may be inside :meth:`invalidate`.
    :param on_error: takes the exception of ``run`` or ``on_result``, in the worker thread, for
        discarded jobs as well: a broken device matters whoever asked. The thread lives on.
    :param clock: monotonic seconds.
    :param spare: work for the time between a delivered result and the next job, in the worker
        thread; called once per delivered result where no job waits. It asks its argument as often
        as it can, and returns soon after a False: a job waits, or the result was invalidated.
        What it raises goes to ``on_error``.
    """

    def __init__(
        self,
        run: Callable[[Any], Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        spare: Callable[[Proceed], None] | None = None,
    ) -> None:
        self._run, self._on_result, self._on_error, self._clock = run, on_result, on_error, clock
        self._spare = spare
        # Lock order: _delivery, then _state. submit() takes only _state, which nobody holds for
        # long.
        self._delivery = threading.RLock()
        self._state = threading.Condition()
        self._slot: _Job | None = None
        self._generation = 0
        self._started: float | None = None
        self._in_spare = False
        self._closed = False
        self.replaced = 0
        """Jobs that a newer one replaced before they started."""
        self.discarded = 0
        """Jobs and results that :meth:`invalidate` or :meth:`close` threw away."""
        self._thread = threading.Thread(target=self._loop, name='inference', daemon=True)
        self._thread.start()

    def submit(self, job: Any) -> bool:
        """Hand over a job and return at once.

        :returns: False where the worker is closed.
        """
        with self._state:
            if self._closed:
                return False
            waiting = self._slot
            self.replaced += waiting is not None
            since = self._clock() if waiting is None else waiting.since
            self._slot = _Job(job, self._generation, since)
            self._state.notify()
            return True

    def invalidate(self) -> None:
        """Discard the queued job and the result of the running one.

        After it returns no result of an earlier job is delivered; it waits at most for an
        ``on_result`` that has already begun. Safe to call from ``on_result``.
        """
        with self._delivery, self._state:
            self._discard()

    def busy_s(self) -> float:
        """Seconds that the running job has taken so far; 0 where none runs.

        Spare work is no job and takes no time here. It does so from when a job waits for it to
        end, so that a device which hangs in it is noticed.
        """
        with self._state:
            start = self._started
            if start is None and self._in_spare and self._slot is not None:
                start = self._slot.since
            return 0.0 if start is None else self._clock() - start

    @property
    def idle(self) -> bool:
        """True where no job runs or waits; spare work may go on."""
        with self._state:
            return self._started is None and self._slot is None

    def close(self, timeout_s: float) -> bool:
        """Take no more jobs, deliver no more results, and wait for the thread.

        :param timeout_s: longest wait; a job that hangs on a device cannot be interrupted, and its
            daemon thread does not keep the process alive.
        :returns: True where the thread has ended.
        """
        with self._state:
            self._closed = True
            self._discard()
            self._state.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _discard(self) -> None:
        self._generation += 1
        self.discarded += self._slot is not None
        self._slot = None

    def _loop(self) -> None:
        while (job := self._take()) is not None:
            delivered = False
            try:
                delivered = self._deliver(job, self._run(job.payload))
            except BaseException as error:  # a job may raise anything; this thread must outlive it
                self._report(error)
            finally:
                with self._state:
                    self._started = None
            if delivered and self._spare is not None:
                self._use_spare_time(job.generation, self._spare)

    def _use_spare_time(self, generation: int, spare: Callable[[Proceed], None]) -> None:
        def proceed() -> bool:
            with self._state:
                # invalidate() and close() raise the generation
                return self._slot is None and self._generation == generation

        if not proceed():
            return
        with self._state:
            self._in_spare = True
        try:
            spare(proceed)
        except BaseException as error:
            self._report(error)
        finally:
            with self._state:
                self._in_spare = False

    def _take(self) -> _Job | None:
        with self._state:
            self._state.wait_for(lambda: self._closed or self._slot is not None)
            if self._closed:
                return None
            job, self._slot = self._slot, None
            self._started = self._clock()
            return job

    def _deliver(self, job: _Job, result: Any) -> bool:
        with self._delivery:
            with self._state:
                current = job.generation == self._generation
                self.discarded += not current
            if current:
                self._on_result(result)
            return current

    def _report(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self._on_error(error)
            return
        _LOG.exception('the error handler failed on %r', error)
