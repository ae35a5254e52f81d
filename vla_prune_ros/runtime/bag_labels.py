"""What was done from an instant on: motion and gripper as actions of a profile."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from ..profiles import Profile


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
        for i, (stamp, twist) in enumerate(zip(stamps_ns, twists, strict=True)):
            following = stamps_ns[i + 1] if i + 1 < len(stamps_ns) else end_ns
            until = min(following, stamp + hold_ns)
            for knot, speed in ((stamp, np.zeros(6)), (until, np.asarray(twist, np.float64))):
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
