"""A scene as a robot on a clock: held commands, episodes, lock-step with its sender, and pace."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import InputRefused
from .scene import Scene, SceneState, twist_to_action

# What a step waits for; each is stamped with the simulated time at which it begins to hold.
PARTS = ('twist', 'gripper')


class Lockstep:
    """Synchronous stepping: simulated time goes on when all :data:`PARTS` of its instant are in.

    A command of another instant counts for nothing, and a repeated one for nothing more."""

    def __init__(self) -> None:
        self._now_ns = 0
        self.missing: tuple[str, ...] = ()

    def expect(self, now_ns: int) -> None:
        self._now_ns, self.missing = now_ns, PARTS

    def wants(self, part: str, stamp_ns: int) -> bool:
        return stamp_ns == self._now_ns and part in self.missing

    def got(self, part: str, stamp_ns: int) -> None:
        if self.wants(part, stamp_ns):
            self.missing = tuple(p for p in self.missing if p != part)


class _Twist(NamedTuple):
    linear_m_s: np.ndarray
    angular_rad_s: np.ndarray
    received_ns: int


class CommandHold:
    """Zero-order hold of the latest gripper goal, and of the latest twist until it is old. Setters
    may run in another thread than :meth:`action`: each replaces one immutable value.
    :param timeout_s: simulated seconds; a twist received longer ago no longer moves the arm. Age
        counts from receipt, not from the header's stamp: a sender may run on wall time."""

    def __init__(self, control_hz: float, timeout_s: float) -> None:
        self._control_hz = control_hz
        self._timeout_ns = round(timeout_s * 1e9)
        self.clear()

    def clear(self) -> None:
        self._twist: _Twist | None = None
        self._last: _Twist | None = None
        self._open = 1.0
        self.applied = 0

    def set_twist(self, linear_m_s: np.ndarray, angular_rad_s: np.ndarray, now_ns: int) -> None:
        """:raises InputRefused: ``non_finite``; the twist held before stays."""
        linear = np.array(linear_m_s, dtype=np.float64)
        angular = np.array(angular_rad_s, dtype=np.float64)
        if not (np.isfinite(linear).all() and np.isfinite(angular).all()):
            raise InputRefused(
                'non_finite', 'twist holds NaN or infinity', 'send finite m/s and rad/s'
            )
        self._twist = _Twist(linear, angular, now_ns)

    def set_gripper(self, fraction_open: float) -> None:
        if not np.isfinite(fraction_open):
            raise InputRefused(
                'non_finite', 'gripper position is NaN or infinity', 'send 0 (closed) to 1 (open)'
            )
        self._open = float(np.clip(fraction_open, 0.0, 1.0))

    def action(self, now_ns: int) -> np.ndarray:
        twist = self._twist
        if twist is None or now_ns - twist.received_ns > self._timeout_ns:
            return twist_to_action(np.zeros(3), np.zeros(3), self._open, self._control_hz)
        if twist is not self._last:
            self._last = twist
            self.applied += 1
        return twist_to_action(twist.linear_m_s, twist.angular_rad_s, self._open, self._control_hz)


# Simulated time of the first observation: ROS reads a clock at zero as not started.
START_NS = 1_000_000_000
# A jump ahead that tells policy and executor to forget what was before: they do from 1 s on.
GAP_NS = 2_000_000_000


class Session:
    """Episodes of one scene, moved by held commands, on one clock that only rises; episode n has
    ``seed + n``."""

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
        return self._first_seed + self.episode

    def restart_seeds(self, seed: int) -> None:
        """The next episode has ``seed``."""
        self._first_seed = seed - (self.episode + 1)

    def next_episode(self, gap_ns: int = 0) -> None:
        self.episode += 1
        self.now_ns += self.period_ns + gap_ns
        self._begin()

    def advance(self) -> None:
        self.scene.step(self.commands.action(self.now_ns))
        self.now_ns += self.period_ns
        self.step += 1
        before, self.state = self.state, self.scene.state()
        self.moved_m += float(np.linalg.norm(self.state.ee_position - before.ee_position))

    def due(self, rate_hz: float) -> bool:
        """Whether something that happens ``rate_hz`` times per simulated second happens now."""
        before, now = (
            int(step * rate_hz / self.scene.control_hz + 1e-9)
            for step in (self.step - 1, self.step)
        )
        return self.step == 0 or now > before

    def report(self) -> dict[str, int | str]:
        """``commands`` counts the twists that moved the arm."""
        return {
            'episode': self.episode,
            'step': self.step,
            'seed': self.seed,
            'instruction': self.scene.instruction,
            'moved_m': f'{self.moved_m:.6f}',
            'commands': self.commands.applied,
            'generated_assets': str(self.scene.generated_assets).lower(),
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
    :param factor: simulated seconds per wall second; 0 for no waiting."""

    def __init__(
        self, period_s: float, factor: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._wall_s = period_s / factor if factor > 0 else 0.0
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        now = self._clock()
        self._due = now + self._wall_s
        self._stepped_at: deque[float] = deque([now], maxlen=41)

    def wait_s(self) -> float:
        return max(0.0, self._due - self._clock())

    def stepped(self) -> None:
        now = self._clock()
        self._due += self._wall_s
        if self._due < now - self._wall_s:
            self._due = now
        self._stepped_at.append(now)

    def measured(self) -> float:
        """Simulated seconds per wall second over the last 40 steps; 0 before the first."""
        wall = self._stepped_at[-1] - self._stepped_at[0]
        return (len(self._stepped_at) - 1) * self._period_s / wall if wall > 0 else 0.0
