"""What was done from an instant on: motion and gripper as actions of a profile.

What was done while a bag was recorded: motion and gripper, collected from its messages.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from ..profiles import Profile
from ..runtime.messages import read_gripper, read_joints, read_twist, read_valid_pose
from ..runtime.schedule import GripperLatch
from ..runtime.state import joints_proprio
from .events import INSTRUCTION, Event
from .reader import BagMessage


class Motion:
    """A pose over time, between samples on the straight line and the shortest rotation.

    :param stamps_ns: (N,), rising strictly. :param positions: (N, 3), m.
    :param quats_xyzw: (N, 4), not of length 0.
    :param max_gap_ns: between samples further apart nothing is known.
    """

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

    @classmethod
    def of_twists(
        cls,
        stamps_ns: Sequence[int],
        twists: Sequence[np.ndarray],
        hold_ns: int,
        begin_ns: int,
        end_ns: int,
    ) -> 'Motion':
        """Where commanded velocities lead, from an arbitrary pose.

        Each holds until the next one, for ``hold_ns`` at most; nothing moves before the first and
        behind the last. With ``v`` and ``w`` constant in between that is exact: straight lines,
        and ``exp(w t)`` applied from the left.

        :param twists: (N, 6), m/s and rad/s in the base frame.
        :param begin_ns: from here; ``end_ns``: to here it is known.
        """
        knots, position, rotation = [begin_ns], np.zeros(3), Rotation.identity()
        positions, quats = [position], [rotation.as_quat()]
        for i, (stamp, moved) in enumerate(zip(stamps_ns, twists, strict=True)):
            following = stamps_ns[i + 1] if i + 1 < len(stamps_ns) else end_ns
            until = min(following, stamp + hold_ns)
            for knot, speed in ((stamp, np.zeros(6)), (until, np.asarray(moved, np.float64))):
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
        return cls(knots, positions, quats, end_ns - begin_ns + 1)

    def at(self, times_ns: np.ndarray) -> tuple[np.ndarray, Rotation, np.ndarray]:
        """Poses at times (T,): positions (T, 3), rotations (T), and bool (T,) where known."""
        count = len(self._stamps)
        if count == 0:
            return np.zeros((len(times_ns), 3)), _identity(len(times_ns)), times_ns < 0
        before = np.searchsorted(self._stamps, times_ns, 'right') - 1
        exact = (before >= 0) & (self._stamps[before] == times_ns)
        inside = (before >= 0) & (before + 1 < count)
        low = np.clip(before, 0, count - 1)
        high = np.where(exact, low, np.minimum(low + 1, count - 1))
        gap = self._stamps[high] - self._stamps[low]
        known = exact | (inside & (gap <= self._max_gap))
        share = np.where(gap > 0, (times_ns - self._stamps[low]) / np.maximum(gap, 1), 0.0)
        share = np.clip(share, 0.0, 1.0)
        positions = self._positions[low] + share[:, None] * (
            self._positions[high] - self._positions[low]
        )
        first, last = (Rotation.from_quat(self._quats[i]) for i in (low, high))
        turned = Rotation.from_rotvec(share[:, None] * (last * first.inv()).as_rotvec())
        return positions, turned * first, known


class Gripper:
    """Open (1) or closed (0) over time; each value holds until the next.

    :param stamps_ns: (N,), rising. :param values: (N,).
    :param share: the part of a step at which it is read: 0.5 for commands, which come a little
        off the instants of the steps, 1 for what was measured when the step was done.
    """

    def __init__(self, stamps_ns: Sequence[int], values: Sequence[float], share: float) -> None:
        self._stamps = np.asarray(stamps_ns, np.int64)
        self._values = np.asarray(values, np.float64)
        self.share = share

    def at(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values at times (T,), and bool (T,) where known: not before the first."""
        if not len(self._stamps):
            return np.zeros(len(times_ns)), np.zeros(len(times_ns), bool)
        before = np.searchsorted(self._stamps, times_ns, 'right') - 1
        return self._values[np.maximum(before, 0)], before >= 0


