"""What was done while a bag was recorded: motion and gripper, as actions of a profile."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ..config import Above, option
from ..errors import ProfileError
from ..profiles import Profile
from ..runtime.messages import read_gripper, read_joints, read_twist, read_valid_pose
from ..runtime.schedule import GripperLatch
from ..runtime.state import joints_proprio
from .events import INSTRUCTION, Event
from .reader import BagMessage
from .topics import Topics

# Stream -> closed and open: of commands, and of a finger in m.
_GRIPPER_RANGES = {'gripper': (0.0, 1.0), 'joint_states': (0.0, 0.04)}


@dataclass(frozen=True)
class ReadingOptions:
    """How a recording is turned into actions, whatever streams it has."""

    gripper_closed: float | None = option(
        None, 'Gripper command or finger joint when closed, as recorded; null: 0.'
    )
    gripper_open: float | None = option(
        None, 'The same when open; null: 1 of commands, 0.04 m of a finger.'
    )
    close_below: float = option(0.4, 'Openings (0 to 1) below close the gripper.')
    open_above: float = option(0.6, 'Openings above open it.')
    no_op: float | None = option(
        None, 'A step whose first six numbers have a norm below it is no action; null: none.'
    )
    max_gap_s: float = option(0.25, 'Between poses further apart nothing is known.', low=Above(0))
    hold_s: float = option(
        0.2, 'A velocity without a successor ends after this time.', low=Above(0)
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """``motion``: stream ee_pose, twist or pose_target; ``gripper``: gripper or joint_states."""

    motion: str
    gripper: str
    closed: float
    opened: float
    options: ReadingOptions


def choose_reading(topics: Topics, motion: str, options: ReadingOptions) -> Reading:
    """:raises ProfileError: the gripper is closed where it is open."""
    stream = 'gripper' if topics.gripper else 'joint_states'
    closed, opened = _GRIPPER_RANGES[stream]
    closed = closed if options.gripper_closed is None else options.gripper_closed
    opened = opened if options.gripper_open is None else options.gripper_open
    if not np.isfinite(opened - closed) or closed == opened:
        raise ProfileError(
            f'the gripper of {stream} is closed at {closed:g} and open at {opened:g}',
            'give gripper_closed and gripper_open, the two ends of its range as recorded',
        )
    return Reading(motion=motion, gripper=stream, closed=closed, opened=opened, options=options)


class PoseInterpolator:
    """A pose between samples, on the straight line and the shortest rotation.
    :param stamps_ns: rising strictly; within a gap above ``max_gap_ns`` nothing is known."""

    def __init__(
        self,
        stamps_ns: Sequence[int],
        positions: Sequence[np.ndarray],
        quats_xyzw: Sequence[np.ndarray],
        max_gap_ns: int,
    ) -> None:
        self._stamps = np.asarray(stamps_ns, np.int64)
        self._positions = np.asarray(positions, np.float64).reshape(-1, 3)
        self._quats = np.asarray(quats_xyzw, np.float64).reshape(-1, 4)
        self._max_gap = max_gap_ns

    def at(self, times_ns: np.ndarray) -> tuple[np.ndarray, Rotation, np.ndarray]:
        """Positions (T, 3) in m, rotations (T), and bool (T,) where known."""
        count, wanted = len(self._stamps), len(times_ns)
        if count == 0:
            identity = np.tile((0.0, 0.0, 0.0, 1.0), (wanted, 1))
            return np.zeros((wanted, 3)), Rotation.from_quat(identity), np.zeros(wanted, bool)
        before = np.searchsorted(self._stamps, times_ns, 'right') - 1
        exact = (before >= 0) & (self._stamps[before] == times_ns)
        inside = (before >= 0) & (before + 1 < count)
        low = np.clip(before, 0, count - 1)
        high = np.where(exact, low, np.minimum(low + 1, count - 1))
        gap = self._stamps[high] - self._stamps[low]
        known = exact | (inside & (gap <= self._max_gap))
        ratio = np.where(gap > 0, (times_ns - self._stamps[low]) / np.maximum(gap, 1), 0.0)
        ratio = np.clip(ratio, 0.0, 1.0)[:, None]
        moved = self._positions[high] - self._positions[low]
        first, last = (Rotation.from_quat(self._quats[i]) for i in (low, high))
        turned = Rotation.from_rotvec(ratio * (last * first.inv()).as_rotvec())
        return self._positions[low] + ratio * moved, turned * first, known


def integrate_twists(
    stamped: Sequence[tuple[int, np.ndarray]], hold_ns: int, begin_ns: int, end_ns: int
) -> PoseInterpolator:
    """Where commanded velocities (6,) in m/s and rad/s in the base frame lead, from any pose: each
    holds until the next one, for ``hold_ns`` at most, so that lines and ``exp(w t)`` are exact."""
    knots, position, rotation = [begin_ns], np.zeros(3), Rotation.identity()
    positions, quats = [position], [rotation.as_quat()]
    ends = [stamp for stamp, _ in stamped[1:]] + [end_ns]
    for (stamp, velocity), following in zip(stamped, ends, strict=False):
        until = min(following, stamp + hold_ns)
        for knot, speed in ((stamp, np.zeros(6)), (until, np.asarray(velocity, np.float64))):
            if knot <= knots[-1]:
                continue
            dt_s = (knot - knots[-1]) * 1e-9
            position = position + speed[:3] * dt_s
            rotation = Rotation.from_rotvec(speed[3:] * dt_s) * rotation
            knots.append(knot)
            positions.append(position)
            quats.append(rotation.as_quat())
    if end_ns > knots[-1]:
        knots, positions, quats = [*knots, end_ns], [*positions, position], [*quats, quats[-1]]
    return PoseInterpolator(knots, positions, quats, end_ns - begin_ns + 1)


class GripperSignal:
    """Open (1) or closed (0) over time; each value holds until the next.
    :param phase: of a step, at which it is read: 0.5 for commands, which come a little off the
        instants of the steps, 1 for what was measured when the step was done."""

    def __init__(self, stamped: Sequence[tuple[int, float]], phase: float) -> None:
        self._stamps = np.array([stamp for stamp, _ in stamped], np.int64)
        self._values = np.array([value for _, value in stamped], np.float64)
        self.phase = phase

    def at(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values at times (T,), and bool (T,) where known: not before the first."""
        if not len(self._stamps):
            return np.zeros(len(times_ns)), np.zeros(len(times_ns), bool)
        before = np.searchsorted(self._stamps, times_ns, 'right') - 1
        return self._values[np.maximum(before, 0)], before >= 0


