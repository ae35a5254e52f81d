"""Where the time of one inference goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageTimer:
    """Milliseconds per named stage of one inference.

    A stage that is entered twice accumulates; stages may nest, and each counts its own wall time.

    :param sync: called at both ends of a stage, for devices that run asynchronously (for example
        ``torch.cuda.synchronize``); it makes stage times true and the whole a little slower.
    :param clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        sync: Callable[[], object] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._sync = sync
        self._clock = clock
        self._stages: dict[str, int] = {}
        self._first: int | None = None
        self._last = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the ``with`` block under ``name``; an exception in it is timed as well."""
        start = self._now()
        self._first = start if self._first is None else self._first
        try:
            yield
        finally:
            self._last = self._now()
            self._stages[name] = self._stages.get(name, 0) + self._last - start

    @property
    def total(self) -> float:
        """Milliseconds from the start of the first stage to the end of the latest, gaps
        included."""
        return 0.0 if self._first is None else (self._last - self._first) / 1e6

    def milliseconds(self) -> dict[str, float]:
        """Stage -> ms in order of first entry, and ``total``."""
        return {**{name: ns / 1e6 for name, ns in self._stages.items()}, 'total': self.total}

    def _now(self) -> int:
        if self._sync is not None:
            self._sync()
        return self._clock()
