"""One pass over a bag: the frames that a policy would have seen, and what was done meanwhile."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...errors import DataError, InputRefused
from ...profiles import Profile
from ...runtime.bag import Bag, BagMessage, Place
from ...runtime.bag_observation import JOINTS, POSE, Wiring
from ...runtime.bag_replay import INSTRUCTION, Event, Replay
from ...runtime.bag_topics import Topics
from ...runtime.bag_values import gripper, joints, pose, twist
from ...runtime.pairing import Pair
from ...runtime.schedule import GripperLatch
from ...runtime.state import GripperJoints, joints_proprio
from .rosbag_labels import Gripper, Labels, Motion


@dataclass(frozen=True)
class Reading:
    """How a recording is turned into labels; see :class:`~.rosbag.Rosbag` for the numbers.

    :param motion: stream that says how the arm moved: ``ee_pose``, ``twist`` or ``pose_target``.
    :param gripper: stream of the gripper: ``gripper`` (commands) or ``joint_states``.
    """

    motion: str
    gripper: str
    gripper_closed: float
    gripper_open: float
    close_below: float
    open_above: float
    no_op: float | None
    max_gap_s: float
    hold_s: float


@dataclass(frozen=True, eq=False)
class Seen:
    """What a policy would have seen at one instant.

    :param images: camera -> place in the bag.
    :param state: what the state vector is built of: position, quaternion and fingers, or joints
        alone; empty without one.
    """

    stamp_ns: int
    images: Mapping[str, Place]
    state: tuple[np.ndarray, ...]
    instruction: str


class Labelled(NamedTuple):
    """A frame, its chunk float64 (K, 7) and which of its steps are labels, bool (K,)."""

    frame: Seen
    chunk: np.ndarray
    valid: np.ndarray


@dataclass(eq=False)
class _Epoch:
    """What came between two jumps of time or changes of the task, by stamp."""

    motion: list[tuple[int, tuple[np.ndarray, ...]]] = field(default_factory=list)
    gripper: list[tuple[int, float]] = field(default_factory=list)
    frames: list[Seen] = field(default_factory=list)
    slot: int = -1  # control period of the last frame, counted from the first


class Recorder:
    """Reads bags of one robot.

    :param profile: with ``action_kind`` ``delta_pose``.
    """

    def __init__(self, profile: Profile, wiring: Wiring, reading: Reading) -> None:
        self._profile, self._wiring, self._reading = profile, wiring, reading
        self._fingers = GripperJoints(wiring.gripper_joints, wiring.gripper_signs)
        self._dt = round(1e9 * profile.control_period_s)
        self.left_out: Counter[str] = Counter()
        """Frames and messages that gave nothing, by reason."""
        self.refusal = ''
        """What was wrong with the first message that was refused."""

    def read(self, bag: Bag, topics: Topics, instruction: str) -> list[Labelled]:
        """The labelled frames of a bag, in its order.

        :raises DataError: a topic is missing, or there are frames and never an instruction.
        """
        reading = self._reading
        topics.check(bag, (reading.motion, reading.gripper))
        replay = Replay(
            bag,
            topics,
            self._profile,
            self._wiring,
            instruction,
            (reading.motion, reading.gripper),
        )
        epochs, last = [_Epoch()], 0
        latch = GripperLatch(reading.close_below, reading.open_above)
        for event in replay.events():
            if event.epoch != last:
                last = event.epoch
                epochs.append(_Epoch())
                if event.stream == INSTRUCTION:  # time goes on, and the fingers stay
                    epochs[-1].gripper += epochs[-2].gripper[-1:]
                else:
                    latch.reset()
            self._note(event, epochs[-1], latch, replay.instruction)
        if not replay.instruction:
            raise DataError(
                f'bag {bag.path} has no instruction', 'name its topic, or give `instruction`'
            )
        self.left_out.update(replay.pairing.losses)
        return [labelled for epoch in epochs for labelled in self._label(epoch)]

    def _note(self, event: Event, epoch: _Epoch, latch: GripperLatch, instruction: str) -> None:
        reading = self._reading
        if event.refusal is not None:
            self.refusal = self.refusal or str(event.refusal)
            return
        try:
            if event.stream == reading.motion:
                self._in_order(epoch.motion, event.message, self._moved(event.message))
            if event.stream == reading.gripper:
                value = self._opening(event.message)
                latched = latch.update(value)
                self._in_order(
                    epoch.gripper, event.message, round(value) if latched is None else latched
                )
            if event.pair is not None:
                self._frame(epoch, event.pair, instruction)
        except InputRefused as refusal:
            self.left_out[refusal.reason] += 1
            self.refusal = self.refusal or str(refusal)

    def _in_order(self, track: list, message: BagMessage, value: object) -> None:
        """Behind a newer one nothing is taken: the track is read by time."""
        if track and message.stamp_ns <= track[-1][0]:
            self.left_out['not_newer'] += 1
        else:
            track.append((message.stamp_ns, value))

    def _moved(self, message: BagMessage) -> tuple[np.ndarray, ...]:
        return (twist(message),) if self._reading.motion == 'twist' else _checked_pose(message)

    def _opening(self, message: BagMessage) -> float:
        """0 closed ... 1 open, of the command or of the first finger."""
        reading = self._reading
        if reading.gripper == 'gripper':
            value = gripper(message)
        else:
            names, positions, _ = joints(message)
            value = float(joints_proprio(names, positions, self._wiring.gripper_joints[:1])[0])
        share = (value - reading.gripper_closed) / (reading.gripper_open - reading.gripper_closed)
        return float(np.clip(share, 0.0, 1.0))

    def _frame(self, epoch: _Epoch, pair: Pair, instruction: str) -> None:
        """Keep the first pair of each control period, whatever the cameras' rate."""
        if epoch.frames:
            since_ns = pair.stamp_ns - epoch.frames[0].stamp_ns
            slot = (since_ns + self._dt // 2) // self._dt
            if slot <= epoch.slot:
                return
            epoch.slot = slot
        else:
            epoch.slot = 0
        places = {camera: pair.items[camera].place for camera in self._profile.cameras}
        epoch.frames.append(Seen(pair.stamp_ns, places, self._state(pair), instruction))

    def _state(self, pair: Pair) -> tuple[np.ndarray, ...]:
        profile = self._profile
        if profile.proprio_kind == 'none' or not profile.proprio_dim:
            return ()
        names, positions, _ = joints(pair.items[JOINTS])
        if profile.proprio_kind == 'joints':
            return (joints_proprio(names, positions, profile.action_names),)
        position, quaternion = _checked_pose(pair.items[POSE])
        moved = position + np.asarray(self._wiring.pose_offset_m)
        return moved, quaternion, self._fingers.pick(names, positions)

    def _label(self, epoch: _Epoch) -> list[Labelled]:
        labels = Labels(
            self._motion(epoch), self._gripper(epoch), self._profile, self._reading.no_op
        )
        out = []
        for frame in epoch.frames:
            found = labels.chunk(frame.stamp_ns)
            if isinstance(found, str):
                self.left_out[found] += 1
            else:
                out.append(Labelled(frame, *found))
        return out

    def _motion(self, epoch: _Epoch) -> Motion:
        stamps = [stamp for stamp, _ in epoch.motion]
        columns = list(zip(*(value for _, value in epoch.motion), strict=True))
        if self._reading.motion != 'twist':
            positions, quats = columns or ((), ())
            return Motion(stamps, positions, quats, round(1e9 * self._reading.max_gap_s))
        ends = stamps + [frame.stamp_ns for frame in epoch.frames]
        if not ends:
            return Motion((), (), (), 0)
        hold_ns = round(1e9 * self._reading.hold_s)
        twists = columns[0] if columns else ()
        return Motion.of_twists(stamps, twists, hold_ns, min(ends), max(ends))

    def _gripper(self, epoch: _Epoch) -> Gripper:
        stamps, values = [s for s, _ in epoch.gripper], [v for _, v in epoch.gripper]
        return Gripper(stamps, values, 0.5 if self._reading.gripper == 'gripper' else 1.0)


def _checked_pose(message: BagMessage) -> tuple[np.ndarray, np.ndarray]:
    """Position and unit quaternion.

    :raises InputRefused: they are none.
    """
    position, quaternion = pose(message)
    norm = float(np.linalg.norm(quaternion))
    if not (np.isfinite(position).all() and np.isfinite(norm) and norm > 1e-6):
        raise InputRefused('pose', f'{message.topic}: no pose', 'check its publisher')
    return position, quaternion