class Labels:
    """Actions in a profile's units, on a grid that begins at any instant.

    :param no_op: a step is a no-op where its first six numbers have a norm below this, in the
        checkpoint's units, and the gripper stays; None: no step is one.
    """

    def __init__(
        self, motion: Motion, gripper: Gripper, profile: Profile, no_op: float | None
    ) -> None:
        self._motion, self._gripper, self._profile = motion, gripper, profile
        self._no_op = no_op
        self._dt = round(1e9 * profile.control_period_s)

    def steps(self, stamp_ns: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``first`` to ``first + count - 1`` from an instant.

        A step is the difference of positions and ``R1 R0^-1`` as a rotation vector, both in the
        base frame, divided by the profile's ``action_scale``, and the gripper.

        :returns: float64 (count, 7), 0 where unknown, and bool (count,) where known.
        """
        times = stamp_ns + np.arange(first, first + count + 1, dtype=np.int64) * self._dt
        positions, rotations, known = self._motion.at(times)
        turned = (rotations[1:] * rotations[:-1].inv()).as_rotvec()
        grip, gripped = self._gripper.at(times[:-1] + round(self._gripper.share * self._dt))
        valid = known[1:] & known[:-1] & gripped
        actions = self._profile.from_si(
            np.column_stack((np.diff(positions, axis=0), turned, grip))
        )
        return np.where(valid[:, None], actions, 0.0), valid

    def chunk(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray] | str:
        """The chunk of a frame, without no-ops: behind one, the chunk goes on with what comes.

        :returns: float64 (K, 7) and bool (K,), False from the first unknown step on; or why the
            frame is no sample: ``'no_label'`` or ``'no_op'``.
        """
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
        return self._filled(kept[:size], known[:size])

    def _moves(self, actions: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Which steps behind the first are no no-ops; unknown ones are none."""
        if self._no_op is None:
            return np.ones(len(actions) - 1, bool)
        still = np.linalg.norm(actions[1:, :6], axis=1) < self._no_op
        same = ~valid[:-1] | (actions[1:, 6] == actions[:-1, 6])
        return ~(valid[1:] & still & same)

    def _filled(self, kept: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K steps: what is no label stands still and holds the gripper."""
        size = self._profile.chunk
        chunk, valid = np.zeros((size, kept.shape[1])), np.zeros(size, bool)
        valid[: len(known)] = np.logical_and.accumulate(known)
        labels = int(valid.sum())
        chunk[:labels] = kept[:labels]
        chunk[labels:, 6] = kept[labels - 1, 6]
        return chunk, valid


def _identity(count: int) -> Rotation:
    return Rotation.from_quat(np.tile((0.0, 0.0, 0.0, 1.0), (count, 1)))


@dataclass(frozen=True)
class Reading:
    """How a recording is turned into actions.

    :param motion: stream that says how the arm moved: ``ee_pose``, ``twist`` or ``pose_target``.
    :param gripper: stream of the gripper: ``gripper`` (commands) or ``joint_states``.
    :param gripper_closed: position of that command or joint when closed; ``gripper_open``: open.
    :param close_below: openings (0 ... 1) below close the gripper; ``open_above``: above open it.
    :param no_op: see :class:`~.bag_labels.Labels`.
    :param max_gap_s: between poses further apart nothing is known.
    :param hold_s: a velocity without a successor ends after this time.
    """

    motion: str
    gripper: str
    gripper_closed: float
    gripper_open: float
    close_below: float = 0.4
    open_above: float = 0.6
    no_op: float | None = None
    max_gap_s: float = 0.25
    hold_s: float = 0.2


@dataclass(eq=False)
class _Epoch:
    """What came between two jumps of time or changes of the task, by stamp."""

    motion: list[tuple[int, tuple[np.ndarray, ...]]] = field(default_factory=list)
    gripper: list[tuple[int, float]] = field(default_factory=list)


class Tracks:
    """Collects the streams that a reading names, epoch by epoch.

    :param finger: joint whose opening counts where there are no gripper commands.
    """

    def __init__(self, reading: Reading, finger: str) -> None:
        self._reading, self._finger = reading, finger
        self._latch = GripperLatch(reading.close_below, reading.open_above)
        self._epochs: dict[int, _Epoch] = {0: _Epoch()}
        self._last = 0
        self.left_out: Counter[str] = Counter()
        """Messages that gave nothing, by reason."""

    def note(self, event: Event) -> None:
        """Take an event in; those of other streams say when an epoch begins.

        :raises InputRefused: the message is unusable; the track goes on without it.
        """
        if event.epoch != self._last:
            self._begin(event)
        epoch, reading = self._epochs[event.epoch], self._reading
        if event.refusal is not None:
            return
        if event.stream == reading.motion:
            self._in_order(epoch.motion, event.message, self._moved(event.message))
        if event.stream == reading.gripper:
            value = self._opening(event.message)
            latched = self._latch.update(value)
            self._in_order(
                epoch.gripper, event.message, round(value) if latched is None else latched
            )

    def labels(self, epoch: int, stamps_ns: Sequence[int], profile: Profile) -> Labels:
        """Actions of an epoch.

        :param stamps_ns: of its frames: commands are known from the first to the last instant that
            anything was heard of.
        """
        track = self._epochs.get(epoch, _Epoch())
        motion = self._motion(track, list(stamps_ns))
        return Labels(motion, self._gripper(track), profile, self._reading.no_op)

    def _begin(self, event: Event) -> None:
        before, self._last = self._epochs[self._last], event.epoch
        self._epochs[event.epoch] = _Epoch()
        if event.stream == INSTRUCTION:  # time goes on, and the fingers stay
            self._epochs[event.epoch].gripper += before.gripper[-1:]
        else:
            self._latch.reset()

    def _in_order(self, track: list, message: BagMessage, value: object) -> None:
        """Behind a newer one nothing is taken: the track is read by time."""
        if track and message.stamp_ns <= track[-1][0]:
            self.left_out['not_newer'] += 1
        else:
            track.append((message.stamp_ns, value))

    def _moved(self, message: BagMessage) -> tuple[np.ndarray, ...]:
        if self._reading.motion == 'twist':
            return (message.read(read_twist),)
        return message.read(read_valid_pose)

    def _opening(self, message: BagMessage) -> float:
        """0 closed ... 1 open, of the command or of the finger."""
        reading = self._reading
        if reading.gripper == 'gripper':
            value = message.read(read_gripper)
        else:
            names, positions, _ = message.read(read_joints)
            value = float(joints_proprio(names, positions, (self._finger,))[0])
        share = (value - reading.gripper_closed) / (reading.gripper_open - reading.gripper_closed)
        return float(np.clip(share, 0.0, 1.0))

    def _motion(self, track: _Epoch, stamps_ns: list[int]) -> Motion:
        stamps = [stamp for stamp, _ in track.motion]
        columns = list(zip(*(value for _, value in track.motion), strict=True))
        if self._reading.motion != 'twist':
            positions, quats = columns or ((), ())
            return Motion(stamps, positions, quats, round(1e9 * self._reading.max_gap_s))
        ends = stamps + stamps_ns
        if not ends:
            return Motion((), (), (), 0)
        hold_ns = round(1e9 * self._reading.hold_s)
        twists = columns[0] if columns else ()
        return Motion.of_twists(stamps, twists, hold_ns, min(ends), max(ends))

    def _gripper(self, track: _Epoch) -> Gripper:
        stamps, values = [s for s, _ in track.gripper], [v for _, v in track.gripper]
        return Gripper(stamps, values, 0.5 if self._reading.gripper == 'gripper' else 1.0)
