"""The losses of a run, smoothed, and the time it took."""

import time
from typing import Any

POINT_EVERY = 100
_KEEP = 0.97  # of the running mean


class Curve:
    """A point every hundred steps; lives on in a saved state.

    ``points``: one mapping per point, ``step`` and the running mean of each loss. ``seconds``:
    time spent in all sessions.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0
        self._mean: dict[str, float] = {}
        self._since = time.monotonic()

    def begin(self) -> None:
        """Time counts from now."""
        self._since = time.monotonic()

    def add(self, step: int, losses: dict[str, float]) -> None:
        """Take in the losses of one step."""
        for name, value in losses.items():
            self._mean[name] = _KEEP * self._mean.get(name, value) + (1.0 - _KEEP) * value
        if step % POINT_EVERY == 0:
            rounded = {name: round(value, 4) for name, value in self._mean.items()}
            self.points.append({'step': step, **rounded})
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def text(self) -> str:
        """The running means, for a progress line."""
        return '  '.join(f'{name} {value:.4f}' for name, value in self._mean.items())

    def state(self) -> dict[str, Any]:
        """What :meth:`resume` takes."""
        return {'points': self.points, 'seconds': self.seconds, 'mean': self._mean}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where another curve was."""
        self.points, self.seconds = list(state['points']), state['seconds']
        self._mean = dict(state['mean'])
