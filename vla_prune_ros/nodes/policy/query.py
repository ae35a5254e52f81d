"""One query, run in the worker thread: a pair of messages in, a checked chunk out."""

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ...engine.policy import Policy
from ...engine.timing import StageTimer
from ...errors import InputRefused
from ...records import ActionChunk, Inference, MotionHint, Observation
from ...runtime.frozen_frames import FrozenDetector
from ...runtime.guard import Guard, GuardReport, Limits
from ...runtime.messages import read_image, read_pose, to_ns
from ...runtime.pairing import Pair
from ...runtime.schedule import SYNCHRONOUS
from ...runtime.state import GripperJoints, joints_proprio, pose_gripper_proprio
from .inputs import JOINTS, POSE
from .params import PolicyParams

FROZEN_WARNING = 30


@dataclass(frozen=True)
class Job:
    """A pair that waits for the policy.

    :param submitted_ns: monotonic time at which it was handed over.
    :param pairing_ms: time the pairing took in the executor's thread.
    :param epoch: number of resets before it; a job with another one than the policy's starts
        afresh.
    :param motion_why: why the motion is unknown; empty where it is known.
    """

    pair: Pair
    instruction: str
    motion: MotionHint | None
    submitted_ns: int
    pairing_ms: float
    epoch: int
    motion_why: str = ''


@dataclass(frozen=True)
class Part:
    """A camera's message that waits for the rest of its pair."""

    camera: str
    message: Any
    instruction: str


@dataclass(frozen=True)
class Answer:
    """What a query gave: the chunk that may leave, and everything that is reported about it.

    :param node_ms: stage -> milliseconds spent outside the policy.
    :param refresh_ms: time of the refresh after the query before; None where there was none.
    :param early: cameras whose frames were looked at before the pair was complete.
    """

    job: Job
    inference: Inference
    chunk: ActionChunk
    report: GuardReport
    node_ms: dict[str, float]
    position: np.ndarray | None
    frozen: dict[str, int]
    refresh_ms: float | None = None
    early: tuple[str, ...] = ()


def lateness(chunk: ActionChunk, now_ns: int) -> str:
    """Why the executor will drop all of a chunk; empty where some is still to come."""
    age_s, lasts_s = 1e-9 * (now_ns - chunk.stamp_ns), len(chunk) * chunk.dt_s
    if age_s < lasts_s:
        return ''
    return (
        f'a chunk is out {age_s:.2f} s after its image and lasts {lasts_s:.2f} s: no step of it '
        'is left to execute; use a faster device, more pruning or a smaller dtype'
    )


