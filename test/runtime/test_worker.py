"""The worker under control of events: every wait is for something that must happen, none is timed.

``LONG`` only bounds how long a broken implementation may hang before its test fails.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.runtime.worker import InferenceWorker

LONG = 30


class Harness:
    """A worker whose job ``('hold', key)`` waits for ``gates[key]``; others return themselves."""

    def __init__(self) -> None:
        self.started = {key: threading.Event() for key in range(8)}
        self.gates = {key: threading.Event() for key in range(8)}
        self.ran: list = []
        self.results: list = []
        self.errors: list[BaseException] = []
        self.seen = threading.Condition()
        self.now = 0.0
        self.worker = InferenceWorker(self.run, self.take, self.fail, lambda: self.now)

    def run(self, job: object) -> object:
        self.ran.append(job)
        if isinstance(job, BaseException):
            raise job
        if isinstance(job, tuple) and job[0] == 'hold':
            self.started[job[1]].set()
            assert self.gates[job[1]].wait(LONG)
        return job

    def take(self, result: object) -> None:
        with self.seen:
            self.results.append(result)
            self.seen.notify_all()

    def fail(self, error: BaseException) -> None:
        with self.seen:
            self.errors.append(error)
            self.seen.notify_all()

    def hold(self, key: int) -> None:
        """Submit a job and return when it runs."""
        self.worker.submit(('hold', key))
        assert self.started[key].wait(LONG)

    def drain(self) -> None:
        """Return when a job submitted now has been delivered."""
        marker = object()
        self.worker.submit(marker)
        with self.seen:
            assert self.seen.wait_for(lambda: marker in self.results, LONG)
            self.results.remove(marker)

    def wait_error(self) -> None:
        with self.seen:
            assert self.seen.wait_for(lambda: self.errors, LONG)


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    for gate in made.gates.values():
        gate.set()
    assert made.worker.close(LONG)


def test_runs_in_one_daemon_thread_of_its_own() -> None:
    threads: set[threading.Thread] = set()
    done = threading.Event()

    def run(job: int) -> int:
        threads.add(threading.current_thread())
        return job

    def take(result: int) -> None:
        threads.add(threading.current_thread())
        (done if result == 1 else first).set()

    first = threading.Event()
    worker = InferenceWorker(run, take, lambda error: None)
    for job, event in ((0, first), (1, done)):
        worker.submit(job)
        assert event.wait(LONG)
    assert len(threads) == 1 and threading.main_thread() not in threads
    assert threads.pop().daemon
    assert worker.close(LONG)


def test_the_latest_job_wins_and_submit_returns_while_one_hangs(harness: Harness) -> None:
    harness.hold(0)
    for job in ('a', 'b', 'c'):
        assert harness.worker.submit(job)  # would deadlock here if it waited for the running job
    assert harness.worker.replaced == 2
    harness.gates[0].set()
    with harness.seen:
        assert harness.seen.wait_for(lambda: 'c' in harness.results, LONG)
    assert harness.ran == [('hold', 0), 'c']


def test_invalidate_discards_the_running_and_the_queued(harness: Harness) -> None:
    harness.hold(0)
    harness.worker.submit('queued')
    harness.worker.invalidate()
    harness.gates[0].set()
    harness.drain()
    assert harness.results == [] and 'queued' not in harness.ran
    assert harness.worker.discarded == 2 and harness.worker.replaced == 0


def test_a_job_after_invalidate_counts(harness: Harness) -> None:
    harness.hold(0)
    harness.worker.invalidate()
    harness.worker.submit('new')
    harness.gates[0].set()
    with harness.seen:
        assert harness.seen.wait_for(lambda: harness.results, LONG)
    assert harness.results == ['new']


def test_invalidate_waits_for_a_delivery_that_has_begun() -> None:
    """When it returns, no earlier result can still be on its way out."""
    entered, go, order = threading.Event(), threading.Event(), []

    def take(result: str) -> None:
        entered.set()
        assert go.wait(LONG)
        order.append('delivered')

    worker = InferenceWorker(lambda job: job, take, lambda error: None)
    worker.submit('x')
    assert entered.wait(LONG)
    stopper = threading.Thread(target=lambda: (worker.invalidate(), order.append('invalidated')))
    stopper.start()
    stopper.join(0.05)  # long enough for an invalidate that does not wait to overtake
    go.set()
    stopper.join(LONG)
    assert order == ['delivered', 'invalidated'] and worker.close(LONG)


def test_invalidate_from_on_result_does_not_deadlock() -> None:
    done = threading.Event()
    worker = InferenceWorker(
        lambda job: job, lambda result: (worker.invalidate(), done.set()), lambda error: None
    )
    worker.submit('x')
    assert done.wait(LONG) and worker.close(LONG)


@pytest.mark.parametrize(
    'error', [ValueError('bad'), MemoryError(), SystemExit(3), KeyboardInterrupt()]
)
def test_an_exception_is_reported_and_the_thread_lives_on(
    harness: Harness, error: BaseException
) -> None:
    harness.worker.submit(error)
    harness.wait_error()
    harness.drain()
    assert harness.errors == [error]


def test_an_exception_of_a_discarded_job_is_reported(harness: Harness) -> None:
    """A broken device matters whoever asked."""
    running, go = threading.Event(), threading.Event()

    def run(job: object) -> None:
        running.set()
        assert go.wait(LONG)
        raise RuntimeError('device lost')

    worker = InferenceWorker(run, harness.take, harness.fail)
    worker.submit('x')
    assert running.wait(LONG)
    worker.invalidate()
    go.set()
    harness.wait_error()
    assert str(harness.errors[0]) == 'device lost' and worker.close(LONG)


def test_broken_handlers_do_not_kill_the_thread() -> None:
    ran = threading.Semaphore(0)

    def broken(_: object) -> None:
        raise RuntimeError('handler')

    worker = InferenceWorker(lambda job: ran.release(), broken, broken)
    for _ in range(3):
        worker.submit('x')
        assert ran.acquire(timeout=LONG)
    assert worker.close(LONG)


def test_busy_and_idle(harness: Harness) -> None:
    assert harness.worker.idle and harness.worker.busy_s() == 0
    harness.now = 5.0
    harness.hold(0)
    harness.now = 12.5
    assert harness.worker.busy_s() == 7.5 and not harness.worker.idle
    harness.gates[0].set()
    assert harness.worker.close(LONG)
    assert harness.worker.busy_s() == 0 and harness.worker.idle


def test_close_during_a_hanging_job_returns_and_silences_it(harness: Harness) -> None:
    harness.hold(0)
    harness.worker.submit('queued')
    assert harness.worker.close(0) is False
    assert harness.worker.submit('late') is False
    harness.gates[0].set()
    assert harness.worker.close(LONG) is True
    assert harness.results == [] and harness.ran == [('hold', 0)]


def test_close_from_on_result_does_not_deadlock() -> None:
    answers: list[bool] = []
    worker = InferenceWorker(
        lambda job: job, lambda result: answers.append(worker.close(LONG)), lambda error: None
    )
    worker.submit('x')
    worker._thread.join(LONG)
    assert answers == [False] and worker.close(LONG)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(['submit', 'invalidate', 'error']), max_size=60))
def test_every_result_is_of_the_generation_in_force(script: list[str]) -> None:
    """Jobs carry the number of invalidations before them; a stale one must never be delivered."""
    generation, stale, last = 0, [], threading.Event()

    def run(job: tuple) -> tuple:
        if job[0] == 'error':
            raise ValueError
        return job

    def take(job: tuple) -> None:
        if job[1] != generation:
            stale.append(job)
        if job[0] == 'last':
            last.set()

    worker = InferenceWorker(run, take, lambda error: None)
    for operation in script:
        if operation == 'invalidate':
            worker.invalidate()
            generation += 1
        else:
            worker.submit((operation, generation))
    worker.submit(('last', generation))
    assert last.wait(LONG), 'the last submitted job must run'
    assert stale == [] and worker.close(LONG)


def test_many_submitters_and_invalidators() -> None:
    """Four threads at once: the worker survives, and accounts for every job exactly once."""
    delivered = itertools.count()
    worker = InferenceWorker(lambda job: job, lambda result: next(delivered), lambda error: None)
    barrier = threading.Barrier(4)

    def pound(invalidates: bool) -> None:
        barrier.wait(LONG)
        for _ in range(500):
            worker.submit('x')
            if invalidates:
                worker.invalidate()

    threads = [threading.Thread(target=pound, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert worker.close(LONG)
    assert next(delivered) + worker.replaced + worker.discarded == 2000


class Spare:
    """A worker with spare work that holds until it is told to stop, or until ``gate`` opens."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.asked = threading.Event()
        self.ended = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.threads: set[str] = set()
        self.order: list[str] = []
        self.results: list = []
        self.errors: list[BaseException] = []
        self.now = 0.0
        self.worker = InferenceWorker(
            self.run, self.take, self.errors.append, lambda: self.now, self.work
        )

    def run(self, job: object) -> object:
        self.order.append(f'run {job}')
        return job

    def take(self, result: object) -> None:
        self.order.append(f'result {result}')
        self.results.append(result)

    def work(self, proceed) -> None:
        self.threads.add(threading.current_thread().name)
        self.order.append('spare')
        self.begun.release()
        try:
            if self.error is not None:
                raise self.error
            while proceed() and not self.gate.wait(0.001):
                self.asked.set()
            self.order.append('done' if self.gate.is_set() else 'given up')
        finally:
            self.ended.release()

    def begin(self, job: str) -> None:
        """Submit a job and return when its spare work runs."""
        self.worker.submit(job)
        assert self.begun.acquire(timeout=LONG)


