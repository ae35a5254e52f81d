"""A bag out of the two-cube scene: what a robot would have recorded, on any machine.

Somebody drives the arm, the scripted expert or a policy, and everything is written as a robot's
recorder would: see :class:`~.recorded_scene.RecordedScene`. The same options give the same
messages to the last byte, as far as the machine's renderer does.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import VlaPruneError
from ..runtime.bag_writing import BagWriter
from .recorded_scene import INSTRUCTION, RecordedScene
from .replay_robot import ReplayRobot, save_robot
from .rollout import run_episode, step_limit
from .scene_motion import HAND_LINK, PANDA_URDF, scene_motion

DRIVERS = ('expert', 'policy')
"""Who can drive: the scripted expert, or a policy."""

SIZES = (16, 1024)
"""Smallest and largest side of the pictures in pixels."""

LAST_SEED = 2**32 - 1

MAX_STEP_M = 0.09
"""OSC_POSE's unit is 0.05 m per step and axis: 0.087 m along the diagonal."""

Drive = Callable[[RecordedScene, int], None]
"""Resets a scene to a seed and drives it until the task is fulfilled or time is over."""


@dataclass(frozen=True)
class RecordOptions:
    """What to record.

    :param out: folder of the bag.
    :param task: name of a task of the two-cube scene.
    :param episodes: one behind the other, with a gap of more than 2 s.
    :param driver: one of :data:`DRIVERS`.
    :param seed: of the first episode; the others count on.
    :param steps: control steps per episode at most; None for the usual limit of an evaluation.
    :param size: side of the pictures in pixels; LIBERO's policies expect 256.
    :param storage: one of :data:`~vla_prune_ros.runtime.bag_writing.STORAGES`.
    :param compressed: images as JPEG.
    :param overwrite: replace the bag at ``out``.
    :param checkpoint: folder of the policy that drives; None with the expert.
    :param method: how that policy is pruned, as ``vla-prune evaluate`` names it.
    """

    out: Path
    task: str = 'pick_red'
    episodes: int = 1
    driver: str = 'expert'
    seed: int = 0
    steps: int | None = None
    size: int = 256
    storage: str = 'mcap'
    compressed: bool = False
    overwrite: bool = False
    checkpoint: Path | None = None
    method: str = 'dense'


@dataclass(frozen=True)
class RecordedEpisode:
    """How an episode went.

    :param steps: control steps until success, else until the limit.
    """

    seed: int
    task: str
    instruction: str
    success: bool
    steps: int


def record_demo(
    options: RecordOptions, done: Callable[[RecordedEpisode], None] = lambda episode: None
) -> dict[str, Any]:
    """Record a bag.

    :param done: called behind every episode.
    :returns: plain values: ``path``, ``parameters`` (of :func:`parameter_file`), ``storage``,
        ``bytes``, ``seconds`` (first to last message),
        ``wall_s``, ``driver``, ``method``, ``scene``, ``topics`` (name -> type and count),
        ``episodes`` (see :class:`RecordedEpisode`) and ``next``, a command to go on with.
    :raises DataError: the path exists, or ``rosbags`` is not installed.
    :raises VlaPruneError: an option is not usable, or the simulator or the policy cannot start;
        then no bag is left behind.
    """
    _check(options)
    begin, episodes = time.monotonic(), []
    with (
        BagWriter(options.out, options.storage, (INSTRUCTION,), options.overwrite) as writer,
        _scene(options, writer) as scene,
    ):
        drive = _driver(options)
        for seed in range(options.seed, options.seed + options.episodes):
            drive(scene, seed)
            scene.end()
            episode = RecordedEpisode(
                seed, options.task, scene.instruction, scene.success(), scene.steps
            )
            episodes.append(episode)
            done(episode)
        description = scene.description
        robot = _robot(scene)
    parameters = parameter_file(options)
    save_robot(parameters, robot, image_transport='compressed' if options.compressed else 'raw')
    return {
        'path': str(options.out),
        'parameters': str(parameters),
        'storage': options.storage,
        'bytes': sum(file.stat().st_size for file in writer.path.iterdir()),
        'seconds': (writer.span_ns[1] - writer.span_ns[0]) / 1e9,
        'wall_s': time.monotonic() - begin,
        'driver': options.driver,
        'method': options.method if options.driver == 'policy' else '',
        'scene': description,
        'topics': {name: topic._asdict() for name, topic in sorted(writer.topics.items())},
        'episodes': [asdict(episode) for episode in episodes],
        'next': next_command(options),
    }


def next_command(options: RecordOptions) -> str:
    """The command line that replays the bag."""
    words = ['vla-prune', 'replay', str(options.out), '--params', str(parameter_file(options))]
    if options.checkpoint is not None:
        words += ['--checkpoint', str(options.checkpoint)]
    return shlex.join(words)


def parameter_file(options: RecordOptions) -> Path:
    """Beside the bag, of its name: parameters of ``vla_policy`` for this arm."""
    return options.out.with_name(options.out.name + '.yaml')


def _robot(scene: RecordedScene) -> ReplayRobot:
    """The scene as ``vla_policy`` is told of it, the same as ``config/libero.yaml`` but for the
    pictures, which are upright in the bag."""
    source = scene_motion(scene.scene.state())
    return ReplayRobot(
        frame_id='world',
        motion_source=source.name,
        urdf=PANDA_URDF,
        ee_link=HAND_LINK,
        max_step_m=MAX_STEP_M,
    )


def _check(options: RecordOptions) -> None:
    from ..sim.tasks import TASKS

    if options.task not in TASKS:
        raise VlaPruneError(f'task {options.task!r} is unknown', f'choose from {", ".join(TASKS)}')
    if options.driver not in DRIVERS:
        raise VlaPruneError(
            f'driver {options.driver!r} is unknown', f'choose from {", ".join(DRIVERS)}'
        )
    policy = options.driver == 'policy'
    if policy != (options.checkpoint is not None) or not (policy or options.method == 'dense'):
        raise VlaPruneError(
            f'driver {options.driver!r} with checkpoint {options.checkpoint} and method '
            f'{options.method!r}',
            'a policy has both, the expert has none',
        )
    low, high = SIZES
    if not low <= options.size <= high:
        raise VlaPruneError(f'size is {options.size}', f'use {low} to {high} pixels')
    if not 0 <= options.seed <= LAST_SEED - options.episodes:
        raise VlaPruneError(f'seed is {options.seed}', f'use 0 to {LAST_SEED - options.episodes}')


@contextmanager
def _scene(options: RecordOptions, writer: BagWriter) -> Iterator[RecordedScene]:
    from ..sim.registry import make_scene

    scene = make_scene('two_cubes', (options.task,), image_size=options.size)
    with closing(RecordedScene(scene, writer, options.compressed)) as recorded:
        yield recorded


def _driver(options: RecordOptions) -> Drive:
    return _expert(options) if options.checkpoint is None else _policy(options)


def _expert(options: RecordOptions) -> Drive:
    from ..sim.expert import expert_action

    def drive(scene: RecordedScene, seed: int) -> None:
        scene.reset(seed)
        limit = options.steps or step_limit(scene)
        while scene.steps < limit and not scene.success():
            scene.step(expert_action(scene.scene))

    return drive


def _policy(options: RecordOptions) -> Drive:
    from .methods import MethodPolicies, parse_methods

    method = parse_methods((options.method,), options.checkpoint)[0]
    policy = MethodPolicies('libero', 'cpu', 'float32').get(method)

    def drive(scene: RecordedScene, seed: int) -> None:
        run_episode(policy, scene, seed, options.steps)

    return drive
