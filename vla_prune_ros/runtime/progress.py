"""Progress of long work: bars on a terminal; in a CI log, a pipe or a launch file lines."""

import threading
import time

from rich import progress as rich_progress
from rich.console import Console
from rich.markup import escape
from rich.text import Text


class _Count(rich_progress.ProgressColumn):
    def render(self, task: rich_progress.Task) -> Text:
        return Text('' if task.total is None else f'{task.completed:.0f}/{task.total:.0f}')


class Stage:
    def __init__(self, owner: 'Progress', name: str, total: float | None, logged: bool) -> None:
        self.name, self.total, self.logged = name, total, logged
        self.done, self.text = 0.0, ''
        self._owner = owner
        self._task = owner.bars.add_task(escape(name), total=total, text='')

    def update(self, done: float | None = None, text: str | None = None) -> None:
        """:param text: stands behind the bar."""
        self.done = self.done if done is None else done
        self.text = self.text if text is None else text
        self._owner.bars.update(self._task, completed=self.done, text=escape(self.text))
        self._owner.changed()

    def end(self) -> None:
        self._owner.changed(last=True)
        self.logged = False
        self._owner.bars.stop_task(self._task)
        self._owner.bars.update(self._task, visible=self.total is not None)

    def line(self) -> str:
        count = '' if self.total is None else f' {self.done:.0f}/{self.total:.0f}'
        return f'{self.name}{count}  {self.text}'.rstrip()


class Progress:
    """Shows its stages while the ``with`` block runs.
    :param every_s: without a terminal a line is printed when a stage begins and ends, and at least
        this often, whether something changed or not: a silent log looks like a dead process."""

    def __init__(self, console: Console, every_s: float = 30.0) -> None:
        self.console = console
        columns = [
            rich_progress.SpinnerColumn(finished_text=' '),
            rich_progress.TextColumn('{task.description}'),
            rich_progress.BarColumn(20),
            _Count(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn('{task.fields[text]}', style='dim'),
        ]
        self.bars = rich_progress.Progress(
            *columns,
            console=console,
            # Drawing takes time from what is measured.
            refresh_per_second=1.0,
            disable=not console.is_terminal,
        )
        self._every_s, self._next, self._printed = every_s, 0.0, ''
        self._stages: list[Stage] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._lines = threading.Thread(target=self._keep_printing, daemon=True)

    def __enter__(self) -> 'Progress':
        self.bars.start()
        if not self.console.is_terminal:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._lines.is_alive():
            self._lines.join()
        self.changed(last=True)
        self.bars.stop()

    def add(self, name: str, total: float | None = None, *, logged: bool = True) -> Stage:
        """A further stage; ``total`` is None where nobody knows how long it takes, ``logged``
        where it takes part in the printed line."""
        stage = Stage(self, name, total, logged)
        with self._lock:
            self._stages.append(stage)
            self._next = 0.0 if logged else self._next
        return stage

    def stage(self, name: str, total: float | None = None) -> None:
        """For work that has one stage at a time: the one before it ends."""
        if self._stages:
            self._stages[-1].end()
        self.add(name, total)

    def at(self, done: float | None = None, text: str | None = None) -> None:
        self._stages[-1].update(done, text)

    def note(self, text: str) -> None:
        self.at(text=text)

    def say(self, text: str) -> None:
        wrap = not self.console.is_terminal
        self.console.print(text, markup=False, highlight=False, soft_wrap=wrap)

    def changed(self, last: bool = False) -> None:
        with self._lock:
            logged = [stage for stage in self._stages if stage.logged]
            if self.console.is_terminal or not logged:
                return
            running = [s for s in logged if s.total is None or s.done < s.total]
            shown = logged if last else running or logged[-1:]
            line = '; '.join(stage.line() for stage in shown)
            if line == self._printed if last else time.monotonic() < self._next:
                return
            self._next, self._printed = time.monotonic() + self._every_s, line
        self.say(line)

    def _keep_printing(self) -> None:
        while not self._over.wait(min(self._every_s, 1.0)):
            self.changed()
