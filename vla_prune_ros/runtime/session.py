"""What happens with a set of frames, from a sample that arrives to a chunk that may leave.

Node, replay and closed loop feed the same session, which starts no thread and knows no clock. A
node drives it from two threads: the executor thread calls ``add``, ``watch``, ``next_request`` and
``reset``, the worker thread ``prefetch``, ``infer``, ``published`` and ``refresh``. Each attribute
is written by one of the two; what the other reads is one immutable value."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from ..engine.timing import StageTimer
from ..errors import ActionRefused, InputRefused, ProfileError
from ..profiles import Profile
from ..records import ActionChunk, Inference, InferenceRecord, MotionHint, Observation
from .guard import Guard, Limits
from .motion import LISTENS, MotionSource
from .pairing import NotReady, Pair, Pairing
from .params import SessionParams
from .state import joints_proprio, pose_gripper_proprio

if TYPE_CHECKING:
    from ..engine.policy import Policy

POSE, JOINTS = 'ee_pose', 'joint_states'  # streams beside the cameras

# ``proprio_kind`` of a profile -> streams that its state vector is built of
STATES = {'pose_gripper': (POSE, JOINTS), 'joints': (JOINTS,), 'none': ()}

FROZEN_WARNING = 30
MAX_CHARACTERS = 400  # of an instruction


class Now(NamedTuple):
    """One instant on two clocks: ROS time, of header stamps, and the monotonic one of receipts."""

    ros_ns: int
    mono_ns: int


class SampleReader(NamedTuple):
    """How a sample is read: all that differs between node, bag and simulator. All but
    ``stamp_ns`` raise InputRefused for a sample that is not usable."""

    stamp_ns: Callable[[Any], int]
    image: Callable[[Any], np.ndarray]  # uint8 (H, W, 3) RGB
    image_bytes: Callable[[Any], Any]  # as the camera sent them
    pose: Callable[[Any], tuple[np.ndarray, np.ndarray]]  # (3,) m, (4,) x y z w
    joints: Callable[[Any], tuple[Any, Any, Any]]  # names, positions, velocities


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """A pair that waits for the policy.
    :param epoch: resets before it; one of another epoch than the policy's starts afresh.
    :param motion_why: why the motion is unknown."""

    pair: Pair
    instruction: str
    epoch: int
    motion: MotionHint | None = None
    motion_why: str = ''
    pairing_ms: float = 0.0

    @property
    def stamp_ns(self) -> int:
        return self.pair.stamp_ns


@dataclass(frozen=True, eq=False)
class PartialFrame:
    """A camera's sample that waits for the rest of its pair."""

    camera: str
    sample: Any
    instruction: str


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """What a request gave: a chunk that may leave, or the refusal, and what is reported of it.

    :param observation: None if an input was refused, and so is ``inference``.
    :param position: (3,) of the end effector as it was measured, m; None without a pose.
    :param frozen: camera -> repeats, where these are at least :data:`FROZEN_WARNING`."""

    request: InferenceRequest
    record: InferenceRecord
    refusal: InputRefused | ActionRefused | None = None
    observation: Observation | None = None
    inference: Inference | None = None
    chunk: ActionChunk | None = None
    position: np.ndarray | None = None
    frozen: Mapping[str, int] = field(default_factory=dict)

    def published_record(
        self, publish_ms: float, report_ms: float, age_ms: float
    ) -> InferenceRecord:
        """Once a node has published the chunk; ``report_ms`` is that of the query before."""
        node_ms = {**self.record.node_ms, 'publish': publish_ms, 'report': report_ms}
        # Waiting in the queue is the time of the query before.
        overhead_ms = sum(ms for stage, ms in node_ms.items() if stage != 'queue')
        return replace(
            self.record, node_ms=node_ms, overhead_ms=overhead_ms, stamp_to_chunk_ms=age_ms
        )


