"""Speed of a scene's end effector, from the source that ``config/libero.yaml`` names.

What the policy is told: the task's own words, other words, or the same with colours swapped.

One episode of a policy in a simulated scene, by the protocol of OpenVLA-OFT's LIBERO runs.

A query gives K actions, all of them are executed, one per control step; success is looked for
after every step and ends the episode (``run_libero_eval.py``). Simulated time stands still while
the policy computes.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ActionRefused, ProfileError, VlaPruneError
from ...records import Inference, Observation
from ...runtime.instruction import clean_instruction
from ...runtime.motion import JacobianMotion, MotionSource, PoseMotion
from ...sim.scene import Scene, SceneState
from .episodes import EpisodeResult, QueryRecord

if TYPE_CHECKING:
    from ...engine.policy import Policy


PANDA_URDF = (
    'package://robosuite/models/assets/bullet_data/panda_description/urdf/panda_arm_hand.urdf'
)
"""robosuite's description of the arm; the same as in ``config/libero.yaml``."""

HAND_LINK = 'panda_hand'
"""Link whose motion counts; same source."""


def scene_motion(state: SceneState) -> MotionSource:
    """An empty source for a scene whose joints are those of ``state``.

    Joint velocities through the arm's Jacobian, as the node has it; differences of poses where
    pinocchio or the URDF is not installed, or the scene has another arm.
    """
    jacobian = _jacobian()
    if jacobian is None or not set(jacobian.arm.joints) <= set(state.joint_names):
        return PoseMotion()
    jacobian.reset()
    return jacobian


def show_state(source: MotionSource, stamp_ns: int, state: SceneState) -> None:
    """Feed a source with the joints and the pose of one instant."""
    source.on_joints(stamp_ns, state.joint_names, state.joint_positions, state.joint_velocities)
    source.on_pose(stamp_ns, state.ee_position, state.ee_quat_xyzw)


@cache
def _jacobian() -> JacobianMotion | None:
    try:
        return JacobianMotion(PANDA_URDF, HAND_LINK)
    except ProfileError:
        return None


OTHER = 'other'
"""Value of ``--instruction`` for the control: each task gets its sister's instruction."""

_COLOURS = ('red', 'green')
_WORD = re.compile(rf'\b({"|".join(_COLOURS)})\b')


def wording(asked: str, own: str) -> str | None:
    """What the policy is told in a task.

    :param asked: ``''``, :data:`OTHER`, or an instruction.
    :param own: the task's instruction.
    :returns: None for the task's own.
    :raises VlaPruneError: the sister of an instruction without colours is asked for, or the
        instruction is not usable.
    """
    if not asked:
        return None
    return swapped(own) if asked == OTHER else clean_instruction(asked)


def swapped(instruction: str) -> str:
    """The instruction with red and green in each other's place.

    :raises VlaPruneError: it names neither.
    """
    out, count = _WORD.subn(lambda m: _COLOURS[1 - _COLOURS.index(m[1])], instruction)
    if not count:
        raise VlaPruneError(
            f'{instruction!r} names no colour to swap', 'give --instruction in words'
        )
    return out


START_NS = 1_000_000_000
"""Stamp of the first observation: a clock at zero has not started."""

OnQuery = Callable[[Observation, Inference], None]
"""Called behind every query with what the policy saw and answered."""


