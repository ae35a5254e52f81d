"""What was done while a bag was recorded: motion and gripper, collected from its messages."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..profiles import Profile
from .bag import BagMessage
from .bag_labels import Gripper, Labels, Motion
from .bag_replay import INSTRUCTION, Event
from .bag_values import checked_pose, gripper, joints, twist
from .schedule import GripperLatch
from .state import joints_proprio


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
        return (twist(message),) if self._reading.motion == 'twist' else checked_pose(message)

    def _opening(self, message: BagMessage) -> float:
        """0 closed ... 1 open, of the command or of the finger."""
        reading = self._reading
        if reading.gripper == 'gripper':
            value = gripper(message)
        else:
            names, positions, _ = joints(message)
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
