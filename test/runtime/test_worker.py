"""The worker under control of events: every wait is for something that must happen, none is timed.

``LONG`` only bounds how long a broken implementation may hang before its test fails.
"""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.runtime.worker import InferenceWorker

LONG = 30


class Rig:
    """A worker whose callbacks write down what they do, in :attr:`log`.

    Jobs and parts return themselves; one that is ``held`` waits for :meth:`go`, and an exception
    is raised. Spare work goes on until it may not proceed, or until it is let go.
    """

    def __init__(
        self,
        held: tuple[object, ...] = (),
        on_result: Callable[[object], None] = lambda result: None,
        patience_s: float = 0.0,
    ) -> None:
        self.log: list[str] = []
        self.errors: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.now = 0.0
        self.gates = {name: threading.Event() for name in (*held, 'spare')}
        self.asked = threading.Event()
        self.on_result = on_result
        self.spare, self.spare_error = self.work, None
        self._changed = threading.Condition()
        self.worker = InferenceWorker(
            self.run,
            self.take,
            self.fail,
            lambda: self.now,
            spare=lambda proceed: self.spare(proceed),
            ahead=lambda part: self.run(part, 'part'),
            patience_s=patience_s,
        )

    def note(self, entry: str) -> None:
        with self._changed:
            self.threads.add(threading.current_thread())
            self.log.append(entry)
            self._changed.notify_all()

    def run(self, job: object, what: str = 'run') -> object:
        self.note(f'{what} {job}')
        if job in self.gates:
            assert self.gates[job].wait(LONG)
        if isinstance(job, BaseException):
            raise job
        return job

    def take(self, result: object) -> None:
        self.note(f'result {result}')
        self.on_result(result)

    def fail(self, error: BaseException) -> None:
        self.errors.append(repr(error))
        self.note('error')

    def work(self, proceed: Callable[[], bool]) -> None:
        self.note('spare')
        if self.spare_error is not None:
            raise self.spare_error
        while proceed() and not self.gates['spare'].wait(0.001):
            self.asked.set()
        self.note('done' if self.gates['spare'].is_set() else 'given up')

    def go(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()

    def until(self, entry: str, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.log.count(entry) >= count, LONG)

    def submit(self, job: object, until: str = '') -> None:
        """And wait, for the job's beginning where nothing else is named."""
        assert self.worker.submit(job)
        self.until(until or f'run {job}')

    def end(self) -> list[str]:
        self.go(*self.gates)
        assert self.worker.close(LONG)
        return self.log


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []
    yield lambda *held, **options: made.append(Rig(held, **options)) or made[-1]
    for one in made:
        one.end()


def test_runs_in_one_daemon_thread_of_its_own(rig):
    one = rig()
    one.go('spare')
    one.submit('a', 'done')
    one.submit('b', 'result b')
    one.until('done', 2)
    each = ('run {}', 'result {}', 'spare', 'done')
    assert one.end() == [entry.format(job) for job in 'ab' for entry in each]
    (thread,) = one.threads
    assert thread.daemon and thread is not threading.main_thread()


def test_the_latest_job_wins_and_submit_returns_while_one_hangs(rig):
    one = rig('hangs')
    one.submit('hangs')
    for job in ('a', 'b', 'c'):
        assert one.worker.submit(job)  # would deadlock here if it waited for the running job
    assert one.worker.replaced == 2
    one.go('hangs')
    one.until('result c')
    assert 'run a' not in one.log and 'run b' not in one.log


def test_invalidate_discards_the_running_and_the_queued(rig):
    one = rig('running')
    one.submit('running')
    one.worker.submit('queued')
    one.worker.invalidate()
    one.worker.submit('new')
    one.go('running')
    one.until('result new')
    assert one.log[:3] == ['run running', 'run new', 'result new']  # and no spare work
    assert (one.worker.discarded, one.worker.replaced) == (2, 0)


def test_invalidate_waits_for_a_delivery_that_has_begun(rig):
    """When it returns, no earlier result can still be on its way out."""
    gate = threading.Event()
    one = rig(on_result=lambda result: (gate.wait(LONG), one.note('delivered')))
    one.submit('x', 'result x')
    stopper = threading.Thread(target=lambda: (one.worker.invalidate(), one.note('invalidated')))
    stopper.start()
    stopper.join(0.05)  # long enough for an invalidate that does not wait to overtake
    gate.set()
    stopper.join(LONG)
    assert one.log.index('delivered') < one.log.index('invalidated')


@pytest.mark.parametrize('end', ['invalidate', 'close'])
def test_to_end_from_on_result_does_not_deadlock(rig, end):
    def take(result: object) -> None:
        one.note(str(one.worker.invalidate() if end == 'invalidate' else one.worker.close(LONG)))

    one = rig(on_result=take)
    one.submit('x', {'invalidate': 'None', 'close': 'False'}[end])


@pytest.mark.parametrize(
    'error', [ValueError('bad'), MemoryError(), SystemExit(3), KeyboardInterrupt()]
)
def test_an_exception_is_reported_and_the_thread_lives_on(rig, error):
    """Of a job, of a part that was offered, and of spare work."""
    one = rig()
    one.submit(error, 'error')
    one.worker.offer(error)
    one.until('error', 2)
    one.spare_error = error
    one.submit('next', 'result next')
    one.until('error', 3)
    assert one.errors == [repr(error)] * 3


def test_an_exception_of_a_discarded_job_is_reported(rig):
    """A broken device matters whoever asked."""
    error = RuntimeError('device lost')
    one = rig(error)
    one.submit(error)
    one.worker.invalidate()
    one.end()
    assert one.errors == [repr(error)]


def test_broken_handlers_do_not_kill_the_thread():
    ran = threading.Semaphore(0)

    def broken(_: object) -> None:
        raise RuntimeError('handler')

    worker = InferenceWorker(lambda job: ran.release(), broken, broken)
    for _ in range(3):
        worker.submit('x')
        assert ran.acquire(timeout=LONG)
    assert worker.close(LONG)


def test_busy(rig):
    one = rig('a')
    assert one.worker.busy_s() == 0
    one.now = 5.0
    one.submit('a')
    one.now = 12.5
    assert one.worker.busy_s() == 7.5
    one.end()
    assert one.worker.busy_s() == 0


def test_close_during_a_hanging_job_returns_and_silences_it(rig):
    one = rig('hangs')
    one.submit('hangs')
    one.worker.submit('queued')
    assert one.worker.close(0) is False and one.worker.submit('late') is False
    assert one.end() == ['run hangs']


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(['submit', 'invalidate', 'error']), max_size=60))
def test_every_result_is_of_the_generation_in_force(script):
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