@pytest.fixture
def spare() -> Iterator[Spare]:
    made = Spare()
    yield made
    made.gate.set()
    assert made.worker.close(LONG)


def test_spare_work_runs_once_behind_a_result_in_the_workers_thread(spare: Spare) -> None:
    spare.gate.set()
    spare.begin('a')
    assert spare.ended.acquire(timeout=LONG)
    spare.begin('b')
    assert spare.ended.acquire(timeout=LONG)
    assert spare.worker.close(LONG)
    assert spare.order == [
        *('run a', 'result a', 'spare', 'done', 'run b', 'result b', 'spare', 'done')
    ]
    assert spare.threads == {'inference'}


def test_spare_work_makes_way_for_a_job(spare: Spare) -> None:
    spare.begin('a')
    assert spare.asked.wait(LONG)
    spare.begin('b')
    assert spare.order[:6] == ['run a', 'result a', 'spare', 'given up', 'run b', 'result b']


def test_no_spare_work_while_a_job_waits() -> None:
    """The second job is submitted while the first one is delivered."""
    order, worked = [], threading.Event()

    def take(result: str) -> None:
        order.append(result)
        if result == 'a':
            worker.submit('b')

    worker = InferenceWorker(
        lambda job: job,
        take,
        lambda error: None,
        spare=lambda proceed: (order.append('spare'), worked.set()),
    )
    worker.submit('a')
    assert worked.wait(LONG) and worker.close(LONG)
    assert order == ['a', 'b', 'spare']


