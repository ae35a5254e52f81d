"""Progress of a replay, read off the files that the workers write."""

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console

from ...runtime.progress import Progress, Stage
from .columns import plural
from .records import Recording
from .store import Answers, ReplayJob, ReplayStore

_EVERY_S = 1.0
_FEW = 12  # bars that any terminal has room for


class ReplayProgress:
    """A :class:`~.run.Watch` that shows progress while the ``with`` block runs.

    Bags are replayed in other processes, perhaps on other machines; the answers that they wrote
    down are what has been done.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(console)
        self._running: dict[tuple[str, str], tuple[Stage, int, Answers]] = {}
        self._reading: Stage | None = None
        self._all: Stage | None = None
        self._done, self._few, self._guess = 0, True, ''
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
        self._reading = self._progress.add(f'reading {plural(bags, "bag")}', bags)

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None:
        """What a bag holds, and which topics were guessed where the last bag had others."""
        self._reading.update(self._reading.done + 1)
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
        """A bar for each; where there are many, for those that run; and one for all."""
        self._reading.end()
        self._reading.show(False)
        self._few = len(jobs) <= _FEW
        with self._lock:
            for job, queries in jobs:
                name = f'{job.folder.name} {job.method.name}'
                stage = self._progress.add(name, queries, logged=False)
                stage.show(self._few)
                answers = ReplayStore(job.folder).answers(job.key)
                self._running[_key(job)] = stage, queries, answers
            self._all = self._progress.add('queries', sum(queries for _, queries in jobs))
            self._all.show(len(jobs) > 1)

    def ended(self, job: ReplayJob) -> None:
        with self._lock:
            stage, queries, _ = self._running.pop(_key(job))
            self._done += queries
            stage.update(queries)
            stage.show(self._few)

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._count()

    def _count(self) -> None:
        with self._lock:
            done = self._done
            for stage, queries, answers in self._running.values():
                count = min(queries, answers.count())
                done += count
                stage.update(count)
                stage.show(self._few or count > 0)
            if self._all is not None:
                self._all.update(done)


def _key(job: ReplayJob) -> tuple[str, str]:
    return job.folder.name, job.method.name
