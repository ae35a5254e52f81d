"""Progress of a replay: a bar per bag and method, read off the files that the workers write."""

import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..runtime.line_log import LineLog
from .replay_records import Recording
from .replay_store import Answers, ReplayStore
from .replay_worker import ReplayJob

_EVERY_S = 1.0


class ReplayProgress:
    """A :class:`~.replay.Watch` that draws bars while the ``with`` block runs.

    Bags are replayed in other processes, perhaps on other machines; what they have written down
    is what has been done.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._log = console, LineLog(console, 30.0)
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2.0,
        )
        self._bars: dict[tuple[str, str], tuple[int, Answers]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> 'ReplayProgress':
        self._progress.start()
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
        self._progress.stop()

    def scanned(self, name: str, recording: Recording | None, problem: str) -> None:
        """Say what a bag holds, and which topics were guessed."""
        if recording is None:
            self._say(f'{name}: {problem}')
            return
        seconds = 1e-9 * (recording.span_ns[1] - recording.span_ns[0])
        self._say(f'{name}: {seconds:.1f} s, {len(recording.instants)} queries')
        if recording.guessed:
            named = ', '.join(f'{stream} = {topic}' for stream, topic in recording.topics.items())
            self._say(f'  topics, guessed by type and name: {named}')

    def begin(self, jobs: Sequence[tuple[ReplayJob, int]]) -> None:
        """A bar for each."""
        for job, queries in jobs:
            words = escape(f'{job.folder.name} {job.method.name}')
            bar = self._progress.add_task(words, total=queries)
            self._bars[_key(job)] = bar, ReplayStore(job.folder).answers(job.key)

    def ended(self, job: ReplayJob) -> None:
        """Its bar is full."""
        bar, _ = self._bars.pop(_key(job))
        total = self._progress.tasks[bar].total
        self._progress.update(bar, completed=total)
        self._log.show(f'{job.folder.name} {job.method.name}: {total:.0f} queries')

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            for bar, answers in list(self._bars.values()):
                self._progress.update(bar, completed=answers.count())

    def _say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def _key(job: ReplayJob) -> tuple[str, str]:
    return job.folder.name, job.method.name