class ActionLabels:
    """Actions in a profile's units, on a grid that begins at any instant. A step is a no-op where
    its first six numbers have a norm below ``no_op`` and the gripper stays."""

    def __init__(
        self,
        motion: PoseInterpolator,
        gripper: GripperSignal,
        profile: Profile,
        no_op: float | None,
    ) -> None:
        self._motion, self._gripper, self._profile, self._no_op = motion, gripper, profile, no_op
        self._dt = round(1e9 * profile.control_period_s)

    def steps(self, stamp_ns: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``first`` to ``first + count - 1``: float64 (count, 7), bool (count,) if known.
        Differences of positions and ``R1 R0^-1`` as a rotation vector, in the base frame."""
        times = stamp_ns + np.arange(first, first + count + 1, dtype=np.int64) * self._dt
        positions, rotations, known = self._motion.at(times)
        turned = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
        grip, grip_known = self._gripper.at(times[:-1] + round(self._gripper.phase * self._dt))
        valid = known[1:] & known[:-1] & grip_known
        moved = np.diff(positions, axis=0)
        actions = self._profile.from_si(np.column_stack((moved, turned, grip)))
        return np.where(valid[:, None], actions, 0.0), valid

    def chunk(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray] | str:
        """The chunk of a frame without no-ops, float64 (K, 7), and bool (K,), False from the first
        unknown step on; or why the frame is no sample: ``'no_label'`` or ``'no_op'``."""
        size = self._profile.chunk
        actions, valid = self.steps(stamp_ns, -1, size + 1)
        if not valid[1]:
            return 'no_label'
        moves = self._moves(actions, valid)
        if not moves[0]:
            return 'no_op'
        kept, known, at = actions[1:][moves], valid[1:][moves], size
        while len(kept) < size and known[-1]:
            actions, valid = self.steps(stamp_ns, at - 1, size + 1)
            moves = self._moves(actions, valid)
            kept = np.concatenate((kept, actions[1:][moves]))
            known, at = np.concatenate((known, valid[1:][moves])), at + size
        known = np.logical_and.accumulate(known[:size])
        labels = int(known.sum())
        chunk, valid = np.zeros((size, kept.shape[1])), np.arange(size) < labels
        chunk[:labels] = kept[:labels]
        chunk[labels:, 6] = kept[labels - 1, 6]
        return chunk, valid

    def _moves(self, actions: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if self._no_op is None:
            return np.ones(len(actions) - 1, bool)
        still = np.linalg.norm(actions[1:, :6], axis=1) < self._no_op
        same = ~valid[:-1] | (actions[1:, 6] == actions[:-1, 6])
        return ~(valid[1:] & still & same)


@dataclass(eq=False)
class _Epoch:
    motion: list[tuple[int, Any]] = field(default_factory=list)  # as the readers give it
    gripper: list[tuple[int, float]] = field(default_factory=list)


class Trajectory:
    """Collects the streams that a reading names, by epoch; ``finger`` is its gripper's joint."""

    def __init__(self, reading: Reading, finger: str) -> None:
        self._reading, self._finger = reading, finger
        self._latch = GripperLatch(reading.options.close_below, reading.options.open_above)
        self._epochs: dict[int, _Epoch] = {0: _Epoch()}
        self._last = 0
        self.left_out: Counter[str] = Counter()

    def note(self, event: Event) -> None:
        """:raises InputRefused: the message is unusable; the trajectory goes on without it."""
        if event.epoch != self._last:
            self._begin(event)
        epoch, reading = self._epochs[event.epoch], self._reading
        if event.refusal is not None:
            return
        if event.stream == reading.motion:
            read = read_twist if reading.motion == 'twist' else read_valid_pose
            self._in_order(epoch.motion, event.message, event.message.read(read))
        if event.stream == reading.gripper:
            opening = self._opening(event.message)
            latched = self._latch.update(opening)
            value = round(opening) if latched is None else latched
            self._in_order(epoch.gripper, event.message, value)

    def labels(self, epoch: int, stamps_ns: Sequence[int], profile: Profile) -> ActionLabels:
        reading, noted = self._reading, self._epochs.get(epoch, _Epoch())
        gripper = GripperSignal(noted.gripper, 0.5 if reading.gripper == 'gripper' else 1.0)
        motion = self._motion(noted.motion, list(stamps_ns))
        return ActionLabels(motion, gripper, profile, reading.options.no_op)

    def _begin(self, event: Event) -> None:
        before, self._last = self._epochs[self._last], event.epoch
        self._epochs[event.epoch] = _Epoch()
        if event.stream == INSTRUCTION:  # time goes on, and the fingers stay
            self._epochs[event.epoch].gripper += before.gripper[-1:]
        else:
            self._latch.reset()

    def _in_order(self, noted: list, message: BagMessage, value: object) -> None:
        if noted and message.stamp_ns <= noted[-1][0]:
            self.left_out['not_newer'] += 1
        else:
            noted.append((message.stamp_ns, value))

    def _opening(self, message: BagMessage) -> float:
        reading = self._reading
        if reading.gripper == 'gripper':
            value = message.read(read_gripper)
        else:
            names, positions, _ = message.read(read_joints)
            value = float(joints_proprio(names, positions, (self._finger,))[0])
        ratio = (value - reading.closed) / (reading.opened - reading.closed)
        return float(np.clip(ratio, 0.0, 1.0))

    def _motion(self, noted: list[tuple[int, Any]], stamps_ns: list[int]) -> PoseInterpolator:
        stamps = [stamp for stamp, _ in noted]
        if self._reading.motion != 'twist':
            positions, quats = [pose[0] for _, pose in noted], [pose[1] for _, pose in noted]
            max_gap_ns = round(1e9 * self._reading.options.max_gap_s)
            return PoseInterpolator(stamps, positions, quats, max_gap_ns)
        known = stamps + stamps_ns
        if not known:
            return PoseInterpolator((), (), (), 0)
        hold_ns = round(1e9 * self._reading.options.hold_s)
        return integrate_twists(noted, hold_ns, min(known), max(known))
