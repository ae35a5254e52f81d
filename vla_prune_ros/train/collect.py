"""Many episodes from several processes; what a folder holds already is not recorded again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate.rollout import EpisodeResult, run_episode
from ..sim.robosuite_scene import TwoCubeScene
from ..sim.tasks import TASKS
from .demonstrations import save
from .processes import in_processes
from .record import Chunk, Recorder, correct, demonstrate

if TYPE_CHECKING:
    from ..engine.policy import Policy

FIRST_DEMONSTRATION = 1_000_000
FIRST_CORRECTION = 2_000_000
FIRST_CHECK = 3_000_000
"""Seeds of the data and of the checks in between; evaluation counts from 0."""

HAND_DOWN = np.array([np.pi, 0.0, 0.0])
"""Branch of the rotation vector: a hand that points down, as LIBERO's statistics have it."""


@dataclass(frozen=True)
class Collection:
    """What to record.

    :param folder: where the episodes go, one file per seed; an empty ``.failed`` file where the
        episode gave no sample.
    :param seeds: episode ``seed`` has task ``seed % 6``.
    :param checkpoint: the policy to correct; None for demonstrations.
    :param pruning: as that policy is pruned.
    """

    folder: Path
    seeds: Sequence[int]
    checkpoint: Path | None = None
    pruning: str = 'dense'

    def missing(self) -> list[int]:
        """Seeds that were not recorded yet."""
        there = {int(p.stem) for p in self.folder.glob('*.*') if p.suffix in ('.npz', '.failed')}
        return [seed for seed in self.seeds if seed not in there]


def collect(
    wanted: Collection, workers: int, done: Callable[[int, int], None] = lambda n, m: None
) -> None:
    """Record what is missing.

    :param workers: processes, each with a scene and one thread.
    :param done: called with the number of finished and of all seeds.
    """
    seeds = wanted.missing()
    before = len(wanted.seeds) - len(seeds)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(wanted.folder, seed, wanted.checkpoint, wanted.pruning) for seed in seeds]
    for finished, _ in enumerate(in_processes(_record, jobs, workers), start=before + 1):
        done(finished, len(wanted.seeds))


def measure(
    checkpoint: Path,
    seeds: Sequence[int],
    workers: int,
    done: Callable[[int, int], None] = lambda n, m: None,
) -> list[EpisodeResult]:
    """Success of a policy in episodes with these seeds, dense; episode ``seed`` has task
    ``seed % 6``."""
    results = []
    for result in in_processes(_try, [(checkpoint, seed) for seed in seeds], workers):
        results.append(result)
        done(len(results), len(seeds))
    return results


@cache
def _scene() -> TwoCubeScene:
    return TwoCubeScene(tasks=tuple(TASKS))


@cache
def _policy(checkpoint: Path, pruning: str = 'dense') -> 'Policy':
    import torch

    from ..engine.load import load_policy

    torch.set_num_threads(1)
    return load_policy(checkpoint, pruning=pruning)


def _actor(checkpoint: Path, pruning: str) -> Chunk:
    from ..evaluate.driving import env_actions, observe

    policy = _policy(checkpoint, pruning)
    policy.reset()
    return lambda scene: env_actions(policy.infer(observe(policy, scene, scene.images(), 0)))


def _record(folder: Path, seed: int, checkpoint: Path | None, pruning: str) -> None:
    scene = _scene()
    scene.reset(seed)
    recorder = Recorder(scene, HAND_DOWN, np.random.default_rng(seed))
    episode = (
        demonstrate(recorder)
        if checkpoint is None
        else correct(recorder, _actor(checkpoint, pruning))
    )
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
    """Files of the recorded episodes with these seeds, in their order."""
    return [path for path in (folder / f'{seed}.npz' for seed in seeds) if path.is_file()]