class Observer:
    """Pairs samples and says when a request is due: the session's part that needs no policy.

    :param period_s: least time between the images of two requests; None for the parameters'.
    :param rotation_mean: (3,) of the statistics; fixes the branch of the state's orientation.
    :raises ProfileError: a parameter is not usable."""

    def __init__(
        self,
        profile: Profile,
        params: SessionParams,
        reader: SampleReader,
        *,
        period_s: float | None = None,
        rotation_mean: Any = (0.0, 0.0, 0.0),
    ) -> None:
        period_s = params.period_s(profile) if period_s is None else period_s
        if not 0 <= period_s < float('inf'):
            raise ProfileError(
                f'period between queries is {period_s} s', 'use a finite number, 0 or more'
            )
        self.profile, self.params, self.reader = profile, params, reader
        self.states = STATES[profile.proprio_kind] if profile.proprio_dim else ()
        self.pairing = Pairing(profile.cameras, self.states, params.pairing())
        self.instruction = ''  # cleaned; without one there is no request
        self.epoch = 0  # grows with everything after which earlier frames must be forgotten
        self._paired = frozenset((*profile.cameras, *self.states))
        self._period_ns = round(1e9 * period_s)
        self._fingers = params.fingers()
        self._rotation_mean = rotation_mean
        # Epoch and stamp of the request that ran last: one tuple, since the worker thread writes
        # it and the executor thread reads it.
        self._last_request = (-1, 0)

    def add(self, stream: str, sample: Any, now: Now) -> bool:
        """True if time had jumped back, so that a new epoch began.
        :raises InputRefused: its stamp is not usable."""
        if stream not in self._paired:
            return False
        stamp_ns = self.reader.stamp_ns(sample)
        jumped = self.pairing.push(stream, stamp_ns, now.mono_ns, sample, now.ros_ns)
        if jumped:
            self._begin_epoch()
        return jumped

    def instruct(self, cleaned: str) -> bool:
        """Set the task, see :func:`clean_instruction`; True if it is new and began an epoch."""
        if cleaned == self.instruction:
            return False
        self.instruction = cleaned
        self.reset('new_instruction')
        return True

    def reset(self, reason: str) -> None:
        """Forget what was received: nothing from before may reach robot or pruner."""
        self.pairing.clear(reason)
        self._begin_epoch()

    def next_request(self, now: Now) -> InferenceRequest | NotReady:
        if not self.instruction:
            return NotReady('no_instruction', 'no instruction yet')
        pair = self.pairing.take(now.ros_ns, now.mono_ns)
        if isinstance(pair, NotReady):
            return pair
        if not self.is_due(pair.stamp_ns):
            return NotReady('period', 'the replanning period is not over')
        return InferenceRequest(pair, self.instruction, self.epoch)

    def is_due(self, stamp_ns: int) -> bool:
        """:param stamp_ns: of a request's newest image."""
        epoch, last_ns = self._last_request
        return epoch != self.epoch or stamp_ns - last_ns >= self._period_ns

    def begin(self, request: InferenceRequest) -> None:
        """The request runs now: the next period begins."""
        self._last_request = request.epoch, request.stamp_ns

    def image(self, camera: str, sample: Any) -> np.ndarray:
        """uint8 (H, W, 3) RGB, turned as the policy expects it. :raises InputRefused:"""
        try:
            image = self.reader.image(sample)
        except InputRefused as refusal:
            raise InputRefused(
                refusal.reason, f'camera {camera!r}: {refusal.what}', refusal.remedy
            ) from None
        return cv2.rotate(image, cv2.ROTATE_180) if camera in self.params.rotate_180 else image

    def state(self, items: Mapping[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The state vector float64 (P,) and the measured position (3,), None if there is none.
        :raises InputRefused: a sample is not usable."""
        if not self.states:
            return None, None
        names, positions, _ = self.reader.joints(items[JOINTS])
        if self.profile.proprio_kind == 'joints':
            return joints_proprio(names, positions, self.profile.action_names), None
        position, quaternion = self.reader.pose(items[POSE])
        fingers = self._fingers.pick(names, positions)
        moved = position + np.asarray(self.params.pose_offset_m)
        return pose_gripper_proprio(moved, quaternion, fingers, self._rotation_mean), position

    def observe(self, items: Mapping[str, Any], instruction: str, stamp_ns: int) -> Observation:
        """What the policy sees of one instant. :raises InputRefused: a sample is not usable."""
        images = {c: self.image(c, items[c]) for c in self.profile.cameras}
        proprio, _ = self.state(items)
        return Observation(images, proprio, instruction, stamp_ns)

    def _begin_epoch(self) -> None:
        self.epoch += 1


class PolicySession(Observer):
    """The whole way: samples to requests, requests to checked chunks.

    :param motion: None for the source of the parameters; ``limits`` likewise.
    :param fresh: the policy was reset, and is shown frames already before the first request.
        Otherwise that request resets it, and frames are shown from there on.
    :raises ProfileError: a parameter is not usable."""

    def __init__(
        self,
        policy: 'Policy',
        params: SessionParams,
        reader: SampleReader,
        *,
        period_s: float | None = None,
        motion: MotionSource | None = None,
        limits: Limits | None = None,
        fresh: bool = False,
    ) -> None:
        mean = rotation_mean(policy)
        super().__init__(policy.profile, params, reader, period_s=period_s, rotation_mean=mean)
        self.policy = policy
        self.motion = params.motion() if motion is None else motion  # executor thread only
        self._hears = LISTENS[self.motion.name]
        self._guard = Guard(params.limits() if limits is None else limits)
        self._frozen = FrozenFrames()
        self._policy_epoch = 0 if fresh else -1
        self._published: tuple[int, ActionChunk] | None = None
        self._prefetched: dict[str, tuple[Any, np.ndarray]] = {}  # camera -> sample, pixels
        self._refresh_ms: float | None = None

    # --- executor thread ---------------------------------------------------------------------

    def add(self, stream: str, sample: Any, now: Now) -> bool:
        jumped = super().add(stream, sample, now)
        if stream in self._hears:
            # A sample that cannot be read leaves the motion unknown and stops nothing.
            with contextlib.suppress(InputRefused):
                stamp_ns = self.reader.stamp_ns(sample)
                if stream == POSE:
                    self.motion.on_pose(stamp_ns, *self.reader.pose(sample))
                else:
                    self.motion.on_joints(stamp_ns, *self.reader.joints(sample))
        return jumped

    def watch(self, camera: str, sample: Any) -> None:
        """Show the policy a frame between requests, decoded only if a request asks for it."""
        # The worker sets the policy's epoch once the episode before is forgotten. Frames that are
        # shown until then would be forgotten with it, or be compared with its own.
        if self._policy_epoch != self.epoch:
            return
        stamp_ns = self.reader.stamp_ns(sample)
        # A simulator that waits for the chunk shows the frame of its request again.
        if self.params.synchronous and stamp_ns <= self._last_request[1]:
            return
        self.policy.watch(camera, stamp_ns, partial(self.image, camera, sample))

    def next_request(self, now: Now) -> InferenceRequest | NotReady:
        begin = time.perf_counter()
        request = super().next_request(now)
        if isinstance(request, NotReady):
            return request
        # The worker may just be publishing a chunk of the epoch before: its number tells.
        epoch, chunk = self._published or (-1, None)
        if chunk is not None and epoch == self.epoch:
            self.motion.on_chunk(chunk)
        hint = self.motion.at(request.stamp_ns)
        pairing_ms = 1e3 * (time.perf_counter() - begin)
        return replace(request, motion=hint, motion_why=self.motion.why(), pairing_ms=pairing_ms)

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        self.motion.reset()

    # --- worker thread -----------------------------------------------------------------------

    def prefetch(self, part: PartialFrame) -> None:
        """Encode a camera's frame before the samples come that it is to be paired with."""
        # What is wrong with the sample is reported when a request takes it.
        with contextlib.suppress(InputRefused):
            image = self.image(part.camera, part.sample)
            self._prefetched[part.camera] = part.sample, image
            self.policy.prefetch(part.camera, image, part.instruction)

    def infer(self, request: InferenceRequest, waited_s: float = 0.0) -> InferenceResult:
        """Decode, infer, check; ``waited_s``: time since the request was made."""
        self._enter(request)
        refresh_ms, self._refresh_ms = self._refresh_ms, None
        items, stages = request.pair.items, StageTimer()
        motion = request.motion
        record = InferenceRecord(
            skew_ms=1e3 * request.pair.skew_s,
            ages_ms={k: 1e3 * v for k, v in request.pair.ages_s.items()},
            refresh_ms=refresh_ms,
            motion='unknown' if motion is None else motion.source,
            motion_m_s=None if motion is None else motion.linear_m_s,
            motion_angular_rad_s=None if motion is None else motion.angular_rad_s,
            motion_vertical_m_s=None if motion is None else motion.vertical_m_s,
        )
        result = InferenceResult(request, record)
        try:
            self._check_age(request.pair, waited_s)
            with stages.stage('decode'):
                frozen = self._check_frozen(items)
                images, early_cameras = {}, 0
                for camera in self.profile.cameras:
                    sample = items[camera]
                    before, image = self._prefetched.pop(camera, (None, None))
                    early_cameras += before is sample
                    images[camera] = image if before is sample else self.image(camera, sample)
            with stages.stage('state'):
                proprio, position = self.state(items)
            observation = Observation(images, proprio, request.instruction, request.stamp_ns)
            inference = self.policy.infer(observation, motion)
        except InputRefused as refusal:
            return replace(result, refusal=refusal)
        record = replace(record, early_cameras=early_cameras, **_inferred(inference))
        result = replace(
            result,
            record=record,
            observation=observation,
            inference=inference,
            position=position,
            frozen=frozen,
        )
        try:
            with stages.stage('guard'):
                actions = self.profile.to_si(inference.actions)
                deltas, gripper, report = self._guard.check(actions, self.profile.action_names)
                chunk = ActionChunk(
                    stamp_ns=request.stamp_ns,
                    dt_s=self.profile.control_period_s,
                    deltas=deltas,
                    gripper=gripper,
                    frame_id=self.params.frame_id,
                )
        except ActionRefused as refusal:
            return replace(result, refusal=refusal)
        node_ms = {'pairing': request.pairing_ms, 'queue': 1e3 * waited_s, **stages.milliseconds()}
        del node_ms['total']
        record = replace(
            record,
            node_ms=node_ms,
            steps=len(chunk),
            scaled_steps=report.scaled_translation + report.scaled_rotation,
            largest_step_m=report.largest_m,
            largest_step_rad=report.largest_rad,
        )
        return replace(result, record=record, chunk=chunk)

    def replayed(self, request: InferenceRequest, chunk: ActionChunk | None) -> None:
        """Take the answer of an earlier run for this request: the policy is not asked."""
        self._enter(request, known=True)
        self._count_frozen(request.pair.items)
        if chunk is not None:
            self.published(request, chunk)

    def published(self, request: InferenceRequest, chunk: ActionChunk) -> None:
        """For a motion source that goes by what is commanded."""
        self._published = request.epoch, chunk

    def refresh(self, proceed: Callable[[], bool] = lambda: True) -> float | None:
        """Harvest the dense scores of the last observation in spare time: milliseconds, reported
        with the next request, or None if it was given up."""
        self._refresh_ms = self.policy.refresh(proceed)
        return self._refresh_ms

    def _enter(self, request: InferenceRequest, known: bool = False) -> None:
        """Forget the epoch before; only the worker thread may touch the policy's memory."""
        if request.epoch != self._policy_epoch:
            if not known:
                self.policy.reset()
            self._frozen.reset()
            self._refresh_ms = None
        # In this order: frames are shown from this request on, and its own frame is not one.
        self.begin(request)
        self._policy_epoch = request.epoch

    def _check_age(self, pair: Pair, waited_s: float) -> None:
        """Behind a slow request a pair grows old, unless the simulator's time waits."""
        limit = self.params.max_input_age_s
        for stream, age in () if self.params.synchronous else pair.ages_s.items():
            if age + waited_s > limit:
                what = f'{stream} grew older than {limit:g} s while another query ran'
                raise InputRefused('stale', what, 'use a faster policy or raise max_input_age_s')

    def _check_frozen(self, items: Mapping[str, Any]) -> dict[str, int]:
        repeats = self._count_frozen(items)
        for camera, count in repeats.items():
            if 0 < self.params.frozen_frames <= count:
                what = f'camera {camera!r} sent {count + 1} identical frames'
                raise InputRefused('frozen', what, 'restart its driver, or raise frozen_frames')
        return {camera: n for camera, n in repeats.items() if n >= FROZEN_WARNING}

    def _count_frozen(self, items: Mapping[str, Any]) -> dict[str, int]:
        repeats = {}
        for camera in self.profile.cameras:
            with contextlib.suppress(InputRefused):  # refused when it is decoded
                data = self.reader.image_bytes(items[camera])
                repeats[camera] = self._frozen.update(camera, data)
        return repeats


def rotation_mean(policy: 'Policy') -> np.ndarray:
    bounds = policy.statistics.proprio
    return np.zeros(3) if bounds is None else bounds.mean[3:6]


def _inferred(inference: Inference) -> dict[str, Any]:
    """What the record takes from the policy's answer; times in whole microseconds."""
    stages_ms = {name: round(ms, 3) for name, ms in inference.timings_ms.items()}
    pruning = dict(inference.pruning)
    return {
        'mode': inference.mode,
        'visual_tokens': inference.visual_tokens,
        'total_ms': stages_ms.pop('total'),
        'stages_ms': stages_ms,
        'reason': str(pruning.pop('reason', '')),
        'kept': {camera: int(mask.sum()) for camera, mask in inference.kept.items()},
        'pruning': pruning,
        'prompt': inference.prompt.replace('\n', ' '),
    }


class FrozenFrames:
    """Counts consecutive frames of a camera whose bytes are all the same, by comparison with a
    copy of the last one: as quick as a hash, and without collisions."""

    # A live sensor's noise shows within the first rows: most comparisons end there.
    _PARTS = (slice(4096), slice(4096, None))

    def __init__(self) -> None:
        self._last: dict[str, np.ndarray] = {}
        self._repeats: dict[str, int] = {}

    def update(self, camera: str, data: Any) -> int:
        """How many frames before this one, without a break, were identical; data is not kept."""
        frame, last = np.frombuffer(data, np.uint8), self._last.get(camera)
        if last is not None and all(np.array_equal(last[p], frame[p]) for p in self._PARTS):
            self._repeats[camera] += 1
        else:
            self._last[camera], self._repeats[camera] = frame.copy(), 0
        return self._repeats[camera]

    def reset(self) -> None:
        self._last.clear()
        self._repeats.clear()


def clean_instruction(text: str) -> str:
    """Single spaces, lower case, printable characters, no final punctuation: the form that the
    training data had. A trailing full stop alone makes the published LIBERO checkpoints fail.
    :raises InputRefused: nothing is left, or it is longer than :data:`MAX_CHARACTERS`."""
    if len(text) > MAX_CHARACTERS:  # before anything goes through a megabyte
        what = f'instruction has {len(text)} characters'
        raise InputRefused('instruction', what, f'use at most {MAX_CHARACTERS}')
    words = ''.join(c if c.isprintable() else ' ' for c in text).lower().split()
    cleaned = ' '.join(words).rstrip(' .!?;:,')
    if not cleaned:
        raise InputRefused(
            'instruction',
            'instruction is empty',
            "say what to do, for example 'pick up the red cube'",
        )
    return cleaned