@pytest.mark.parametrize('end', ['invalidate', 'close'])
def test_spare_work_ends_with_what_it_belongs_to(spare: Spare, end: str) -> None:
    spare.begin('a')
    assert spare.asked.wait(LONG)
    spare.worker.invalidate() if end == 'invalidate' else spare.worker.close(LONG)
    assert spare.ended.acquire(timeout=LONG)
    assert spare.order[-1] == 'given up'


def test_a_discarded_result_gives_no_spare_work(harness: Harness) -> None:
    worked = []
    harness.worker._spare = lambda proceed: worked.append(True)
    harness.hold(0)
    harness.worker.invalidate()
    harness.gates[0].set()
    harness.worker.submit(ValueError())
    harness.wait_error()
    assert harness.worker.close(LONG)
    assert worked == []


def test_an_exception_of_spare_work_is_reported_and_the_thread_lives_on(spare: Spare) -> None:
    spare.error = RuntimeError('device lost')
    spare.begin('a')
    spare.begin('b')
    assert spare.worker.close(LONG)
    assert spare.results == ['a', 'b']
    assert [str(e) for e in spare.errors] == ['device lost'] * 2


def test_spare_work_is_busy_only_while_a_job_waits_for_it(spare: Spare) -> None:
    """A hang in it is then seen; the clock of this test stands at 5, 12 and 14.5 s."""
    held, go = threading.Event(), threading.Event()

    def hang(proceed) -> None:
        held.set()
        assert go.wait(LONG)

    spare.worker._spare = hang
    spare.now = 5.0
    spare.worker.submit('a')
    assert held.wait(LONG)
    spare.now = 12.0
    assert spare.worker.busy_s() == 0.0 and spare.worker.idle
    spare.worker.submit('b')
    spare.now = 14.0
    spare.worker.submit('c')  # replaces it; the wait goes on
    spare.now = 14.5
    assert spare.worker.busy_s() == 2.5 and not spare.worker.idle
    go.set()
    assert spare.worker.close(LONG) and spare.worker.busy_s() == 0.0


