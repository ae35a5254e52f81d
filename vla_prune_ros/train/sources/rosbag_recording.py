"""One pass over a bag: the frames that a policy would have seen, and what was done meanwhile."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...errors import DataError, InputRefused
from ...profiles import Profile
from ...runtime.bag import Bag, Place
from ...runtime.bag_observation import JOINTS, POSE, Wiring
from ...runtime.bag_replay import Event, Replay
from ...runtime.bag_topics import Topics
from ...runtime.bag_tracks import Reading, Tracks
from ...runtime.bag_values import checked_pose, joints
from ...runtime.pairing import Pair
from ...runtime.state import GripperJoints, joints_proprio


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
    """The frames between two jumps of time or changes of the task."""

    number: int
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
        tracks = Tracks(reading, self._wiring.gripper_joints[0])
        epochs = [_Epoch(0)]
        for event in replay.events():
            if event.epoch != epochs[-1].number:
                epochs.append(_Epoch(event.epoch))
            self._note(event, epochs[-1], tracks, replay.instruction)
        if not replay.instruction:
            raise DataError(
                f'bag {bag.path} has no instruction', 'name its topic, or give `instruction`'
            )
        self.left_out.update(replay.pairing.losses)
        self.left_out.update(tracks.left_out)
        return [labelled for epoch in epochs for labelled in self._label(epoch, tracks)]

    def _note(self, event: Event, epoch: _Epoch, tracks: Tracks, instruction: str) -> None:
        if event.refusal is not None:
            self.refusal = self.refusal or str(event.refusal)
        try:
            tracks.note(event)
            if event.pair is not None:
                self._frame(epoch, event.pair, instruction)
        except InputRefused as refusal:
            self.left_out[refusal.reason] += 1
            self.refusal = self.refusal or str(refusal)

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
        position, quaternion = checked_pose(pair.items[POSE])
        moved = position + np.asarray(self._wiring.pose_offset_m)
        return moved, quaternion, self._fingers.pick(names, positions)

    def _label(self, epoch: _Epoch, tracks: Tracks) -> list[Labelled]:
        stamps = [frame.stamp_ns for frame in epoch.frames]
        labels = tracks.labels(epoch.number, stamps, self._profile)
        out = []
        for frame in epoch.frames:
            found = labels.chunk(frame.stamp_ns)
            if isinstance(found, str):
                self.left_out[found] += 1
            else:
                out.append(Labelled(frame, *found))
        return out
