"""Between a policy and a scene without ROS: what the policy is shown, what the arm is told.

The same numbers as through the nodes: LIBERO's state vector, frames turned by 180 degrees, and the
gripper as robosuite takes it (openvla-oft, ``run_libero_eval.py``).
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import InputRefused, ProfileError
from ...model.proprio import gripper_to_env
from ...records import Inference, InferenceRecord, Observation, QueryRecord
from ...runtime.guard import Limits
from ...runtime.motion import JacobianMotion, MotionSource, PoseMotion
from ...runtime.pairing import NotReady
from ...runtime.params import SessionParams
from ...runtime.schedule import SYNCHRONOUS
from ...runtime.session import (
    JOINTS,
    POSE,
    Now,
    Observer,
    PolicySession,
    SampleReader,
    rotation_mean,
)
from ...runtime.state import pose_gripper_proprio
from ...sim.scene import Scene, SceneState
from .episodes import EpisodeQuery

if TYPE_CHECKING:
    from ...engine.policy import Policy

PANDA_URDF = (
    'package://robosuite/models/assets/bullet_data/panda_description/urdf/panda_arm_hand.urdf'
)
"""robosuite's description of the arm; the same as in ``config/libero.yaml``."""

HAND_LINK = 'panda_hand'
"""Link whose motion counts; same source."""


class SceneSample(NamedTuple):
    """A scene's state, or one of its images upright, at a simulated time."""

    stamp_ns: int
    content: Any


def _pose(sample: SceneSample) -> tuple[np.ndarray, np.ndarray]:
    return sample.content.ee_position, sample.content.ee_quat_xyzw


def _joints(sample: SceneSample) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    state = sample.content
    return state.joint_names, state.joint_positions, state.joint_velocities


SCENE_READER = SampleReader(
    stamp_ns=attrgetter('stamp_ns'),
    image=attrgetter('content'),
    image_bytes=attrgetter('content'),
    pose=_pose,
    joints=_joints,
)


