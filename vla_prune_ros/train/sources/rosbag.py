"""Bags that were recorded of a robot, by hand or by policy, as demonstrations.

One pass over a bag: the frames that a policy would have seen, and what was done meanwhile.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bags.events import Event, Replay
from ...bags.observation import JOINTS, POSE, Wiring, picture
from ...bags.reader import Bag, Place, find_bags
from ...bags.topics import Topics, guess_topics, load_topics
from ...bags.trajectory import Reading, Tracks
from ...errors import DataError, InputRefused, ProfileError
from ...profiles import Profile
from ...runtime.messages import read_joints, read_valid_pose
from ...runtime.pairing import Pair
from ...runtime.state import (
    GripperJoints,
    joints_proprio,
    pose_gripper_proprio,
    resolve_axis_angle,
)
from .base import Sample


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
        names, positions, _ = pair.items[JOINTS].read(read_joints)
        if profile.proprio_kind == 'joints':
            return (joints_proprio(names, positions, profile.action_names),)
        position, quaternion = pair.items[POSE].read(read_valid_pose)
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


_OPEN_BAGS = 8
_RANGES = {'gripper': (0.0, 1.0), 'joint_states': (0.0, 0.04)}


class Rosbag:
    """A :class:`~.sample.Source`: rosbag2 and ROS 1 bags, paired and turned into states as
    ``vla_policy`` does it.

    - Frames: the first pair of each control period. A chunk's steps lie on a grid that begins at
      the frame's stamp, whatever the rates of camera and robot.
    - Actions ``poses``: differences of the measured end-effector pose, interpolated at the steps.
      ``commands``: the velocities on the topic ``twist`` integrated over each step, or differences
      of ``pose_target``.
    - Gripper: the command on the topic ``gripper`` in the middle of the step, else the first
      finger joint's opening at its end; 0 or 1 by the thresholds of ``chunk_executor``.
    - No-ops are left out of frames and chunks, as in the published preparation of LIBERO
      (openvla, ``regenerate_libero_dataset.py``): six numbers with a norm below ``no_op``, and an
      unchanged gripper. Measured poses are noisy and need a larger one than the published 1e-4.
    - Where time jumps, or the task changes, chunks end. Behind the end of a recording and from a
      gap on, steps are no labels.

    :param path: a bag, or a folder with any number of them.
    :param profile: end-effector deltas; the labels are divided by its ``action_scale``.
    :param topics: or a mapping of its fields, or a YAML file; None guesses for each bag, see
        :func:`~vla_prune_ros.bags.topics.guess_topics`.
    :param actions: ``poses`` or ``commands``.
    :param wiring: or a mapping of its fields: the parameters of ``vla_policy``.
    :param instruction: the task until a bag names one, and of bags that name none.
    :param rotation_reference: (3,) mean rotation vector of the statistics of the checkpoint that
        is trained on; None for the one that agrees with the mean of these bags.
    :param gripper_closed: position of that joint or command when closed, as recorded;
        ``gripper_open``: when open. None for 0 and 1 of commands, 0 and 0.04 m of a finger.
    :param close_below: openings below close the gripper; ``open_above``: above open it.
    :param no_op: see above; None keeps every frame.
    :param max_gap_s: between poses further apart nothing is known.
    :param hold_s: a velocity without a successor ends after this time.
    :raises DataError: a bag cannot be read, lacks a topic or an instruction, or no frame is left.
    :raises ProfileError: the profile is not one of end-effector deltas, or a number is unusable.
    """

    def __init__(
        self,
        path: str | Path,
        profile: Profile,
        topics: 'Topics | Mapping[str, Any] | str | Path | None' = None,
        *,
        actions: str = 'poses',
        wiring: 'Wiring | Mapping[str, Any] | None' = None,
        instruction: str = '',
        rotation_reference: Sequence[float] | None = None,
        gripper_closed: float | None = None,
        gripper_open: float | None = None,
        close_below: float = 0.4,
        open_above: float = 0.6,
        no_op: float | None = 1e-4,
        max_gap_s: float = 0.25,
        hold_s: float = 0.2,
    ) -> None:
        _require_deltas(profile)
        self._profile, self._topics = profile, _topics(topics)
        self._wiring = wiring if isinstance(wiring, Wiring) else Wiring(**(wiring or {}))
        self._bags: OrderedDict[tuple[int, Path], Bag] = OrderedDict()
        paths = find_bags(path)
        if not paths:
            raise DataError(f'no bags at {path}', 'give a bag, or a folder with some')
        numbers = (close_below, open_above, no_op, max_gap_s, hold_s)
        self.lost: list[str] = []
        """What could not be read, one line each."""
        self._refusal = ''
        self.left_out: dict[str, int] = {}
        """Frames and messages that gave nothing, by reason."""
        self._frames: list[tuple[Path, Labelled]] = []
        for bag_path in paths:
            try:
                bag = Bag(bag_path)
            except DataError as error:
                if len(paths) == 1:
                    raise
                self.lost.append(str(error))  # one broken recording of many
                continue
            with bag:
                self._read(bag, actions, (gripper_closed, gripper_open), numbers, instruction)
        if not self._frames:
            raise self._nothing(path)
        self._states = self._build_states(rotation_reference)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        """The sample with this number.

        :raises IndexError: there is none.
        :raises DataError: its pictures cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        path, (frame, chunk, valid) = self._frames[index]
        bag = self._bag(path)
        try:
            images = {
                camera: picture(camera, bag.read(place), self._wiring)
                for camera, place in frame.images.items()
            }
        except InputRefused as refusal:
            raise DataError(
                f'bag {path} at {frame.stamp_ns} ns: {refusal.what}', refusal.remedy
            ) from None
        state = None if self._states is None else self._states[index]
        return Sample(images, state, frame.instruction, chunk, valid)

    def instruction(self, index: int) -> str:
        """The task of a sample, cleaned as the node cleans it."""
        return self._frames[index][1].frame.instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The first action of every sample (N, 7), and its state (N, P)."""
        return np.array([labelled.chunk[0] for _, labelled in self._frames]), self._states

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay with the process that opened them."""
        return {**self.__dict__, '_bags': OrderedDict()}

    def _read(
        self,
        bag: Bag,
        actions: str,
        ends: tuple[float | None, float | None],
        numbers: tuple[float, float, float | None, float, float],
        instruction: str,
    ) -> None:
        topics = self._topics or guess_topics(bag, self._profile)
        grip = 'gripper' if topics.gripper else 'joint_states'
        closed, opened = (
            default if given is None else given
            for given, default in zip(ends, _RANGES[grip], strict=True)
        )
        reading = Reading(_motion(actions, topics), grip, closed, opened, *numbers)
        _require_usable(reading)
        recorder = Recorder(self._profile, self._wiring, reading)
        self._frames += [(bag.path, found) for found in recorder.read(bag, topics, instruction)]
        self.lost += [f'{bag.path}: {line}' for line in bag.lost]
        self._refusal = self._refusal or recorder.refusal
        for reason, count in recorder.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count

    def _nothing(self, path: str | Path) -> DataError:
        counts = [f'{count} x {reason}' for reason, count in self.left_out.items()]
        why = '; '.join([*counts, *self.lost][:6]) or 'no images that pair'
        remedy = self._refusal or 'check topics, `no_op` and the slop; docs/troubleshooting.md'
        return DataError(f'{path} gives no frames ({why})', remedy)

    def _build_states(self, reference: Sequence[float] | None) -> np.ndarray | None:
        parts = [labelled.frame.state for _, labelled in self._frames]
        if self._profile.proprio_kind == 'none' or not self._profile.proprio_dim:
            return None
        if self._profile.proprio_kind == 'joints':
            return np.array([part[0] for part in parts])
        if reference is None:
            reference = agreeing_reference([quat for _, quat, _ in parts])
        rows = [pose_gripper_proprio(p, q, fingers, reference) for p, q, fingers in parts]
        width = len(rows[0])
        if width != self._profile.proprio_dim:
            raise ProfileError(
                f'the state has {width} numbers, profile {self._profile.name!r} '
                f'{self._profile.proprio_dim}',
                'set gripper_joints of the wiring, or proprio_dim of the profile',
            )
        return np.array(rows)

    def _bag(self, path: Path) -> Bag:
        key = os.getpid(), path  # a file that was opened before a fork has one position for both
        if key not in self._bags:
            self._bags[key] = Bag(path)
            while len(self._bags) > _OPEN_BAGS:
                self._bags.popitem(last=False)[1].close()
        self._bags.move_to_end(key)
        return self._bags[key]


