"""Progress of an evaluation: a bar or line per method, with the success so far."""

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...runtime.progress import LineLog
from .episodes import EpisodeKey, EpisodeResult

_REFRESHES_PER_S = 2.0  # its thread takes time from what is measured


class EvaluateProgress:
    """Counts episodes and successes per method while the ``with`` block runs.

    :param each: episodes per method.
    """

    def __init__(self, console: Console, methods: tuple[str, ...], each: int) -> None:
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[success]}'),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_S,
        )
        self._bars = {
            m: self._progress.add_task(escape(m), total=each, success='') for m in methods
        }
        self._counts = {m: [0, 0] for m in methods}
        self._each, self._log = each, LineLog(console, 30.0)

    def __enter__(self) -> 'EvaluateProgress':
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def add(self, key: EpisodeKey, result: EpisodeResult) -> None:
        """Count an episode; say it where it raised an error."""
        counts = self._counts[key.method]
        counts[0] += 1
        counts[1] += result.success
        self._progress.update(
            self._bars[key.method],
            completed=counts[0],
            success=f'{counts[1]}/{counts[0]} solved',
        )
        said = (f'{m} {good}/{n}' for m, (n, good) in self._counts.items())
        self._log.show(f'solved of {self._each}: {", ".join(said)}')
        if result.error:
            self._progress.console.print(
                f'{key.method} {key.task} seed {key.seed}: {result.error}', markup=False
            )
