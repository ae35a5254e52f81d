"""Bags that were recorded of a robot, by hand or by policy, as demonstrations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bags.events import BAG_READER, Event, Replay
from ...bags.reader import Bag, Place, find_bags
from ...bags.topics import Topics, guess_topics, load_topics, make_topics
from ...bags.trajectory import Reading, Trajectory, choose_reading
from ...config import from_mapping, option
from ...errors import DataError, InputRefused, ProfileError
from ...profiles import Profile
from ...runtime.messages import read_joints, read_valid_pose
from ...runtime.pairing import Pair
from ...runtime.params import SessionParams
from ...runtime.session import JOINTS, POSE, Observer
from ...runtime.state import (
    GripperJoints,
    joints_proprio,
    pose_gripper_proprio,
    resolve_axis_angle,
)
from .base import Cache, Sample, source_options

_OPEN_BAGS = 8


@dataclass(frozen=True)
class RosbagOptions:
    """Options of the format ``rosbag``."""

    topics: Mapping[str, Any] | str | Path | None = option(
        None, 'Fields of Topics, or a YAML file with them; null guesses them for each bag.'
    )
    actions: str = option(
        'poses',
        'poses: differences of the measured end-effector pose. commands: the topic twist, '
        'integrated over each step, or differences of pose_target.',
        choices=('poses', 'commands'),
    )
    wiring: Mapping[str, Any] = option(
        {}, 'Parameters of vla_policy that say how to read a robot.'
    )
    instruction: str = option('', 'The task until a bag names one, and of bags that name none.')
    rotation_reference: tuple[float, ...] | None = option(
        None,
        'Mean rotation vector (3) of the statistics of the checkpoint that is trained on; null: '
        'the one that agrees with the mean of these bags.',
    )
    gripper_closed: float | None = option(
        None, 'Gripper command or finger joint when closed, as recorded; null: 0.'
    )
    gripper_open: float | None = option(
        None, 'The same when open; null: 1 of commands, 0.04 m of a finger.'
    )
    close_below: float = option(0.4, 'Openings (0 to 1) below close the gripper.')
    open_above: float = option(0.6, 'Openings above open it.')
    no_op: float | None = option(
        1e-4,
        'Steps whose first six numbers have a norm below it, with an unchanged gripper, are left '
        'out, as in the published preparation of LIBERO; measured poses are noisy and need a '
        'larger one. null keeps every frame.',
    )
    max_gap_s: float = option(0.25, 'Between poses further apart nothing is known.', above=0)
    hold_s: float = option(0.2, 'A velocity without a successor ends after this time.', above=0)

    def reading(self, topics: Topics) -> Reading:
        """:raises ProfileError: the gripper is closed where it is open."""
        motion = 'ee_pose'
        if self.actions == 'commands':
            motion = 'pose_target' if topics.pose_target and not topics.twist else 'twist'
        names = ('gripper_closed', 'gripper_open', 'close_below', 'open_above')
        names += ('no_op', 'max_gap_s', 'hold_s')
        return choose_reading(topics, motion, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, eq=False)
class Frame:
    """What a policy would have seen at one instant.

    :param images: camera -> place in the bag.
    :param state: what the state vector is built of: position, quaternion and fingers, or joints
        alone; empty without one.
    """

    stamp_ns: int
    images: Mapping[str, Place]
    state: tuple[np.ndarray, ...]
    instruction: str


class LabelledFrame(NamedTuple):
    """A frame, its chunk float64 (K, 7) and which of its steps are labels, bool (K,)."""

    frame: Frame
    chunk: np.ndarray
    valid: np.ndarray


@dataclass(eq=False)
class _Epoch:
    """The frames between two jumps of time or changes of the task."""

    number: int
    frames: list[Frame] = field(default_factory=list)
    slot: int = -1  # control period of the last frame, counted from the first


class FrameReader:
    """One pass over a bag: the frames that a policy would have seen, and what was done meanwhile.

    :param profile: with ``action_kind`` ``delta_pose``.
    """

    def __init__(self, profile: Profile, wiring: SessionParams, reading: Reading) -> None:
        self._profile, self._wiring, self._reading = profile, wiring, reading
        self._fingers = GripperJoints(wiring.gripper_joints, wiring.gripper_signs)
        self._dt = round(1e9 * profile.control_period_s)
        self.left_out: Counter[str] = Counter()
        """Frames and messages that gave nothing, by reason."""
        self.refusal = ''
        """What was wrong with the first message that was refused."""

    def read(self, bag: Bag, topics: Topics, instruction: str) -> list[LabelledFrame]:
        """The labelled frames of a bag, in its order.

        :raises DataError: a topic is missing, or there are frames and never an instruction.
        """
        extra = (self._reading.motion, self._reading.gripper)
        topics.check(bag, extra)
        params = replace(self._wiring, instruction=instruction)
        observer = Observer(self._profile, params, BAG_READER, period_s=0.0)
        replay = Replay(bag, topics, observer, extra)
        trajectory = Trajectory(self._reading, self._wiring.gripper_joints[0])
        epochs = [_Epoch(0)]
        for event in replay.events():
            if event.epoch != epochs[-1].number:
                epochs.append(_Epoch(event.epoch))
            self._note(event, epochs[-1], trajectory, observer.instruction)
        if not observer.instruction:
            raise DataError(
                f'bag {bag.path} has no instruction', 'name its topic, or give `instruction`'
            )
        self.left_out.update(observer.pairing.losses)
        self.left_out.update(trajectory.left_out)
        return [labelled for epoch in epochs for labelled in self._label(epoch, trajectory)]

    def _note(self, event: Event, epoch: _Epoch, trajectory: Trajectory, instruction: str) -> None:
        if event.refusal is not None:
            self.refusal = self.refusal or str(event.refusal)
        try:
            trajectory.note(event)
            if event.request is not None:
                self._keep_first(epoch, event.request.pair, instruction)
        except InputRefused as refusal:
            self.left_out[refusal.reason] += 1
            self.refusal = self.refusal or str(refusal)

    def _keep_first(self, epoch: _Epoch, pair: Pair, instruction: str) -> None:
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
        epoch.frames.append(Frame(pair.stamp_ns, places, self._state(pair), instruction))

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

    def _label(self, epoch: _Epoch, trajectory: Trajectory) -> list[LabelledFrame]:
        stamps = [frame.stamp_ns for frame in epoch.frames]
        labels = trajectory.labels(epoch.number, stamps, self._profile)
        out = []
        for frame in epoch.frames:
            found = labels.chunk(frame.stamp_ns)
            if isinstance(found, str):
                self.left_out[found] += 1
            else:
                out.append(LabelledFrame(frame, *found))
        return out


class Rosbag:
    """A :class:`~.base.Source`: rosbag2 and ROS 1 bags, paired and turned into states as
    ``vla_policy`` does it.

    - Frames: the first pair of each control period. A chunk's steps lie on a grid that begins at
      the frame's stamp, whatever the rates of camera and robot.
    - Gripper: the command on the topic ``gripper`` in the middle of the step, else the first
      finger joint's opening at its end; 0 or 1 by the thresholds of ``chunk_executor``.
    - Where time jumps, or the task changes, chunks end. Behind the end of a recording and from a
      gap on, steps are no labels.

    :param path: a bag, or a folder with any number of them.
    :param profile: end-effector deltas; the labels are divided by its ``action_scale``.
    :param options: fields of :class:`RosbagOptions`.
    :raises DataError: a bag cannot be read, lacks a topic or an instruction, or no frame is left.
    :raises ProfileError: the profile is not one of end-effector deltas, or an option is unusable.
    """

    def __init__(self, path: str | Path, profile: Profile, **options: Any) -> None:
        if profile.action_kind != 'delta_pose':
            raise ProfileError(
                f'profile {profile.name!r} commands {profile.action_kind}',
                'bags are read as end-effector deltas; use a profile of action_kind delta_pose',
            )
        self._options = source_options(RosbagOptions, options, 'rosbag')
        self._profile = profile
        self._wiring = from_mapping(SessionParams, self._options.wiring, 'wiring')
        self._observer = Observer(profile, self._wiring, BAG_READER)
        self._topics = _topics(self._options.topics)
        self._bags: Cache[Bag] = Cache(_OPEN_BAGS, close=Bag.close)
        self.lost: list[str] = []
        """What could not be read, one line each."""
        self._refusal = ''
        self.left_out: Counter[str] = Counter()
        """Frames and messages that gave nothing, by reason."""
        self._frames: list[tuple[Path, LabelledFrame]] = []
        paths = find_bags(path)
        if not paths:
            raise DataError(f'no bags at {path}', 'give a bag, or a folder with some')
        for bag_path in paths:
            try:
                bag = Bag(bag_path)
            except DataError as error:
                if len(paths) == 1:
                    raise
                self.lost.append(str(error))  # one broken recording of many
                continue
            with bag:
                self._read(bag)
        if not self._frames:
            counts = [f'{count} x {reason}' for reason, count in self.left_out.items()]
            why = '; '.join([*counts, *self.lost][:6]) or 'no images that pair'
            remedy = self._refusal or 'check topics, `no_op` and the slop; docs/troubleshooting.md'
            raise DataError(f'{path} gives no frames ({why})', remedy)
        self._states = self._build_states()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        path, (frame, chunk, valid) = self._frames[index]
        bag = self._bags.get(path, lambda: Bag(path))
        try:
            images = {
                camera: self._observer.image(camera, bag.read(place))
                for camera, place in frame.images.items()
            }
        except InputRefused as refusal:
            raise DataError(
                f'bag {path} at {frame.stamp_ns} ns: {refusal.what}', refusal.remedy
            ) from None
        state = None if self._states is None else self._states[index]
        return Sample(
            images=images,
            state=state,
            instruction=frame.instruction,
            chunk=chunk,
            valid=valid,
        )

    def instruction(self, index: int) -> str:
        """The task of a sample, cleaned as the node cleans it."""
        return self._frames[index][1].frame.instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The first action of every sample (N, 7), and its state (N, P)."""
        return np.array([labelled.chunk[0] for _, labelled in self._frames]), self._states

    def _read(self, bag: Bag) -> None:
        topics = self._topics or guess_topics(bag, self._profile)
        reader = FrameReader(self._profile, self._wiring, self._options.reading(topics))
        frames = reader.read(bag, topics, self._options.instruction)
        self._frames += [(bag.path, found) for found in frames]
        self.lost += [f'{bag.path}: {line}' for line in bag.lost]
        self._refusal = self._refusal or reader.refusal
        self.left_out.update(reader.left_out)

    def _build_states(self) -> np.ndarray | None:
        parts = [labelled.frame.state for _, labelled in self._frames]
        if self._profile.proprio_kind == 'none' or not self._profile.proprio_dim:
            return None
        if self._profile.proprio_kind == 'joints':
            return np.array([part[0] for part in parts])
        reference = self._options.rotation_reference
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


def _topics(given: Mapping[str, Any] | str | Path | None) -> Topics | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return make_topics(given, 'topics')
    return load_topics(given)