def agreeing_reference(quats_xyzw: Sequence[np.ndarray]) -> np.ndarray:
    """A rotation vector (3,) that is the mean of all orientations resolved by it.

    A policy resolves the sign by the mean of its statistics, so the states that the statistics
    are taken of must have been resolved by that mean.
    """
    reference = resolve_axis_angle(quats_xyzw[0], np.zeros(3))
    for _ in range(20):
        mean = np.mean([resolve_axis_angle(q, reference) for q in quats_xyzw], axis=0)
        if np.allclose(mean, reference, atol=1e-12):
            break
        reference = mean
    return reference


def _motion(actions: str, topics: Topics) -> str:
    if actions == 'poses':
        return 'ee_pose'
    if actions != 'commands':
        raise ProfileError(f'actions is {actions!r}', "use 'poses' or 'commands'")
    return 'pose_target' if topics.pose_target and not topics.twist else 'twist'


def _topics(topics: 'Topics | Mapping[str, Any] | str | Path | None') -> Topics | None:
    if topics is None or isinstance(topics, Topics):
        return topics
    return Topics(**topics) if isinstance(topics, Mapping) else load_topics(topics)


def _require_deltas(profile: Profile) -> None:
    if profile.action_kind != 'delta_pose':
        raise ProfileError(
            f'profile {profile.name!r} commands {profile.action_kind}',
            'bags are read as end-effector deltas; use a profile of action_kind delta_pose',
        )


def _require_usable(reading: Reading) -> None:
    numbers = reading.gripper_closed, reading.gripper_open, reading.max_gap_s, reading.hold_s
    if not np.isfinite(numbers).all() or reading.max_gap_s <= 0 or reading.hold_s <= 0:
        raise ProfileError('max_gap_s and hold_s must be above 0', 'give seconds')
    if reading.gripper_closed == reading.gripper_open:
        raise ProfileError(
            f'gripper_closed and gripper_open are both {reading.gripper_open}',
            'give the two ends of its range, as they were recorded',
        )
