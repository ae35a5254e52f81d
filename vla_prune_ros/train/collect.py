"""Demonstrations of the scripted expert, disturbed on purpose, and its corrections of a policy.

So that a policy learns what to do beside the smooth paths, the expert is interrupted: by bursts of
random motion, by reaching for the wrong cube first (the pose of the arm must not give the target
away), and later by the policy itself (DAgger, Ross et al. 2011). Interruptions are never labels.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.load import load_policy
from ..engine.policy import Policy
from ..evaluate import pool
from ..evaluate.closed_loop.rollout import (
    EpisodeResult,
    observe,
    proprio,
    run_episode,
    swapped,
    upright,
)
from ..evaluate.pool import Result
from ..model.images import CROP_AREA, prepare_image
from ..profiles import LIBERO
from ..sim.expert import expert_action
from ..sim.panda import MUJOCO_CAMERAS
from ..sim.scene import gripper_to_env
from ..sim.two_cubes import TASKS, Task, TwoCubeScene
from .dataset import Episode, compress, save


def seen_at(sim: Any, camera: str, point: np.ndarray) -> np.ndarray:
    """Pinhole projection of a world point (3,) into what a vision tower sees of a square image:
    turned by 180 degrees and cropped in the middle to ``CROP_AREA`` of its area.

    :param camera: MuJoCo's name of the camera.
    :returns: float64 (2,), x to the right and y down, 0 .. 1 inside the cropped image; NaN for a
        point behind the camera or outside. Whether something hides it is not tested.
    """
    index = sim.model.camera_name2id(camera)
    axes = np.array(sim.data.cam_xmat[index]).reshape(3, 3)
    right, up, back = (np.asarray(point) - sim.data.cam_xpos[index]) @ axes
    if back >= 0:  # MuJoCo's cameras look along their negative z axis
        return np.full(2, np.nan)
    half = np.tan(np.radians(sim.model.cam_fovy[index]) / 2.0)
    # Rendered rows begin at the bottom; turned by 180 degrees, they begin at the top again and
    # left and right change sides.
    aside = np.array([-right, -up]) / (-back * half)
    x = aside / (2.0 * CROP_AREA**0.5) + 0.5
    return x if ((x >= 0.0) & (x < 1.0)).all() else np.full(2, np.nan)


CHUNK = LIBERO.chunk
STRIDE = 2  # every second step of the expert is a sample: neighbours are nearly the same image

# Branch of the rotation vector: a hand that points down, as LIBERO's statistics have it.
HAND_DOWN = np.array([np.pi, 0.0, 0.0])
MAX_STEPS = {'pick': 150, 'stack': 260, 'place': 260}

# A policy: the scene as it is -> (K, 7), the next actions in the scene's units.
Chunk = Callable[[TwoCubeScene], np.ndarray]


def sister_of(task: Task) -> Task:
    instruction = swapped(task.instruction)
    return next(other for other in TASKS.values() if other.instruction == instruction)


class Recorder:
    """Drives one scene, reset to an episode, and keeps what the expert did; ``rng`` fixes the
    disturbances."""

    def __init__(self, scene: TwoCubeScene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        self._phase = int(rng.integers(STRIDE))
        self._actions: list[np.ndarray] = []
        self._segments: list[int] = []
        self._segment = 0
        # Per frame: index of the action that followed; views, state, seen and offset of Episode.
        self._frames: list[tuple[int, list[bytes], np.ndarray, np.ndarray, np.ndarray]] = []

    def expert(self, steps: int, sample: bool = True) -> bool:
        """True if the task is then fulfilled (and it stops there)."""
        for _ in range(steps):
            if sample and (len(self._actions) + self._phase) % STRIDE == 0:
                self._add_frame()
            action = expert_action(self.scene)
            self._actions.append(action)
            self._segments.append(self._segment)
            self.scene.step(action)
            if sample and self.scene.success():
                return True
        return False

    def interrupt(self, actions: np.ndarray) -> bool:
        """Execute (n, 7) actions that are no labels; True if the task is then fulfilled."""
        self._segment += 1
        self._phase = (-len(self._actions)) % STRIDE  # the first frame afterwards is a sample
        for action in actions:
            self.scene.step(action)
            if self.scene.success():
                return True
        return False

    def burst(self, steps: int, size: float) -> None:
        moved, turned = self.rng.uniform(-size, size, 3), self.rng.uniform(-0.15, 0.15, 3)
        gripper = self.rng.choice([-1.0, -1.0, -1.0, 1.0], 1)
        action = np.concatenate([moved, turned, gripper])
        self.interrupt(np.tile(action, (steps, 1)))

    def lure(self, steps: int) -> None:
        """Reach for the other cube, up to the moment at which it would be grasped."""
        own, self.scene.task = self.scene.task, sister_of(self.scene.task)
        try:
            for _ in range(steps):
                action = expert_action(self.scene)
                if action[6] > 0:
                    break
                self.interrupt(action[None])
        finally:
            self.scene.task = own

    def episode(self) -> Episode | None:
        """What was recorded, after letting the expert go on for the tails of the last chunks."""
        if not self._frames:
            return None
        self.expert(CHUNK, sample=False)
        at, views, states, seen, offsets = zip(*self._frames, strict=True)
        actions, segments = np.array(self._actions), np.array(self._segments)
        steps = np.array(at)[:, None] + np.arange(CHUNK)
        chunk = actions[steps]
        chunk[..., 6] = (1.0 - chunk[..., 6]) / 2.0
        task = self.scene.task
        return Episode(
            views=[view for frame in views for view in frame],
            state=np.array(states),
            chunk=chunk,
            valid=segments[steps] == segments[np.array(at)][:, None],
            seen=np.array(seen),
            offset=np.array(offsets),
            task=task.name,
            sister=sister_of(task).name,
        )

    def _add_frame(self) -> None:
        scene, state = self.scene, self.scene.state()
        colours = scene.task.target, sister_of(scene.task).target
        points = [scene.cube_position(colour) for colour in colours]
        cameras = [MUJOCO_CAMERAS[name] for name in scene.cameras]
        images = upright(scene.images())
        views = [compress(prepare_image(images[name])) for name in scene.cameras]
        seen = np.array([[seen_at(scene.env.sim, c, p) for c in cameras] for p in points])
        offset = np.array([point - state.ee_position for point in points])
        vector = proprio(state, HAND_DOWN)
        self._frames.append((len(self._actions), views, vector, seen, offset))


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
    """One episode of the policy, taken over by the expert again and again: its frames say what to
    do in states to which the policy went."""
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


# Seeds of the data and of the checks in between; evaluation counts from 0.
FIRST_DEMONSTRATION = 1_000_000
FIRST_CORRECTION = 2_000_000
FIRST_CHECK = 3_000_000


@dataclass(frozen=True)
class Collection:
    folder: Path  # one file per seed; an empty ``.failed`` file where the episode gave no sample
    seeds: Sequence[int]  # episode ``seed`` has task ``seed % 6``
    checkpoint: Path | None = None  # the policy to correct; None for demonstrations
    pruning: str = 'dense'  # of that policy

    def missing(self) -> list[int]:
        there = {int(p.stem) for p in self.folder.glob('*.*') if p.suffix in ('.npz', '.failed')}
        return [seed for seed in self.seeds if seed not in there]


def collect(wanted: Collection, workers: int, done: Callable[[int], None]) -> None:
    """Record what the folder does not hold yet, in ``workers`` processes, each with a scene and
    one thread; ``done`` gets the number of seeds that are finished."""
    seeds = wanted.missing()
    before = len(wanted.seeds) - len(seeds)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(wanted.folder, seed, wanted.checkpoint, wanted.pruning) for seed in seeds]
    for finished, _ in enumerate(in_processes(_record, jobs, workers), start=before + 1):
        done(finished)


def measure(
    checkpoint: Path, seeds: Sequence[int], workers: int, done: Callable[[int], None]
) -> list[EpisodeResult]:
    """Dense episodes with these seeds; episode ``seed`` has task ``seed % 6``."""
    results = []
    for result in in_processes(_try, [(checkpoint, seed) for seed in seeds], workers):
        results.append(result)
        done(len(results))
    return results


def in_processes(
    work: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """As :func:`.pool.in_processes`, with one thread per process: several small jobs beat one
    that is shared between threads."""
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, '1'))  # which the children inherit
    try:
        yield from pool.in_processes(work, jobs, workers)
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


@cache
def _scene() -> TwoCubeScene:
    return TwoCubeScene(tasks=tuple(TASKS))


@cache
def _policy(checkpoint: Path, pruning: str = 'dense') -> Policy:
    torch.set_num_threads(1)
    return load_policy(checkpoint, pruning=pruning)


def _actor(checkpoint: Path, pruning: str) -> Chunk:
    policy = _policy(checkpoint, pruning)
    policy.reset()

    return lambda scene: gripper_to_env(
        policy.infer(observe(policy, scene, scene.images(), 0)).actions
    )


def _record(folder: Path, seed: int, checkpoint: Path | None, pruning: str) -> None:
    scene = _scene()
    scene.reset(seed)
    recorder = Recorder(scene, np.random.default_rng(seed))
    if checkpoint is None:
        episode = demonstrate(recorder)
    else:
        episode = correct(recorder, _actor(checkpoint, pruning))
    if episode is None:
        (folder / f'{seed}.failed').touch()
    else:
        save(episode, folder / f'{seed}.npz')


def _try(checkpoint: Path, seed: int) -> EpisodeResult:
    return run_episode(_policy(checkpoint), _scene(), seed)


def seeds_of(tasks: Sequence[str], first: int, count: int) -> list[int]:
    """The first ``count`` seeds from ``first`` on whose episodes have one of these tasks."""
    names = list(TASKS)
    wanted = {names.index(task) for task in tasks}
    last = first + len(names) * count  # every task comes once in so many
    return [seed for seed in range(first, last) if seed % len(names) in wanted][:count]


def episodes(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """Files of those episodes that gave samples, in the order of the seeds."""
    return [path for path in (folder / f'{seed}.npz' for seed in seeds) if path.is_file()]
