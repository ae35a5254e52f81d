"""Episodes of one scene on one clock that only rises, and the pace at which it rises."""

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from .commands import CommandHold
from .scene import Scene, SceneState

START_NS = 1_000_000_000
"""Simulated time of the first observation: ROS reads a clock at zero as not started."""

GAP_NS = 2_000_000_000
"""A jump ahead that tells policy and executor to forget what was before: they do from 1 s on."""


class Session:
    """A scene that is reset from seed to seed and moved by held commands.

    :param scene: the scene; the session's methods run in its thread.
    :param seed: seed of episode 0; episode n has ``seed + n``.
    :param command_timeout_s: simulated seconds; see :class:`CommandHold`.
    :param start_ns: simulated time of the first observation.
    """

    def __init__(
        self, scene: Scene, seed: int, command_timeout_s: float, start_ns: int = START_NS
    ) -> None:
        self.scene = scene
        self.commands = CommandHold(scene.control_hz, command_timeout_s)
        self.period_ns = round(1e9 / scene.control_hz)
        self.now_ns = start_ns
        self.episode = 0
        self._first_seed = seed
        self._begin()

    @property
    def seed(self) -> int:
        """Seed of the present episode."""
        return self._first_seed + self.episode

    def restart_seeds(self, seed: int) -> None:
        """The next episode has ``seed``, the one after it ``seed + 1``, and so on."""
        self._first_seed = seed - (self.episode + 1)

    def next_episode(self, gap_ns: int = 0) -> None:
        """Reset the scene with the next seed; time goes on by one control step and ``gap_ns``."""
        self.episode += 1
        self.now_ns += self.period_ns + gap_ns
        self._begin()

    def advance(self) -> None:
        """One control step with the commands held now."""
        self.scene.step(self.commands.action(self.now_ns))
        self.now_ns += self.period_ns
        self.step += 1
        before, self.state = self.state, self.scene.state()
        self.moved_m += float(np.linalg.norm(self.state.ee_position - before.ee_position))

    def due(self, rate_hz: float) -> bool:
        """Whether something that happens ``rate_hz`` times per simulated second happens now.

        True for step 0, then whenever ``step * rate_hz / control_hz`` passes a whole number.
        """
        before, now = (
            int(step * rate_hz / self.scene.control_hz + 1e-9)
            for step in (self.step - 1, self.step)
        )
        return self.step == 0 or now > before

    def report(self) -> dict[str, int | str]:
        """How the episode stands, for diagnostics.

        ``moved_m`` is the length of the end effector's path since the reset, ``commands`` counts
        the twists that moved it. ``generated_assets`` is true where the scene stands in for a
        simulator whose files are not there: its results are not that simulator's.
        """
        generated = bool(getattr(self.scene, 'generated_assets', False))
        return {
            'episode': self.episode,
            'step': self.step,
            'seed': self.seed,
            'instruction': self.scene.instruction,
            'moved_m': f'{self.moved_m:.6f}',
            'commands': self.commands.applied,
            'generated_assets': str(generated).lower(),
        }

    def _begin(self) -> None:
        self.scene.reset(self.seed)
        self.commands.clear()
        self.step = 0
        self.moved_m = 0.0
        self.state: SceneState = self.scene.state()


class Pacer:
    """Spreads control steps over wall time; a step that comes late is not made up for.

    :param period_s: simulated seconds per step.
    :param factor: simulated seconds per wall second; 0 for no waiting.
    :param clock: monotonic seconds.
    """

    def __init__(
        self, period_s: float, factor: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._wall_s = period_s / factor if factor > 0 else 0.0
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count from now, after a pause or a reset."""
        now = self._clock()
        self._due = now + self._wall_s
        self._stepped_at: deque[float] = deque([now], maxlen=41)

    def wait_s(self) -> float:
        """Wall seconds until the next step is due, >= 0."""
        return max(0.0, self._due - self._clock())

    def stepped(self) -> None:
        """Tell that a step was made now."""
        now = self._clock()
        self._due += self._wall_s
        if self._due < now - self._wall_s:
            self._due = now
        self._stepped_at.append(now)

    def measured(self) -> float:
        """Simulated seconds per wall second over the last 40 steps; 0 before the first."""
        wall = self._stepped_at[-1] - self._stepped_at[0]
        return (len(self._stepped_at) - 1) * self._period_s / wall if wall > 0 else 0.0
