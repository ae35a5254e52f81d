"""One thread for inference, so that callbacks and the watchdog never wait for the model."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_LOG = logging.getLogger(__name__)

Proceed = Callable[[], bool]  # False where the thread is wanted for something else


class _Job(NamedTuple):
    payload: Any
    generation: int
    since: float  # when the slot was filled; a job that replaces another inherits it


class InferenceWorker:
    """Runs the latest job in a daemon thread of its own.

    A newer job replaces one that has not started: an answer to the older image is worth nothing.
    All callbacks run in the worker thread, which outlives what they raise.

    :param run: job -> result.
    :param on_result: must be short and must not wait for a thread that may be inside
        :meth:`invalidate`.
    :param on_error: takes what the other callbacks raise, for discarded jobs as well: a broken
        device matters whoever asked.
    :param clock: monotonic seconds.
    :param spare: called once per delivered result where no job waits. It asks its argument as
        often as it can, and returns soon after a False: a job waits, or the result is invalid.
    :param ahead: takes what :meth:`offer` was given, while no job waits.
    :param patience_s: what is offered is not begun before that time: where a job comes within it,
        all of its parts at once are faster than one after the other."""

    def __init__(
        self,
        run: Callable[[Any], Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        spare: Callable[[Proceed], None] | None = None,
        ahead: Callable[[Any], None] = lambda part: None,
        patience_s: float = 0.003,
    ) -> None:
        self._run, self._on_result, self._on_error, self._clock = run, on_result, on_error, clock
        self._spare, self._ahead, self._patience_s = spare, ahead, patience_s
        # Lock order: _delivery, then _state, which nobody holds for long.
        self._delivery = threading.RLock()
        self._state = threading.Condition()
        self._slot: _Job | None = None
        self._offered: _Job | None = None
        self._generation = 0
        self._started: float | None = None
        self._aside = False  # in work that is no job
        self._closed = False
        self.replaced = 0  # jobs that a newer one replaced before they started
        self.discarded = 0  # jobs and results that invalidate() or close() threw away
        self._thread = threading.Thread(target=self._loop, name='inference', daemon=True)
        self._thread.start()

    def submit(self, job: Any) -> bool:
        """Hand over a job and return at once; False where the worker is closed."""
        with self._state:
            if self._closed:
                return False
            waiting = self._slot
            self.replaced += waiting is not None
            since = self._clock() if waiting is None else waiting.since
            self._slot = _Job(job, self._generation, since)
            self._state.notify()
            return True

    def offer(self, part: Any) -> None:
        """Hand over a part of a job whose other parts have not come, and return at once.
        A newer one, or a job, replaces one that was not begun: whoever offers does without."""
        with self._state:
            if not self._closed and self._slot is None:
                self._offered = _Job(part, self._generation, self._clock())
                self._state.notify()

    def invalidate(self) -> None:
        """Discard the queued job and the result of the running one: none is delivered later.
        It waits at most for an ``on_result`` that has begun, and may be called from there."""
        with self._delivery, self._state:
            self._discard()

    def busy_s(self) -> float:
        """Seconds that the running job has taken so far; 0 where none runs.
        Spare work and offered parts count only from when a job waits for them to end, so that a
        device which hangs in one is noticed."""
        with self._state:
            start = self._started
            if start is None and self._aside and self._slot is not None:
                start = self._slot.since
            return 0.0 if start is None else self._clock() - start

    def close(self, timeout_s: float) -> bool:
        """Take no more jobs, deliver no more results, and wait: True where the thread has ended.
        A job that hangs on a device cannot be interrupted; its thread is a daemon."""
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
        self._slot = self._offered = None

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
                wanted = self._slot is not None or self._offered is not None
                # invalidate() and close() raise the generation
                return not wanted and self._generation == generation

        if proceed():
            self._do_aside(spare, proceed)

    def _do_aside(self, work: Callable[[Any], None], argument: Any) -> None:
        with self._state:
            self._aside = True
        try:
            work(argument)
        except BaseException as error:
            self._report(error)
        finally:
            with self._state:
                self._aside = False

    def _take(self) -> _Job | None:
        """The next job, after offered parts; None where the worker is closed."""
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or self._slot or self._offered)
                if self._offered is not None:
                    self._state.wait_for(lambda: self._closed or self._slot, self._patience_s)
                part, self._offered = self._offered, None
                if self._closed:
                    return None
                if self._slot is not None:
                    job, self._slot = self._slot, None
                    self._started = self._clock()
                    return job
            if part is not None:  # invalidate() may have taken it
                self._do_aside(self._ahead, part.payload)

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
