"""One episode of a policy in a simulated scene, by the protocol of OpenVLA-OFT's LIBERO runs.

A query gives K actions, all of them are executed, one per control step; success is looked for
after every step and ends the episode. Simulated time stands still while the policy computes.
Between policy and scene go the same numbers as through the nodes: LIBERO's state vector, frames
turned by 180 degrees, the gripper as robosuite takes it (openvla-oft, ``run_libero_eval.py``).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import InputRefused, ProfileError, VlaPruneError
from ...records import Inference, Observation, QueryRecord
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
    clean_instruction,
    rotation_mean,
)
from ...runtime.state import pose_gripper_proprio
from ...sim.scene import Scene, SceneState, gripper_to_env
from .episodes import EpisodeQuery, EpisodeResult

if TYPE_CHECKING:
    from ...engine.policy import Policy

# robosuite's description of the arm, and the link whose motion counts; as in config/libero.yaml.
PANDA_URDF = (
    'package://robosuite/models/assets/bullet_data/panda_description/urdf/panda_arm_hand.urdf'
)
HAND_LINK = 'panda_hand'

START_NS = 1_000_000_000  # of the first observation: a clock at zero has not started
OnQuery = Callable[[Observation, Inference], None]

# --- instructions --------------------------------------------------------------------------------

OTHER = 'other'
"""Value of ``--instruction`` for the control: each task gets its sister's instruction."""

_COLOURS = ('red', 'green')
_COLOUR = re.compile(rf'\b({"|".join(_COLOURS)})\b')


def choose_instruction(asked: str, own: str) -> str | None:
    """The instruction for the policy: ``asked``, or for :data:`OTHER` the sister of the task's
    ``own``; None for the task's own, where nothing is asked for.

    :raises VlaPruneError: ``own`` has no sister, or ``asked`` is not usable.
    """
    if not asked:
        return None
    return swapped(own) if asked == OTHER else clean_instruction(asked)


def swapped(instruction: str) -> str:
    """With red and green in each other's place.

    :raises VlaPruneError: it names neither.
    """
    out, count = _COLOUR.subn(lambda m: _COLOURS[1 - _COLOURS.index(m[1])], instruction)
    if not count:
        raise VlaPruneError(
            f'{instruction!r} names no colour to swap', 'give --instruction in words'
        )
    return out


# --- what the policy sees ------------------------------------------------------------------------


class SceneSample(NamedTuple):
    """A scene's state, or one of its images upright, at a simulated time."""

    stamp_ns: int
    content: Any


SCENE_READER = SampleReader(
    stamp_ns=attrgetter('stamp_ns'),
    image=attrgetter('content'),
    image_bytes=attrgetter('content'),
    pose=attrgetter('content.ee_position', 'content.ee_quat_xyzw'),
    joints=attrgetter(*(f'content.joint_{part}' for part in ('names', 'positions', 'velocities'))),
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


def observe(
    policy: 'Policy', scene: Scene, images: Mapping[str, np.ndarray], stamp_ns: int
) -> Observation:
    """What the policy gets from the scene as it is now; ``images`` are :meth:`Scene.images`."""
    state = scene.state()
    observer = Observer(
        policy.profile, _params(state), SCENE_READER, rotation_mean=rotation_mean(policy)
    )
    contents = {**upright(images), POSE: state, JOINTS: state}
    samples = {name: SceneSample(stamp_ns, content) for name, content in contents.items()}
    return observer.observe(samples, scene.instruction, stamp_ns)


def _params(state: SceneState) -> SessionParams:
    """A scene as ``vla_policy`` would be told of it; its time waits for the policy."""
    return SessionParams(stepping=SYNCHRONOUS, gripper_joints=state.joint_names[-2:])


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


# --- the episode ---------------------------------------------------------------------------------


def run_episode(
    policy: 'Policy',
    scene: Scene,
    seed: int,
    max_steps: int | None = None,
    *,
    instruction: str | None = None,
    refresh: bool = True,
    on_query: OnQuery | None = None,
) -> EpisodeResult:
    """Reset policy and scene, and run until success or ``max_steps``.

    Frames between queries are rendered and shown only to a pruner that compares frames.

    :param max_steps: control steps, 1 or more; None for the scene's :attr:`~.Scene.step_limit`.
    :param instruction: in place of the scene's task.
    :param refresh: one dense pass after each query (:meth:`Policy.refresh`), as the node does it
        in spare time; its time is recorded apart.
    :param on_query: called with what the policy saw and answered.
    :raises InputRefused: the scene does not suit the profile.
    :raises ActionRefused: the policy's actions are not finite.
    """
    policy.reset()
    scene.reset(seed)
    instruction = scene.instruction if instruction is None else clean_instruction(instruction)
    run = SceneDriver(policy, scene, instruction, on_query)
    limit = max_steps or scene.step_limit
    success, refreshes = False, []
    while run.steps < limit and not success:
        actions = run.query()
        if refresh:
            refreshes.append(run.session.refresh())
        success = run.execute(actions[: limit - run.steps])
    return EpisodeResult(
        simulator='two_cubes',
        task=scene.task_name,
        seed=seed,
        instruction=instruction,
        success=success,
        steps=run.steps,
        wrong_object=scene.wrong_object(),
        moved_m=run.moved_m,
        visual_all=run.visual_all,
        motion_source=run.session.motion.name,
        queries=tuple(run.queries),
        refresh_ms=tuple(ms for ms in refreshes if ms is not None),
        scene=scene.description,
        generated_assets=scene.generated_assets,
    )


class SceneDriver:
    """An episode under way: the scene's frames go into the session, its chunks move the arm.

    The session asks whenever the chunk before is used up. Of the guard only the check that
    actions are finite is left: OSC_POSE clips each of them itself.
    """

    def __init__(
        self, policy: 'Policy', scene: Scene, instruction: str, on_query: OnQuery | None
    ) -> None:
        self._scene, self._on_query = scene, on_query
        self._period_ns = round(1e9 / scene.control_hz)
        self._watches = policy.pruner.history_s > 0
        self._state = scene.state()
        self.session = PolicySession(
            policy,
            _params(self._state),
            SCENE_READER,
            period_s=0.0,
            motion=scene_motion(self._state),
            limits=Limits(None, None),
            fresh=True,
        )
        self.session.instruction = instruction
        self.steps, self.moved_m, self.visual_all = 0, 0.0, 0
        self.queries: list[EpisodeQuery] = []
        self._feed()

    def query(self) -> np.ndarray:
        """Ask the policy; float64 (K, 7) as the scene takes it, gripper -1 open, +1 close."""
        if not self._watches:
            self._feed_images()
        request = self.session.next_request(self._now())
        if isinstance(request, NotReady):
            raise InputRefused(
                request.reason, f'the scene: {request.detail}', 'use a profile of its cameras'
            )
        result = self.session.infer(request)
        inference = result.inference
        if inference is not None:
            values = {f.name: getattr(result.record, f.name) for f in fields(QueryRecord)}
            self.queries.append(EpisodeQuery(step=self.steps, **values))
            self.visual_all = sum(len(mask) for mask in inference.kept.values())
            if self._on_query is not None:
                self._on_query(result.observation, inference)
        if result.refusal is not None:
            raise result.refusal
        self.session.published(request, result.chunk)
        return gripper_to_env(inference.actions)

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
