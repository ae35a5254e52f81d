import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageTimer:
    """Milliseconds per named stage of one inference. A stage that is entered twice accumulates;
    the time of a stage inside another counts for the inner one only, so that all add up.
    :param sync: called at both ends of a stage, for devices that run asynchronously."""

    def __init__(
        self,
        sync: Callable[[], object] | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._sync, self._clock = sync, clock
        self._stages: dict[str, int] = {}
        self._inner: list[int] = []  # per open stage: time of the stages inside it
        self._first: int | None = None
        self._last = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        self._first = start if self._first is None else self._first
        self._stages.setdefault(name, 0)
        self._inner.append(0)
        try:
            yield
        finally:
            self._last = self._now()
            spent = self._last - start
            self._stages[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def milliseconds(self) -> dict[str, float]:
        """In order of first entry, and ``total``: from the first start to the last end."""
        total = 0.0 if self._first is None else (self._last - self._first) / 1e6
        return {**{name: ns / 1e6 for name, ns in self._stages.items()}, 'total': total}

    def _now(self) -> int:
        if self._sync is not None:
            self._sync()
        return self._clock()
