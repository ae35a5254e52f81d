"""LIBERO's tasks as a scene: fixed initial states, published step limits, BDDL goals."""

import atexit
import contextlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VlaPruneError
from ..panda import (
    CONTROL_HZ,
    MUJOCO_CAMERAS,
    OPEN_AND_STILL,
    SETTLING_STEPS,
    PandaScene,
    close_env,
    forget_finger_command,
    matched_versions,
    seeded,
    use_fast_visuals,
)
from .assets import INSTALL, REINSTALL, find_assets, libero_version, use_assets
from .suites import ENV_SEED, MAX_STEPS, LiberoTask, suite_tasks

KEPT_ENVS = 3  # one with its OpenGL context needs memory, another takes time to make
_PLACEMENT_TRIALS = 100


class LiberoScene(PandaScene):
    """The episode of a seed has task ``seed % n`` of the n tasks and fixed initial state ``seed //
    n`` modulo their number (50): seeds 0 .. 50 n - 1 are the published protocol.
    :param tasks, assets: as for :func:`.suite_tasks` and :func:`.find_assets`.
    :param fast_visuals: None: with generated assets only; published policies were trained on
        images that have shadows and reflections."""

    def __init__(
        self,
        suite: str = 'libero_spatial',
        tasks: Sequence[str] = (),
        *,
        assets: str | Path = 'auto',
        image_size: int = 256,
        gl: str = 'auto',
        render: bool = True,
        fast_visuals: bool | None = None,
    ) -> None:
        version = libero_version()
        super().__init__(image_size=image_size, gl=gl, render=render)
        self._assets = find_assets(assets)
        _import_libero()
        self.suite, self.tasks = suite, suite_tasks(suite, tasks)
        self.task_names = tuple(task.name for task in self.tasks)
        self.max_steps = MAX_STEPS[suite]
        self.generated_assets = self._assets.generated
        self.fast_visuals = self.generated_assets if fast_visuals is None else fast_visuals
        self.description = (
            f'{suite} (hf-libero {version}), {self.description}, {self._assets.label}'
        )
        self._envs: OrderedDict[str, LiberoEnv] = OrderedDict()
        self._begin()

    def reset(self, seed: int) -> None:
        number, task = divmod(seed, len(self.tasks))
        self.task = self.tasks[task]
        self.env = self._open(self.task)
        self.initial_state = number % len(self.env.states)
        self.env.start(self.initial_state)
        self._steps = 0

    def success(self) -> bool:
        return self.env.goal_reached()

    def close(self) -> None:
        atexit.unregister(self.close)
        while self._envs:
            self._envs.popitem()[1].close()

    def _open(self, task: LiberoTask) -> 'LiberoEnv':
        if task.name in self._envs:
            self._envs.move_to_end(task.name)
            return self._envs[task.name]
        while len(self._envs) >= KEPT_ENVS:
            self._envs.popitem(last=False)[1].close()
        use_assets(self._assets)
        fast_size = self.image_size if self.fast_visuals else 0
        self._envs[task.name] = LiberoEnv(task, self._render, fast_size)
        return self._envs[task.name]


class LiberoEnv:
    """The environment of one task: made once, then set to fixed initial states.
    :param fast_size: side of images without shadows and multisampling; 0 keeps these."""

    def __init__(self, task: LiberoTask, render: bool, fast_size: int) -> None:
        self._render = render
        self.states = task.initial_states()
        self.env: Any = None
        try:
            with seeded(ENV_SEED), contextlib.redirect_stdout(io.StringIO()):
                self.env = _make(task.bddl_file)
                self._place_fixtures(task.name)
            width = self.sim.model.nq + self.sim.model.nv + 1
            if self.states.shape[1] != width:
                raise VlaPruneError(
                    f'{task.name}: initial states have {self.states.shape[1]} numbers, the scene '
                    f'has {width}',
                    'use assets of the same LIBERO as the task files',
                )
        except BaseException:
            self.close()
            raise
        if render and fast_size:
            use_fast_visuals(self.sim, fast_size)

    @property
    def sim(self) -> Any:
        return self.env.sim

    @property
    def robots(self) -> Any:
        return self.env.robots

    def start(self, state: int) -> None:
        self.env.reset()
        forget_finger_command(self.env)
        self.sim.set_state_from_flattened(self.states[state])
        self.sim.forward()
        self.env._check_success()
        self.env._post_process()
        self.env._update_observables(force=True)
        for _ in range(SETTLING_STEPS):
            self.env.step(OPEN_AND_STILL)

    def step(self, action: np.ndarray) -> None:
        self.env.step(action)

    def goal_reached(self) -> bool:
        return bool(self.env._check_success())

    def body_position(self, name: str) -> np.ndarray:
        """Origin (3,), m, of an object's frame, by its name in the BDDL file."""
        body = self.env.obj_body_id[name]
        return np.array(self.sim.data.body_xpos[body], dtype=np.float64)

    def close(self) -> None:
        if self.env is not None:
            context = getattr(self.sim, '_render_context_offscreen', None)
            close_env(self.env, self._render and context is not None)

    def _place_fixtures(self, task: str) -> None:
        """Once, as the first episode after ``env.seed`` has them. In OpenVLA-OFT they move by a
        centimetre from episode to episode; here an episode follows from task and state alone."""
        from robosuite.utils.errors import RandomizationError

        self.env.has_offscreen_renderer = self._render
        self.env.seed(ENV_SEED)
        for _ in range(_PLACEMENT_TRIALS):
            with contextlib.suppress(RandomizationError):
                self.env.reset()
                break
        else:
            raise VlaPruneError(
                f'{task}: objects do not fit into their regions',
                'use the assets of LIBERO or generated ones',
            )
        # From now on a reset keeps the model, its context and the fixtures' places.
        self.env.deterministic_reset = True
        self.env.hard_reset = False


def _make(bddl_file: Path) -> Any:
    import robosuite
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    if not bddl_file.is_file():
        raise VlaPruneError(f'LIBERO task file {bddl_file} is missing', REINSTALL)
    problem = TASK_MAPPING[get_problem_info(str(bddl_file))['problem_name']]
    with matched_versions():
        # Not LIBERO's own wrapper: its reset tries again for ever, whatever the error is. The
        # arguments are the wrapper's; images are rendered on demand, and no context is made for
        # the model of the constructor, which the first reset replaces.
        return problem(
            str(bddl_file),
            robots=['Panda'],
            controller_configs=robosuite.load_controller_config(default_controller='OSC_POSE'),
            gripper_types='default',
            initialization_noise=None,
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=int(CONTROL_HZ),
            ignore_done=True,
            hard_reset=True,
            camera_names=list(MUJOCO_CAMERAS.values()),
        )


def _import_libero() -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import libero.libero.envs  # noqa: F401
    except ImportError as error:
        raise VlaPruneError(f'LIBERO cannot be imported ({error})', INSTALL) from None
