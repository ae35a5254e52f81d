"""How a quantity is distributed over the last many inferences."""

import math
from collections import deque

import numpy as np


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
