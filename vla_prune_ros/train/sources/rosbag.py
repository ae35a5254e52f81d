"""Bags that were recorded of a robot, by hand or by policy, as demonstrations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...bags.events import BAG_READER, Replay
from ...bags.reader import Bag, Place, find_bags
from ...bags.topics import Topics, guess_topics, load_topics, make_topics
from ...bags.trajectory import Reading, ReadingOptions, Trajectory, choose_reading
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
from .base import Cache, Sample

_OPEN_BAGS = 8


@dataclass(frozen=True)
class RosbagOptions(ReadingOptions):
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
    no_op: float | None = option(
        1e-4,
        'Steps whose first six numbers have a norm below it, with an unchanged gripper, are left '
        'out, as in the published preparation of LIBERO; measured poses are noisy and need a '
        'larger one. null keeps every frame.',
    )

    def reading(self, topics: Topics) -> Reading:
        motion = 'ee_pose'
        if self.actions == 'commands':
            motion = 'pose_target' if topics.pose_target and not topics.twist else 'twist'
        return choose_reading(topics, motion, self)


@dataclass(frozen=True, eq=False)
class Frame:
    bag: Path
    stamp_ns: int
    images: Mapping[str, Place]
    state: tuple[np.ndarray, ...]  # position, quaternion and fingers, or joints; or empty
    instruction: str


class Rosbag:
    """rosbag2 and ROS 1 bags, paired and turned into states as ``vla_policy`` does it.

    - Frames: the first pair of each control period. A chunk's steps lie on a grid that begins at
      the frame's stamp, whatever the rates of camera and robot.
    - Gripper: the command on the topic ``gripper`` in the middle of the step, else the first
      finger joint's opening at its end; 0 or 1 by the thresholds of ``chunk_executor``.
    - Where time jumps, or the task changes, chunks end. Behind the end of a recording and from a
      gap on, steps are no labels.

    :raises DataError: a bag cannot be read, lacks a topic or an instruction, or no frame is left.
    :raises ProfileError: the profile is not one of end-effector deltas.
    """

    def __init__(self, path: str | Path, profile: Profile, **options: Any) -> None:
        if profile.action_kind != 'delta_pose':
            raise ProfileError(
                f'profile {profile.name!r} commands {profile.action_kind}',
                'bags are read as end-effector deltas; use a profile of action_kind delta_pose',
            )
        self._options = chosen = from_mapping(RosbagOptions, options, 'format rosbag')
        self._profile = profile
        self._wiring = from_mapping(SessionParams, chosen.wiring, 'wiring')
        self._fingers = GripperJoints(self._wiring.gripper_joints, self._wiring.gripper_signs)
        self._observer = Observer(profile, self._wiring, BAG_READER)
        self._topics: Topics | None = None  # guessed for each bag
        if isinstance(chosen.topics, Mapping):
            self._topics = make_topics(chosen.topics, 'topics')
        elif chosen.topics is not None:
            self._topics = load_topics(chosen.topics)
        self._bags: Cache[Bag] = Cache(_OPEN_BAGS, close=Bag.close)
        self.lost: list[str] = []  # what could not be read, one line each
        self.left_out: Counter[str] = Counter()  # frames and messages, by reason
        self._refusal = ''  # the first message that was refused
        self._frames: list[
            tuple[Frame, np.ndarray, np.ndarray]
        ] = []  # with chunk (K, 7), labels (K,)
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
        frame, chunk, valid = self._frames[index]
        bag = self._bags.get(frame.bag, lambda: Bag(frame.bag))
        try:
            images = {
                camera: self._observer.image(camera, bag.read(place))
                for camera, place in frame.images.items()
            }
        except InputRefused as refusal:
            raise DataError(
                f'bag {frame.bag} at {frame.stamp_ns} ns: {refusal.what}', refusal.remedy
            ) from None
        state = None if self._states is None else self._states[index]
        return Sample(images, state, frame.instruction, chunk, valid)

    def instruction(self, index: int) -> str:
        return self._frames[index][0].instruction

    def numbers(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The first action of every sample (N, 7), and its state (N, P)."""
        return np.array([chunk[0] for _, chunk, _ in self._frames]), self._states

    def _read(self, bag: Bag) -> None:
        topics = self._topics or guess_topics(bag, self._profile)
        reading = self._options.reading(topics)
        extra = (reading.motion, reading.gripper)
        topics.check(bag, extra)
        params = replace(self._wiring, instruction=self._options.instruction)
        observer = Observer(self._profile, params, BAG_READER, period_s=0.0)
        trajectory = Trajectory(reading, self._wiring.gripper_joints[0])
        epochs: dict[int, list[Frame]] = {}  # frames between two jumps of time or task
        for event in Replay(bag, topics, observer, extra).events():
            frames, refusal = epochs.setdefault(event.epoch, []), event.refusal
            try:
                trajectory.note(event)
                pair = event.request.pair if event.request else None
                if pair is not None and self._begins_period(pair, frames):
                    state, task = self._state(pair), observer.instruction
                    images = {camera: pair.items[camera].place for camera in self._profile.cameras}
                    frames.append(Frame(bag.path, pair.stamp_ns, images, state, task))
            except InputRefused as error:
                refusal = error
                self.left_out[error.reason] += 1
            if refusal is not None:
                self._refusal = self._refusal or str(refusal)
        if not observer.instruction:
            raise DataError(
                f'bag {bag.path} has no instruction', 'name its topic, or give `instruction`'
            )
        self.lost += [f'{bag.path}: {line}' for line in bag.lost]
        self.left_out.update(observer.pairing.losses)
        self.left_out.update(trajectory.left_out)
        for epoch, frames in epochs.items():
            labels = trajectory.labels(epoch, [f.stamp_ns for f in frames], self._profile)
            for frame in frames:
                found = labels.chunk(frame.stamp_ns)
                if isinstance(found, str):
                    self.left_out[found] += 1
                else:
                    self._frames.append((frame, *found))

    def _begins_period(self, pair: Pair, frames: Sequence[Frame]) -> bool:
        """Whether no frame is of the pair's control period yet, whatever the cameras' rate."""
        if not frames:
            return True
        dt_ns = round(1e9 * self._profile.control_period_s)
        period, last = (
            (stamp_ns - frames[0].stamp_ns + dt_ns // 2) // dt_ns
            for stamp_ns in (pair.stamp_ns, frames[-1].stamp_ns)
        )
        return period > last

    @property
    def _stateless(self) -> bool:
        return self._profile.proprio_kind == 'none' or not self._profile.proprio_dim

    def _state(self, pair: Pair) -> tuple[np.ndarray, ...]:
        if self._stateless:
            return ()
        names, positions, _ = pair.items[JOINTS].read(read_joints)
        if self._profile.proprio_kind == 'joints':
            return (joints_proprio(names, positions, self._profile.action_names),)
        position, quaternion = pair.items[POSE].read(read_valid_pose)
        moved = position + np.asarray(self._wiring.pose_offset_m)
        return moved, quaternion, self._fingers.pick(names, positions)

    def _build_states(self) -> np.ndarray | None:
        if self._stateless:
            return None
        parts = [frame.state for frame, _, _ in self._frames]
        if self._profile.proprio_kind == 'joints':
            return np.array([part[0] for part in parts])
        reference = self._options.rotation_reference
        if reference is None:
            reference = agreeing_reference([quat for _, quat, _ in parts])
        rows = [pose_gripper_proprio(p, q, fingers, reference) for p, q, fingers in parts]
        width, wanted = len(rows[0]), self._profile.proprio_dim
        if width != wanted:
            raise ProfileError(
                f'the state has {width} numbers, profile {self._profile.name!r} {wanted}',
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