def test_many_submitters_and_invalidators():
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


# --- spare work and offered parts ----------------------------------------------------------------


@pytest.mark.parametrize('end', ['submit', 'offer', 'invalidate', 'close'])
def test_spare_work_makes_way(rig, end):
    """For a job or a part, and where its result is no longer wanted."""
    one = rig()
    one.submit('a', 'spare')
    assert one.asked.wait(LONG)
    argument = {'submit': 'b', 'offer': 'b', 'invalidate': None, 'close': LONG}[end]
    getattr(one.worker, end)(*([] if argument is None else [argument]))
    one.until('given up')
    assert one.log[:4] == ['run a', 'result a', 'spare', 'given up']


def test_no_spare_work_while_a_job_waits(rig):
    """The second job is submitted while the first one is delivered."""
    one = rig(on_result=lambda result: result == 'a' and one.worker.submit('b'))
    one.submit('a', 'spare')
    assert one.log[:5] == ['run a', 'result a', 'run b', 'result b', 'spare']


def test_what_is_offered_is_worked_on_before_its_job(rig):
    """A newer part replaces one that waits, and where a job waits it does all of its work."""
    one = rig('a', 'c')
    one.worker.offer('a')
    one.until('part a')
    for part in ('b', 'c'):
        one.worker.offer(part)
    one.go('a')
    one.until('part c')
    one.worker.submit('job')
    one.worker.offer('late')
    one.go('c')
    one.until('result job')
    assert one.log[:4] == ['part a', 'part c', 'run job', 'result job']


def test_a_job_that_comes_at_once_takes_its_parts_along(rig):
    one = rig(patience_s=LONG)
    one.worker.offer('a')
    one.submit('job', 'result job')
    assert one.end()[0] == 'run job' and 'part a' not in one.log


def test_invalidated_parts_are_not_begun(rig):
    one = rig('a')
    one.worker.offer('a')
    one.until('part a')
    one.worker.offer('b')
    one.worker.invalidate()
    one.go('a')
    one.submit('job', 'result job')
    assert 'part b' not in one.end()


@pytest.mark.parametrize('kind', ['spare', 'part'])
def test_work_aside_is_busy_only_while_a_job_waits_for_it(rig, kind):
    """A hang in it is then seen; the clock of this test stands at 5, 12 and 14.5 s."""
    one = rig('part')
    one.now, gate = 5.0, threading.Event()
    if kind == 'spare':
        one.spare = lambda proceed: (one.note('spare'), gate.wait(LONG))
        one.submit('a', 'spare')
    else:
        one.worker.offer('part')
        one.until('part part')
    one.now = 12.0
    assert one.worker.busy_s() == 0.0
    one.worker.submit('b')
    one.now = 14.0
    one.worker.submit('c')  # replaces it; the wait goes on
    one.now = 14.5
    assert one.worker.busy_s() == 2.5
    gate.set()
    one.end()
    assert one.worker.busy_s() == 0.0
