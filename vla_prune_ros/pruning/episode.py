"""What ends an episode for a pruner, whether or not somebody says so."""

from .layout import Target
from .plan import Query

MAX_GAP_S = 0.5


class EpisodeWatch:
    """Tells a query that continues an episode from one that does not.

    A camera that was silent for more than 0.5 s leaves nothing to compare with. Where only the
    frames of queries are known, the limit is a chunk and a quarter, or twice the time between the
    two queries before, if that is longer: a policy that needs seconds per query is not a silent
    camera.
    """

    def __init__(self, target: Target) -> None:
        self._chunk_s = target.chunk * target.control_period_s
        self.reset()

    def reset(self) -> None:
        """The next query is the first one."""
        self._last: tuple[int, str] | None = None
        self._interval_s = 0.0

    def check(self, query: Query) -> str:
        """Why the query does not continue the last one; empty where it does.

        ``'first'``, ``'new_instruction'``, ``'clock_jump'`` (stamps went back) or
        ``'camera_gap'``.
        """
        last, self._last = self._last, (query.stamp_ns, query.instruction)
        gap_s, limit_s = self._gap(query, last)
        if last is None:
            return 'first'
        if query.instruction != last[1]:
            return 'new_instruction'
        if query.stamp_ns < last[0]:
            return 'clock_jump'
        return 'camera_gap' if gap_s > limit_s else ''

    def _gap(self, query: Query, last: tuple[int, str] | None) -> tuple[float, float]:
        gap_ns = 0 if query.history is None else query.history.take_gap_ns()
        if query.history is not None and query.history.watched:
            return 1e-9 * gap_ns, MAX_GAP_S
        before, self._interval_s = self._interval_s, 0.0
        if last is not None:
            self._interval_s = 1e-9 * (query.stamp_ns - last[0])
        return self._interval_s, max(MAX_GAP_S, 1.25 * self._chunk_s, 2.0 * before)