class Offered:
    """A worker whose offered parts wait for a gate; patience is long or none."""

    def __init__(self, patience_s: float) -> None:
        self.order: list[str] = []
        self.errors: list[BaseException] = []
        self.begun, self.gate, self.done = (threading.Event() for _ in range(3))
        self.now = 0.0
        self.worker = InferenceWorker(
            lambda job: self.order.append(f'run {job}'),
            lambda result: self.done.set(),
            self.errors.append,
            lambda: self.now,
            ahead=self.ahead,
            patience_s=patience_s,
        )

    def ahead(self, part: str) -> None:
        self.order.append(f'part {part}')
        self.begun.set()
        assert self.gate.wait(LONG)
        if part == 'bad':
            raise RuntimeError('device lost')

    def finish(self) -> None:
        self.gate.set()
        assert self.done.wait(LONG)
        assert self.worker.close(LONG)


def test_what_is_offered_is_worked_on_before_its_job() -> None:
    made = Offered(0.0)
    made.worker.offer('a')
    assert made.begun.wait(LONG)
    made.worker.submit('job')
    made.worker.offer('late')  # a job waits: it does all of its work itself
    made.finish()
    assert made.order == ['part a', 'run job']


def test_a_job_that_comes_at_once_takes_its_parts_along() -> None:
    made = Offered(LONG)
    made.worker.offer('a')
    made.worker.submit('job')
    made.finish()
    assert made.order == ['run job']


def test_a_newer_part_replaces_one_that_waits() -> None:
    made = Offered(0.0)
    made.worker.offer('a')
    assert made.begun.wait(LONG)
    made.worker.offer('b')
    made.worker.offer('c')
    made.gate.set()
    until(lambda: made.order == ['part a', 'part c'])
    made.worker.submit('job')
    made.finish()


def test_invalidated_parts_are_not_begun() -> None:
    made = Offered(0.0)
    made.worker.offer('a')
    assert made.begun.wait(LONG)
    made.worker.offer('b')
    made.worker.invalidate()
    made.worker.submit('job')
    made.finish()
    assert made.order == ['part a', 'run job']


def test_a_part_that_fails_is_reported_and_the_thread_lives_on() -> None:
    made = Offered(0.0)
    made.worker.offer('bad')
    made.gate.set()
    until(lambda: made.errors)
    made.worker.submit('job')
    made.finish()
    assert [str(e) for e in made.errors] == ['device lost']


def test_a_part_is_busy_only_while_a_job_waits_for_it() -> None:
    made = Offered(0.0)
    made.worker.offer('a')
    assert made.begun.wait(LONG)
    made.now = 3.0
    assert made.worker.busy_s() == 0.0
    made.worker.submit('job')
    made.now = 4.5
    assert made.worker.busy_s() == 1.5
    made.finish()


def until(met: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + LONG
    while not met():
        assert time.monotonic() < end
        time.sleep(0.001)
