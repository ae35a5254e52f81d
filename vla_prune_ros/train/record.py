"""Demonstrations of the scripted expert, disturbed on purpose, and its answers to a policy.

A policy that has only seen smooth episodes does not know what to do beside their paths. So the
expert is interrupted: by bursts of random motion, by reaching for the wrong cube first (the pose
of the arm must not give the target away), and later by the policy itself (DAgger, Ross et al.
2011). What happens in an interruption is never a label.
"""

from collections.abc import Callable

import numpy as np

from ..evaluate.driving import proprio, upright
from ..evaluate.wording import swapped
from ..model.images import prepare_image
from ..profiles import LIBERO
from ..sim.expert import expert_action
from ..sim.projection import seen_at
from ..sim.robosuite_scene import MUJOCO_CAMERAS, TwoCubeScene
from ..sim.tasks import TASKS, Task
from .demonstrations import Episode, compress

CHUNK = LIBERO.chunk
STRIDE = 2
"""Every second step of the expert is a sample: neighbours are nearly the same picture."""

MAX_STEPS = {'pick': 150, 'stack': 260, 'place': 260}
Chunk = Callable[[TwoCubeScene], np.ndarray]
"""A policy: the scene as it is -> float64 (K, 7), the next actions in the scene's units."""


def sister_of(task: Task) -> Task:
    """The same task with the two cubes exchanged."""
    instruction = swapped(task.instruction)
    return next(other for other in TASKS.values() if other.instruction == instruction)


class Recorder:
    """Drives one scene and keeps what the expert did.

    :param scene: reset to the episode.
    :param rotation_reference: float64 (3,), see :func:`~vla_prune_ros.evaluate.driving.proprio`.
    :param rng: fixes the disturbances.
    """

    def __init__(
        self, scene: TwoCubeScene, rotation_reference: np.ndarray, rng: np.random.Generator
    ) -> None:
        self.scene, self.rng = scene, rng
        self._reference = rotation_reference
        self._phase = int(rng.integers(STRIDE))
        self._actions: list[np.ndarray] = []
        self._segments: list[int] = []
        self._segment = 0
        self._at: list[int] = []  # frame -> index of the action that followed
        self._frames: list[tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]] = []

    def expert(self, steps: int, sample: bool = True) -> bool:
        """Let the expert act; True where the task is then fulfilled (and it stops there)."""
        for _ in range(steps):
            if sample and (len(self._actions) + self._phase) % STRIDE == 0:
                self._look()
            action = expert_action(self.scene)
            self._actions.append(action)
            self._segments.append(self._segment)
            self.scene.step(action)
            if sample and self.scene.success():
                return True
        return False

    def interrupt(self, actions: np.ndarray) -> bool:
        """Execute (n, 7) actions that are no labels; True where the task is then fulfilled."""
        self._segment += 1
        self._phase = (-len(self._actions)) % STRIDE  # the first frame afterwards is a sample
        for action in actions:
            self.scene.step(action)
            if self.scene.success():
                return True
        return False

    def burst(self, steps: int, size: float) -> None:
        """Random motion in one direction, the gripper mostly open."""
        rng = self.rng
        action = np.concatenate(
            [
                rng.uniform(-size, size, 3),
                rng.uniform(-0.15, 0.15, 3),
                rng.choice([-1.0, -1.0, -1.0, 1.0], 1),
            ]
        )
        self.interrupt(np.tile(action, (steps, 1)))

    def lure(self, steps: int) -> None:
        """Reach for the other cube, up to the moment at which it would be grasped."""
        mine, self.scene.task = self.scene.task, sister_of(self.scene.task)
        try:
            for _ in range(steps):
                action = expert_action(self.scene)
                if action[6] > 0:
                    break
                self.interrupt(action[None])
        finally:
            self.scene.task = mine

    def episode(self) -> Episode | None:
        """What was recorded, after letting the expert go on for the tails of the last chunks."""
        if not self._frames:
            return None
        self.expert(CHUNK, sample=False)
        actions, segments = np.array(self._actions), np.array(self._segments)
        steps = np.array(self._at)[:, None] + np.arange(CHUNK)
        chunk = actions[steps]
        chunk[..., 6] = (1.0 - chunk[..., 6]) / 2.0
        valid = segments[steps] == segments[np.array(self._at)][:, None]
        views, state, seen, offset = zip(*self._frames, strict=True)
        task = self.scene.task
        return Episode(
            [view for frame in views for view in frame],
            np.array(state),
            chunk,
            valid,
            np.array(seen),
            np.array(offset),
            task.name,
            sister_of(task).name,
        )

    def _look(self) -> None:
        scene, state = self.scene, self.scene.state()
        colours = scene.task.target, sister_of(scene.task).target
        points = [scene.cube_position(colour) for colour in colours]
        cameras = [MUJOCO_CAMERAS[name] for name in scene.cameras]
        views = upright(scene.images())
        self._at.append(len(self._actions))
        self._frames.append(
            (
                [compress(prepare_image(views[name])) for name in scene.cameras],
                proprio(state, self._reference),
                np.array([[seen_at(scene.env.sim, c, p) for c in cameras] for p in points]),
                np.array([point - state.ee_position for point in points]),
            )
        )


def demonstrate(recorder: Recorder) -> Episode | None:
    """One disturbed demonstration; None where the expert failed."""
    rng, family = recorder.rng, recorder.scene.task.name.split('_')[0]
    if rng.random() < 0.5:
        recorder.lure(int(rng.integers(4, 22)))
    elif rng.random() < 0.7:
        recorder.burst(int(rng.integers(3, 12)), 1.0)
    length = {'pick': 26}.get(family, 56)
    bursts = sorted(rng.integers(3, length, size=rng.integers(0, 3 if family == 'pick' else 4)))
    done = 0
    for at in [*bursts, MAX_STEPS[family]]:
        if recorder.expert(max(0, int(at) - done)):
            return recorder.episode()
        if at != MAX_STEPS[family]:
            recorder.burst(int(rng.integers(3, 8)), 0.8)
        done = int(at)
    return None


def correct(recorder: Recorder, policy: Chunk) -> Episode | None:
    """One episode of the policy, taken over by the expert again and again.

    The expert acts from states to which the policy went, so that its frames say what to do there;
    then the policy goes on from where the expert left.
    """
    rng, scene = recorder.rng, recorder.scene
    limit = MAX_STEPS[scene.task.name.split('_')[0]]
    steps = 0
    while steps < limit:
        for _ in range(int(rng.integers(1, 6))):
            steps += CHUNK
            if recorder.interrupt(policy(scene)):
                return recorder.episode()
        turn = int(rng.integers(8, 20))
        steps += turn
        if recorder.expert(turn):
            break
    return recorder.episode()
