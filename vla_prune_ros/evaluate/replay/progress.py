"""Progress of a replay, read off the files that the workers write."""

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console

from ...runtime.progress import Progress
from .columns import plural
from .records import Recording
from .store import Answers, ReplayJob, ReplayStore

_EVERY_S = 1.0


class ReplayProgress:
    """A :class:`~.run.Watch` that shows progress while the ``with`` block runs.

    Bags are replayed in other processes, perhaps on other machines; the answers that they wrote
    down are what has been done.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(console)
        self._running: dict[str, tuple[int, Answers]] = {}
        self._scanned, self._done, self._guess = 0, 0, ''
        self._began = False
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> 'ReplayProgress':
        self._progress.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._count()
        self._progress.__exit__(kind, error, trace)

    def reading(self, bags: int) -> None:
        self._progress.stage(f'reading {plural(bags, "bag")}', bags)

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None:
        self._scanned += 1
        self._progress.at(self._scanned)
        if recording is None:
            self._progress.say(f'{name}: {problem}')
            return
        seconds = 1e-9 * (recording.span_ns[1] - recording.span_ns[0])
        self._progress.say(f'{name}: {seconds:.1f} s, {plural(len(recording.instants), "query")}')
        named = ', '.join(f'{stream} = {topic}' for stream, topic in recording.topics.items())
        if recording.guessed and named != self._guess:
            self._guess = named
            self._progress.say(f'  topics, guessed by type and name: {named}')

    def begin(self, jobs: Sequence[tuple[ReplayJob, int]]) -> None:
        with self._lock:
            for job, queries in jobs:
                self._running[_name(job)] = queries, ReplayStore(job.folder).answers(job.key)
            self._progress.stage('queries', sum(queries for _, queries in jobs))
            self._began = True

    def ended(self, job: ReplayJob) -> None:
        with self._lock:
            self._done += self._running.pop(_name(job))[0]

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._count()

    def _count(self) -> None:
        with self._lock:
            if not self._began:
                return
            done, running = self._done, []
            for name, (queries, answers) in self._running.items():
                count = min(queries, answers.count())
                if count:
                    running.append(f'{name} {count}/{queries}')
                done += count
            self._progress.at(done, ', '.join(running))


def _name(job: ReplayJob) -> str:
    return f'{job.folder.name} {job.method.name}'
