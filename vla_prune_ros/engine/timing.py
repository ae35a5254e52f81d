"""Where the time of one inference goes.

How a quantity is distributed over the last many inferences.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np


class StageTimer:
    """Milliseconds per named stage of one inference.

    A stage that is entered twice accumulates. The time of a stage inside another counts for the
    inner one only, so that all stages add up to the total, less the gaps between them.

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
        self._inner: list[int] = []  # per open stage: time of the stages inside it
        self._first: int | None = None
        self._last = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the ``with`` block under ``name``; an exception in it is timed as well."""
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


class Window:
    """The last ``size`` values of a quantity and their statistics.

    Percentiles interpolate linearly between the two nearest ranks (numpy's default method, the
    C = 1 variant: p50 of 1, 2, 3, 4 is 2.5). With no value yet, statistics are NaN.
    """

    def __init__(self, size: int = 256) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        """Append one value; the oldest leaves when the window is full."""
        self._values.append(float(value))

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()

    @property
    def count(self) -> int:
        """Number of values held, at most ``size``."""
        return len(self._values)

    @property
    def mean(self) -> float:
        """Arithmetic mean of the values held."""
        return float(np.mean(self._values)) if self._values else math.nan

    @property
    def p50(self) -> float:
        """Median of the values held."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """95th percentile of the values held."""
        return self.percentile(95)

    def percentile(self, percent: float) -> float:
        """Percentile ``percent`` (0 ... 100) of the values held."""
        if not self._values:
            return math.nan
        return float(np.percentile(np.array(self._values), percent, method='linear'))