def upright(images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A scene's images (row 0 at the bottom) as LIBERO's checkpoints saw them: turned by 180
    degrees, uint8 (H, W, 3)."""
    return {camera: np.ascontiguousarray(view[::-1, ::-1]) for camera, view in images.items()}


def proprio(state: SceneState, rotation_reference: np.ndarray) -> np.ndarray:
    """LIBERO's state, float64 (8,): position (m), rotation vector (rad), both fingers (m).

    :param rotation_reference: (3,) mean rotation vector of the statistics file, which fixes the
        branch.
    """
    fingers = state.joint_positions[-2:]
    return pose_gripper_proprio(state.ee_position, state.ee_quat_xyzw, fingers, rotation_reference)


def scene_params(state: SceneState) -> SessionParams:
    """A scene as ``vla_policy`` would be told of it; its time waits for the policy."""
    return SessionParams(stepping=SYNCHRONOUS, gripper_joints=state.joint_names[-2:])


def scene_session(policy: 'Policy', state: SceneState) -> PolicySession:
    """The session of one episode, for a policy that was reset.

    A request comes whenever the chunk before is used up. Of the guard only the check that actions
    are finite is left: OSC_POSE clips each of them itself.
    """
    return PolicySession(
        policy,
        scene_params(state),
        SCENE_READER,
        period_s=0.0,
        motion=scene_motion(state),
        limits=Limits(None, None),
        fresh=True,
    )


def scene_motion(state: SceneState) -> MotionSource:
    """An empty source for a scene whose joints are those of ``state``.

    Joint velocities through the arm's Jacobian, as ``config/libero.yaml`` has it; differences of
    poses if pinocchio or the URDF is not installed, or the scene has another arm.
    """
    jacobian = _jacobian()
    if jacobian is None or not set(jacobian.arm.joints) <= set(state.joint_names):
        return PoseMotion()
    jacobian.reset()
    return jacobian


@cache
def _jacobian() -> JacobianMotion | None:
    try:
        return JacobianMotion(PANDA_URDF, HAND_LINK)
    except ProfileError:
        return None


def observe(
    policy: 'Policy',
    scene: Scene,
    images: Mapping[str, np.ndarray],
    stamp_ns: int,
    instruction: str | None = None,
) -> Observation:
    """What the policy gets from the scene as it is now.

    :param images: the scene's images of this instant, as :meth:`Scene.images` gives them.
    :param instruction: None for the scene's own.
    """
    state = scene.state()
    observer = Observer(
        policy.profile, scene_params(state), SCENE_READER, rotation_mean=rotation_mean(policy)
    )
    contents = {**upright(images), POSE: state, JOINTS: state}
    samples = {name: SceneSample(stamp_ns, content) for name, content in contents.items()}
    return observer.observe(samples, instruction or scene.instruction, stamp_ns)


def env_actions(answer: Inference) -> np.ndarray:
    """The chunk as a scene takes it: float64 (K, 7), gripper -1 open, +1 close."""
    return gripper_to_env(answer.actions)


START_NS = 1_000_000_000  # of the first observation: a clock at zero has not started


class SceneDriver:
    """An episode under way: the scene's frames go into the session, its chunks move the arm."""

    def __init__(
        self,
        policy: 'Policy',
        scene: Scene,
        instruction: str,
        on_query: Callable[[Observation, Inference], None] | None,
    ) -> None:
        self._scene, self._on_query = scene, on_query
        self._period_ns = round(1e9 / scene.control_hz)
        self._watches = policy.pruner.history_s > 0
        self._state = scene.state()
        self.session = scene_session(policy, self._state)
        self.session.instruction = instruction
        self.steps = 0
        self.moved_m = 0.0
        self.visual_all = 0
        self.queries: list[EpisodeQuery] = []
        self._feed()

    def query(self) -> np.ndarray:
        """Ask the policy; float64 (K, 7) as the scene takes it."""
        if not self._watches:
            self._feed_images()
        request = self.session.next_request(self._now())
        if isinstance(request, NotReady):
            raise InputRefused(
                request.reason, f'the scene: {request.detail}', 'use a profile of its cameras'
            )
        result = self.session.infer(request)
        if result.inference is not None:
            self.queries.append(_query(self.steps, result.record))
            self.visual_all = sum(len(mask) for mask in result.inference.kept.values())
            if self._on_query is not None:
                self._on_query(result.observation, result.inference)
        if result.refusal is not None:
            raise result.refusal
        self.session.published(request, result.chunk)
        return env_actions(result.inference)

    def execute(self, actions: np.ndarray) -> bool:
        """One control step per action; True if one of them fulfilled the task."""
        for action in actions:
            self._scene.step(action)
            self.steps += 1
            before, self._state = self._state, self._scene.state()
            self.moved_m += float(np.linalg.norm(self._state.ee_position - before.ee_position))
            if self._scene.success():
                return True
            self._feed()
        return False

    def _now(self) -> Now:
        now_ns = START_NS + self.steps * self._period_ns
        return Now(now_ns, now_ns)

    def _feed(self) -> None:
        now = self._now()
        for stream in (POSE, JOINTS):
            self.session.add(stream, SceneSample(now.ros_ns, self._state), now)
        if self._watches:
            self._feed_images()

    def _feed_images(self) -> None:
        now, images = self._now(), upright(self._scene.images())
        for camera in self.session.profile.cameras:
            if camera in images:
                sample = SceneSample(now.ros_ns, images[camera])
                self.session.add(camera, sample, now)
                if self._watches:
                    self.session.watch(camera, sample)


def _query(step: int, record: InferenceRecord) -> EpisodeQuery:
    """What every query reports; the rest of the record is the node's."""
    return EpisodeQuery(
        step=step, **{f.name: getattr(record, f.name) for f in fields(QueryRecord)}
    )
