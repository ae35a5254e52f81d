"""Synchronous stepping: simulated time goes on when the commands of its present instant are in."""

import threading

PARTS = ('twist', 'gripper')
"""What a step waits for; each is stamped with the simulated time at which it begins to hold."""


class Lockstep:
    """Waits for all :data:`PARTS` of one instant; a command of another instant counts for nothing.

    One thread expects and waits, others report what came. A part that came once is not wanted
    again, so a sender may repeat itself until time goes on.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now_ns = 0
        self._missing: set[str] = set()

    def expect(self, now_ns: int) -> None:
        """From now on the commands stamped ``now_ns`` are awaited, and no others."""
        with self._changed:
            self._now_ns, self._missing = now_ns, set(PARTS)

    def wants(self, part: str, stamp_ns: int) -> bool:
        """Whether a command is the one that is awaited."""
        with self._changed:
            return stamp_ns == self._now_ns and part in self._missing

    def got(self, part: str, stamp_ns: int) -> None:
        """A command is in force; ignored where it is not wanted (any more)."""
        with self._changed:
            if stamp_ns == self._now_ns:
                self._missing.discard(part)
                self._changed.notify()

    def wait(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` wall seconds; True where everything is in."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._missing, timeout_s)

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that have not come yet, in the order of :data:`PARTS`."""
        with self._changed:
            return tuple(part for part in PARTS if part in self._missing)