def run_episode(
    policy: 'Policy',
    scene: Scene,
    seed: int,
    max_steps: int | None = None,
    instruction: str | None = None,
    refresh: bool = True,
    watch: bool = True,
    on_query: OnQuery | None = None,
    simulator: str = 'two_cubes',
) -> EpisodeResult:
    """Reset policy and scene, and run until success or ``max_steps``.

    :param seed: names the episode; see :meth:`Scene.reset`, which settles the scene as well.
    :param max_steps: control steps, 1 or more; None for the scene's :attr:`~.Scene.step_limit`.
    :param instruction: what the policy is told instead of the scene's task.
    :param refresh: one dense look after each query (:meth:`Policy.refresh`), as the node does it
        in spare time; its time is recorded apart.
    :param watch: show the frames between queries to a pruner that compares frames. No other
        pruner asks for them, so for those only queries are rendered.
    :param simulator: name for the record.
    :raises InputRefused: scene and profile do not fit.
    :raises ActionRefused: the policy's actions are not finite.
    """
    policy.reset()
    scene.reset(seed)
    words = scene.instruction if instruction is None else clean_instruction(instruction)
    run = _Run(policy, scene, words, watch and _compares_frames(policy), on_query)
    limit = max_steps or scene.step_limit
    success, refreshes = False, []
    while run.steps < limit and not success:
        actions = run.query()
        if refresh:
            refreshes.append(policy.refresh())
        success = run.execute(actions[: limit - run.steps])
    return EpisodeResult(
        simulator=simulator,
        task=scene.task_name,
        seed=seed,
        instruction=words,
        success=success,
        steps=run.steps,
        wrong_object=scene.wrong_object(),
        moved_m=run.moved_m,
        visual_all=run.visual_all,
        motion_source=run.motion.name,
        queries=tuple(run.queries),
        refresh_ms=tuple(ms for ms in refreshes if ms is not None),
        scene=scene.description,
        generated_assets=scene.generated_assets,
    )


def _compares_frames(policy: 'Policy') -> bool:
    return policy.pruner.history_s > 0


class _Run:
    """An episode under way: clock, motion, pictures and what was recorded."""

    def __init__(
        self,
        policy: 'Policy',
        scene: Scene,
        instruction: str,
        watch: bool,
        on_query: OnQuery | None,
    ) -> None:
        self._policy, self._scene, self._instruction = policy, scene, instruction
        self._watch, self._on_query = watch, on_query
        self._period_ns = round(1e9 / scene.control_hz)
        self._state = scene.state()
        self.motion = scene_motion(self._state)
        self.steps = 0
        self.moved_m = 0.0
        self.visual_all = 0
        self.queries: list[QueryRecord] = []
        self._images = self._look()

    @property
    def _now_ns(self) -> int:
        return START_NS + self.steps * self._period_ns

    def query(self) -> np.ndarray:
        """Ask the policy; float64 (K, 7) as the scene takes it."""
        from .driving import env_actions, observe  # imports torch: with the first query only

        images = self._images or self._scene.images()
        seen = observe(self._policy, self._scene, images, self._now_ns, self._instruction)
        hint = self.motion.at(self._now_ns)
        answer = self._policy.infer(seen, hint)
        speed = None if hint is None else hint.linear_m_s
        self.queries.append(_record(self.steps, answer, speed))
        self.visual_all = sum(len(mask) for mask in answer.kept.values())
        if self._on_query is not None:
            self._on_query(seen, answer)
        if not np.isfinite(answer.actions).all():
            raise ActionRefused(
                'non_finite',
                f'actions of the query at step {self.steps} are not finite',
                'check the checkpoint with vla-prune check, or use another dtype',
            )
        return env_actions(answer)

    def execute(self, actions: np.ndarray) -> bool:
        """One control step per action; True where one of them fulfilled the task."""
        for action in actions:
            self._scene.step(action)
            self.steps += 1
            before, self._state = self._state, self._scene.state()
            self.moved_m += float(np.linalg.norm(self._state.ee_position - before.ee_position))
            if self._scene.success():
                return True
            self._images = self._look()
        return False

    def _look(self) -> Mapping[str, np.ndarray] | None:
        """Feed the motion; render and show the frame only where the pruner compares frames."""
        show_state(self.motion, self._now_ns, self._state)
        if not self._watch:
            return None
        from .driving import upright

        images = self._scene.images()
        turned = upright(images)
        for camera in self._policy.profile.cameras:
            if camera in turned:
                self._policy.watch(camera, self._now_ns, turned[camera])
        return images


def _record(step: int, answer: Inference, speed_m_s: float | None) -> QueryRecord:
    stages = {k: round(ms, 3) for k, ms in answer.timings_ms.items()}
    return QueryRecord(
        step=step,
        mode=answer.mode,
        visual_tokens=answer.visual_tokens,
        total_ms=stages.pop('total'),
        stages_ms=stages,
        motion_m_s=speed_m_s,
        reason=str(answer.pruning.get('reason', '')),
    )
