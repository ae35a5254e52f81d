"""``vla-prune record-demo``: a bag of the two-cube scene, as a robot's recorder would write it.

The scripted expert or a policy drives the arm. The same options give the same messages to the last
byte, as far as the machine's renderer does.
"""

import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bags.writer import BagWriter, message_builder
from ...config import check_values
from ...errors import VlaPruneError
from ...runtime.params import SessionParams, save_params
from ...sim.expert import expert_action
from ...sim.scene import (
    ANGULAR_UNIT_RAD,
    LINEAR_UNIT_M,
    Scene,
    SceneState,
    make_scene,
    twist_to_action,
)
from ...sim.session import GAP_NS, START_NS
from ...sim.two_cubes import find_tasks
from ..methods import MethodPolicies, parse_methods
from ..options import RecordOptions
from .rollout import HAND_LINK, PANDA_URDF, run_episode, scene_motion, upright

if TYPE_CHECKING:
    from ...engine.policy import Policy

WORLD_FRAME = 'world'  # of poses and commands, as of the node ``simulator``
INSTRUCTION, POSE, JOINTS = '/instruction', '/ee_pose', '/joint_states'
TWIST, GRIPPER = '/twist', '/gripper'

_MS = 1_000_000
# From stamp to receipt. States come before the images, so that these complete a pair, and the
# command behind what it answers to.
_DELAYS_NS = {INSTRUCTION: 0, POSE: 1 * _MS, JOINTS: 2 * _MS, TWIST: 20 * _MS, GRIPPER: 21 * _MS}
_FIRST_IMAGE_NS, _NEXT_IMAGE_NS = 8 * _MS, 1 * _MS

LAST_SEED = 2**32 - 1
MAX_STEP_M = 0.09  # OSC_POSE's unit is 0.05 m per step and axis: 0.087 m along the diagonal


def image_topic(camera: str, compressed: bool = False) -> str:
    return f'/camera/{camera}/image_raw' + ('/compressed' if compressed else '')


def command(action: np.ndarray, control_hz: float) -> tuple[np.ndarray, float]:
    """Inverse of :func:`~vla_prune_ros.sim.scene.twist_to_action` within its limits: float64 (6,)
    in m/s and rad/s along the world's axes, and the gripper, 0 closed ... 1 open."""
    unit = control_hz * np.repeat((LINEAR_UNIT_M, ANGULAR_UNIT_RAD), 3)
    return np.asarray(action[:6], np.float64) * unit, (1.0 - float(action[6])) / 2.0


class RecordedScene(Scene):
    """Another scene, recorded.

    What is seen where a control step begins, and the command that holds from then on, have the
    stamp of that time. Images are turned by 180 degrees, as the policy saw them in training:
    whoever reads the bag leaves ``rotate_180`` empty. Commands are in SI units along the world's
    axes, as ``chunk_executor`` sends them with ``stepping`` synchronous; the arm is moved by what
    was written, so that the same commands give the same episode.

    Between episodes is a gap that makes every reader forget the one before.
    """

    def __init__(self, scene: Scene, writer: BagWriter, compressed: bool = False) -> None:
        self.scene = scene
        self.control_hz, self.cameras = scene.control_hz, scene.cameras
        self.description, self.generated_assets = scene.description, scene.generated_assets
        self._writer, self._build, self._compressed = writer, message_builder(), compressed
        self._period_ns = round(1e9 / scene.control_hz)
        self._now_ns = START_NS - self._period_ns - GAP_NS  # which the first reset adds
        self._images: dict[str, np.ndarray] | None = None
        self.steps = 0  # of the present episode

    @property
    def instruction(self) -> str:
        return self.scene.instruction

    @property
    def time_s(self) -> float:
        return self.scene.time_s

    @property
    def task_name(self) -> str:
        return self.scene.task_name

    @property
    def max_steps(self) -> int | None:
        return self.scene.max_steps

    def reset(self, seed: int) -> None:
        self.scene.reset(seed)
        self._now_ns += self._period_ns + GAP_NS
        self._images, self.steps = None, 0
        self._write(INSTRUCTION, self._build.text(self.scene.instruction))

    def step(self, action: np.ndarray) -> None:
        self._observe()
        twist, opening = command(action, self.control_hz)
        self._write(TWIST, self._build.twist(twist, self._now_ns, WORLD_FRAME))
        self._write(GRIPPER, self._build.gripper(opening, self._now_ns))
        self.scene.step(twist_to_action(twist[:3], twist[3:], opening, self.control_hz))
        self._now_ns += self._period_ns
        self.steps += 1
        self._images = None

    def end(self) -> None:
        """Record the end of an episode, and stop the arm."""
        self._observe()
        self._write(TWIST, self._build.twist(np.zeros(6), self._now_ns, WORLD_FRAME))

    def images(self) -> dict[str, np.ndarray]:
        # Rendered once per instant, for whoever drives and for the bag.
        if self._images is None:
            self._images = self.scene.images()
        return self._images

    def state(self) -> SceneState:
        return self.scene.state()

    def success(self) -> bool:
        return self.scene.success()

    def wrong_object(self) -> str:
        return self.scene.wrong_object()

    def close(self) -> None:
        self.scene.close()

    def _observe(self) -> None:
        now, state = self._now_ns, self.scene.state()
        pose = self._build.pose(state.ee_position, state.ee_quat_xyzw, now, WORLD_FRAME)
        joints = self._build.joints(
            state.joint_names, state.joint_positions, state.joint_velocities, now
        )
        self._write(POSE, pose)
        self._write(JOINTS, joints)
        build = self._build.compressed_image if self._compressed else self._build.image
        views = upright(self.images())
        for i, camera in enumerate(self.cameras):
            message = build(views[camera], now, f'{camera}_optical')
            receipt_ns = now + _FIRST_IMAGE_NS + i * _NEXT_IMAGE_NS
            self._writer.write(image_topic(camera, self._compressed), receipt_ns, message)

    def _write(self, topic: str, message: Any) -> None:
        self._writer.write(topic, self._now_ns + _DELAYS_NS[topic], message)


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    seed: int
    task: str
    instruction: str
    success: bool
    steps: int


