"""Progress where no terminal draws a bar: in a CI log, a pipe, a launch file."""

import time

from rich.console import Console


class LineLog:
    """Prints a line from time to time; on a terminal, which shows a bar, none.

    :param period_s: lines that come sooner than this after the last one are dropped.
    """

    def __init__(self, console: Console, period_s: float = 5.0) -> None:
        self._console, self._period_s = console, period_s
        self._next = 0.0

    def show(self, text: str) -> None:
        """Print the line where it is time for one."""
        if not self._console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._period_s
            self._console.print(text, highlight=False, markup=False)

    def restart(self) -> None:
        """Let the next line through: something else begins."""
        self._next = 0.0
