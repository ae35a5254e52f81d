"""Progress of a replay: a bar per bag and method, read off the files that the workers write."""

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ...runtime.progress import LineLog
from .columns import plural
from .records import Recording
from .store import Answers, ReplayJob, ReplayStore

_EVERY_S = 1.0
_FEW = 12  # bars that any terminal has room for


class ReplayProgress:
    """A :class:`~.replay.Watch` that draws bars while the ``with`` block runs.

    Bags are replayed in other processes, perhaps on other machines; what they have written down
    is what has been done.
    """

    def __init__(self, console: Console) -> None:
        self._log = LineLog(console, 30.0)
        self._progress = Progress(
            SpinnerColumn(finished_text=' '),
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2.0,
        )
        self._running: dict[tuple[str, str], tuple[TaskID, int, Answers]] = {}
        self._done, self._asked = 0, 0
        self._few, self._guess = True, ''
        self._read = self._all = TaskID(0)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> 'ReplayProgress':
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
        if self._progress.live.is_started:
            self._progress.stop()

    def reading(self, bags: int) -> None:
        """A bar for the pass over all bags."""
        self._progress.start()
        self._read = self._progress.add_task(f'reading {plural(bags, "bag")}', total=bags)

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None:
        """Say what a bag holds, and which topics were guessed where the last bag had others."""
        self._progress.advance(self._read)
        if recording is None:
            self._say(f'{name}: {problem}')
            return
        seconds = 1e-9 * (recording.span_ns[1] - recording.span_ns[0])
        self._say(f'{name}: {seconds:.1f} s, {plural(len(recording.instants), "query")}')
        named = ', '.join(f'{stream} = {topic}' for stream, topic in recording.topics.items())
        if recording.guessed and named != self._guess:
            self._guess = named
            self._say(f'  topics, guessed by type and name: {named}')

    def begin(self, jobs: Sequence[tuple[ReplayJob, int]]) -> None:
        """A bar for each; where there are many, for those that run; and one for all."""
        self._progress.remove_task(self._read)
        self._few = len(jobs) <= _FEW
        with self._lock:
            for job, queries in jobs:
                words = escape(f'{job.folder.name} {job.method.name}')
                bar = self._progress.add_task(words, total=queries, visible=self._few)
                answers = ReplayStore(job.folder).answers(job.key)
                self._running[_key(job)] = bar, queries, answers
            self._asked = sum(queries for _, queries in jobs)
            self._all = self._progress.add_task('all', total=self._asked, visible=len(jobs) > 1)

    def ended(self, job: ReplayJob) -> None:
        """Its bar is full."""
        with self._lock:
            bar, queries, _ = self._running.pop(_key(job))
            self._done += queries
            self._progress.update(bar, completed=queries, visible=self._few)

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            done = self._count()
            if self._asked:
                self._log.show(f'{done} of {self._asked} queries')

    def _count(self) -> int:
        """Bring the bars up to date; the queries that were answered."""
        with self._lock:
            done = self._done
            for bar, queries, answers in self._running.values():
                count = min(queries, answers.count())
                done += count
                self._progress.update(bar, completed=count, visible=self._few or count > 0)
            if self._asked:
                self._progress.update(self._all, completed=done)
        return done

    def _say(self, text: str) -> None:
        console = self._progress.console
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _key(job: ReplayJob) -> tuple[str, str]:
    return job.folder.name, job.method.name