@dataclass(frozen=True, kw_only=True)
class RecordedBag:
    path: str
    parameters: str  # parameter file of vla_policy
    storage: str
    bytes: int
    seconds: float  # from first to last message
    wall_s: float
    driver: str
    method: str
    scene: str
    topics: dict[str, dict[str, Any]]
    episodes: list[RecordedEpisode]
    next: str  # command


def record_demo(
    options: RecordOptions, done: Callable[[RecordedEpisode], None] = lambda episode: None
) -> RecordedBag:
    """:param done: called behind every episode.
    :raises DataError: the path exists, or ``rosbags`` is not installed.
    :raises VlaPruneError: an option is not usable, or the simulator or the policy cannot start;
        then no bag is left behind.
    """
    _check(options)
    begin, episodes = time.monotonic(), []
    with BagWriter(options.out, options.storage, (INSTRUCTION,), options.overwrite) as writer:
        by_policy = options.driver == 'policy'
        drive = partial(run_episode, _policy(options)) if by_policy else _drive_by_expert
        inner = make_scene('two_cubes', (options.task,), image_size=options.size)
        with closing(RecordedScene(inner, writer, options.compressed)) as scene:
            for seed in range(options.seed, options.seed + options.episodes):
                drive(scene, seed, options.steps)
                scene.end()
                episode = RecordedEpisode(
                    seed=seed,
                    task=options.task,
                    instruction=scene.instruction,
                    success=scene.success(),
                    steps=scene.steps,
                )
                episodes.append(episode)
                done(episode)
            # As config/libero.yaml has it, but for the images, which are upright in the bag.
            robot = SessionParams(
                frame_id=WORLD_FRAME,
                motion_source=scene_motion(inner.state()).name,
                urdf=PANDA_URDF,
                ee_link=HAND_LINK,
                max_step_m=MAX_STEP_M,
            )
    parameters = options.out.with_name(options.out.name + '.yaml')
    save_params(parameters, robot, image_transport='compressed' if options.compressed else 'raw')
    replay = ['vla-prune', 'replay', str(options.out), '--params', str(parameters)]
    if by_policy:
        replay += ['--checkpoint', str(options.checkpoint)]
    return RecordedBag(
        path=str(options.out),
        parameters=str(parameters),
        storage=options.storage,
        bytes=sum(file.stat().st_size for file in writer.path.iterdir()),
        seconds=(writer.span_ns[1] - writer.span_ns[0]) / 1e9,
        wall_s=time.monotonic() - begin,
        driver=options.driver,
        method=options.method if by_policy else '',
        scene=scene.description,
        topics={name: topic._asdict() for name, topic in sorted(writer.topics.items())},
        episodes=episodes,
        next=shlex.join(replay),
    )


def _check(options: RecordOptions) -> None:
    find_tasks((options.task,))
    check_values(RecordOptions, vars(options), 'record-demo', VlaPruneError)
    policy = options.driver == 'policy'
    if policy != (options.checkpoint is not None) or not (policy or options.method == 'dense'):
        raise VlaPruneError(
            f'driver {options.driver!r} with checkpoint {options.checkpoint} and method '
            f'{options.method!r}',
            'a policy has both, the expert has none',
        )
    if not 0 <= options.seed <= LAST_SEED - options.episodes:
        raise VlaPruneError(f'seed is {options.seed}', f'use 0 to {LAST_SEED - options.episodes}')


def _drive_by_expert(scene: RecordedScene, seed: int, steps: int | None) -> None:
    scene.reset(seed)
    limit = steps or scene.step_limit
    while scene.steps < limit and not scene.success():
        scene.step(expert_action(scene.scene))


def _policy(options: RecordOptions) -> 'Policy':
    (method,) = parse_methods((options.method,), Path(options.checkpoint))
    return MethodPolicies('libero', 'cpu', 'float32').get(method)
