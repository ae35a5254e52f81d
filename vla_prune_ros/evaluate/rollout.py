"""One episode of a policy in a simulated scene, by the protocol of OpenVLA-OFT's LIBERO runs.

A query gives K actions, all of them are executed, one per control step; success is looked for
after every step and ends the episode (``run_libero_eval.py``). Simulated time stands still while
the policy computes.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ActionRefused
from ..records import Inference, Observation
from ..runtime.instruction import clean_instruction
from ..sim.scene import Scene
from .episode import EpisodeResult, QueryRecord
from .scene_motion import scene_motion, show_state

if TYPE_CHECKING:
    from ..engine.policy import Policy

__all__ = ['EpisodeResult', 'OnQuery', 'QueryRecord', 'run_episode', 'step_limit', 'task_name']

START_NS = 1_000_000_000
"""Stamp of the first observation: a clock at zero has not started."""

PICK_STEPS, OTHER_STEPS = 150, 250

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
    :param max_steps: control steps, 1 or more; None for the scene's own :func:`step_limit`.
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
    limit = max_steps or step_limit(scene)
    success, refreshes = False, []
    while run.steps < limit and not success:
        actions = run.query()
        if refresh:
            refreshes.append(policy.refresh())
        success = run.execute(actions[: limit - run.steps])
    return EpisodeResult(
        simulator=simulator,
        task=task_name(scene),
        seed=seed,
        instruction=words,
        success=success,
        steps=run.steps,
        wrong_object=getattr(scene, 'wrong_object', str)(),
        moved_m=run.moved_m,
        visual_all=run.visual_all,
        motion_source=run.motion.name,
        queries=tuple(run.queries),
        refresh_ms=tuple(ms for ms in refreshes if ms is not None),
        scene=scene.description,
        generated_assets=bool(getattr(scene, 'generated_assets', False)),
    )


def task_name(scene: Scene) -> str:
    """Short name of the present episode's task, where the scene has one, else its instruction."""
    return getattr(getattr(scene, 'task', None), 'name', '') or scene.instruction


def step_limit(scene: Scene) -> int:
    """Control steps after which the present episode has failed.

    The scene's own ``max_steps`` where it has one; else 150 for a task that begins with ``pick``,
    7.5 s at 20 Hz and several times what the scripted expert takes, and 250 for others.
    """
    limit = getattr(scene, 'max_steps', None)
    if limit:
        return int(limit)
    return PICK_STEPS if task_name(scene).startswith('pick') else OTHER_STEPS


def _compares_frames(policy: 'Policy') -> bool:
    return bool(getattr(policy.pruner, 'look_back_s', 0.0))


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