class QueryRunner:
    """Turns messages into an Observation, asks the policy and checks what it says.

    :raises ProfileError: limits or gripper joints are not usable.
    """

    def __init__(self, policy: Policy, params: PolicyParams) -> None:
        self.policy = policy
        self._params = params
        self._guard = Guard(
            Limits(params.max_step_m, params.max_step_rad, speed_scale=params.speed_scale)
        )
        self._fingers = GripperJoints(params.gripper_joints, params.gripper_signs)
        self._frozen = FrozenDetector(params.frozen_frames)
        self._ahead: dict[str, tuple[Any, np.ndarray]] = {}  # camera -> message, pixels
        proprio = policy.statistics.proprio
        self._rotation_mean = None if proprio is None else proprio.mean[3:6]

    def reset(self) -> None:
        """Forget the policy's memory and the last frames."""
        self.policy.reset()
        self._frozen.reset()

    def watch(self, camera: str, message: Any) -> None:
        """Show the policy a frame between queries; it is decoded only if a query asks for it."""
        stamp_ns = to_ns(message.header.stamp)
        self.policy.watch(camera, stamp_ns, lambda: self._image(camera, message))

    def look_ahead(self, part: Part) -> None:
        """Do a camera's share of a query before the messages that it is to be paired with come.

        What is wrong with the message is said when a query takes it.
        """
        with contextlib.suppress(InputRefused):
            image = self._image(part.camera, part.message)
            self._ahead[part.camera] = part.message, image
            self.policy.prefetch(part.camera, image, part.instruction)

    def run(self, job: Job, refresh_ms: float | None = None) -> Answer:
        """Decode, infer, check.

        :param refresh_ms: see :class:`Answer`.
        :raises InputRefused: a message is not usable.
        :raises ActionRefused: the policy's answer must not reach a robot.
        """
        timer = StageTimer()
        wait_ms = 1e-6 * (time.monotonic_ns() - job.submitted_ns)
        self._check_age(job.pair, 1e-3 * wait_ms)
        with timer.stage('decode'):
            frozen = self._check_frozen(job.pair)
            ahead = {c: self._seen(c, job.pair.items[c]) for c in self.policy.profile.cameras}
            images = {
                c: self._image(c, job.pair.items[c]) if seen is None else seen
                for c, seen in ahead.items()
            }
        with timer.stage('state'):
            proprio, position = self._state(job.pair)
        observation = Observation(images, proprio, job.instruction, job.pair.stamp_ns)
        inference = self.policy.infer(observation, job.motion)
        with timer.stage('guard'):
            profile = self.policy.profile
            deltas, gripper, report = self._guard.check(
                profile.to_si(inference.actions), profile.action_names
            )
            chunk = ActionChunk(
                job.pair.stamp_ns, profile.control_period_s, deltas, gripper, self._params.frame_id
            )
        stages = {k: v for k, v in timer.milliseconds().items() if k != 'total'}
        node_ms = {'pairing': job.pairing_ms, 'queue': wait_ms, **stages}
        early = tuple(c for c, seen in ahead.items() if seen is not None)
        return Answer(job, inference, chunk, report, node_ms, position, frozen, refresh_ms, early)

    def _seen(self, camera: str, message: Any) -> np.ndarray | None:
        """The pixels of a message that was looked at ahead, once."""
        before, image = self._ahead.pop(camera, (None, None))
        return image if before is message else None

    def _check_age(self, pair: Pair, waited_s: float) -> None:
        """A pair was fresh when it was handed over; behind a slow query it may not be any more,
        unless the simulator's time waits for the policy."""
        if self._params.stepping == SYNCHRONOUS:
            return
        limit = self._params.max_input_age_s
        for stream, age in pair.ages_s.items():
            if age + waited_s > limit:
                raise InputRefused(
                    'stale',
                    f'{stream} grew older than {limit:g} s while another query ran',
                    'use a faster policy or raise max_input_age_s',
                )

    def _check_frozen(self, pair: Pair) -> dict[str, int]:
        repeats = {
            c: self._frozen.update(c, pair.items[c].data) for c in self.policy.profile.cameras
        }
        for camera in repeats:
            if self._frozen.frozen(camera):
                raise InputRefused(
                    'frozen',
                    f'camera {camera!r} sent {repeats[camera] + 1} identical frames',
                    'restart its driver, or raise frozen_frames',
                )
        return {c: n for c, n in repeats.items() if n >= FROZEN_WARNING}

    def _image(self, camera: str, message: Any) -> np.ndarray:
        try:
            image = read_image(message)
        except InputRefused as refusal:
            raise InputRefused(
                refusal.reason, f'camera {camera!r}: {refusal.what}', refusal.remedy
            ) from None
        return cv2.rotate(image, cv2.ROTATE_180) if camera in self._params.rotate_180 else image

    def _state(self, pair: Pair) -> tuple[np.ndarray | None, np.ndarray | None]:
        profile = self.policy.profile
        if profile.proprio_kind == 'none' or not profile.proprio_dim:
            return None, None
        joints = pair.items[JOINTS]
        if profile.proprio_kind == 'joints':
            return joints_proprio(joints.name, joints.position, profile.action_names), None
        position, quaternion = read_pose(pair.items[POSE])
        fingers = self._fingers.pick(joints.name, joints.position)
        moved = position + np.asarray(self._params.pose_offset_m)
        return pose_gripper_proprio(moved, quaternion, fingers, self._rotation_mean), position
