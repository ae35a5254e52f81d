"""One episode of a policy in a simulated scene, by the protocol of OpenVLA-OFT's LIBERO runs.

A query gives K actions, all of them are executed, one per control step; success is looked for
after every step and ends the episode (``run_libero_eval.py``). Simulated time stands still while
the policy computes.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import VlaPruneError
from ...records import Inference, Observation
from ...runtime.instruction import clean_instruction
from ...sim.scene import Scene
from .episodes import EpisodeResult

if TYPE_CHECKING:
    from ...engine.policy import Policy


OTHER = 'other'
"""Value of ``--instruction`` for the control: each task gets its sister's instruction."""

_COLOURS = ('red', 'green')
_WORD = re.compile(rf'\b({"|".join(_COLOURS)})\b')


def choose_instruction(asked: str, own: str) -> str | None:
    """The instruction for the policy in a task.

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


OnQuery = Callable[[Observation, Inference], None]
"""Called behind every query with what the policy saw and answered."""


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

    :param seed: names the episode; see :meth:`Scene.reset`, which settles the scene as well.
    :param max_steps: control steps, 1 or more; None for the scene's :attr:`~.Scene.step_limit`.
    :param instruction: in place of the scene's task.
    :param refresh: one dense pass after each query (:meth:`Policy.refresh`), as the node does it
        in spare time; its time is recorded apart.
    :raises InputRefused: the scene does not suit the profile.
    :raises ActionRefused: the policy's actions are not finite.
    """
    from .driving import SceneDriver  # loads SciPy and OpenCV: with the first episode only

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
