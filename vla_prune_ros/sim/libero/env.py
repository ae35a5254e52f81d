"""One environment of LIBERO for one task: made once, then set to fixed initial states."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VlaPruneError
from ..panda import (
    CONTROL_HZ,
    OPEN_AND_STILL,
    SETTLING_STEPS,
    close_env,
    forget_finger_command,
    matched_versions,
    seeded,
    use_fast_visuals,
)
from .assets import REINSTALL
from .suites import ENV_SEED, LiberoTask

_PLACEMENT_TRIALS = 100


class LiberoEnv:
    """The environment of one task; assets and renderer must have been chosen before.

    :param fast_size: side of the images for which :func:`~.panda.use_fast_visuals` is applied; 0
        leaves shadows and multisampling as LIBERO has them.
    """

    def __init__(self, task: LiberoTask, render: bool, fast_size: int) -> None:
        self.task, self._render = task, render
        self.states = task.initial_states()
        self.env: Any = None
        try:
            with seeded(ENV_SEED), contextlib.redirect_stdout(io.StringIO()):
                self.env = _make(task.bddl_file)
                self._place_fixtures(render)
            width = self.env.sim.model.nq + self.env.sim.model.nv + 1
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
            use_fast_visuals(self.env.sim, fast_size)

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
            close_env(self.env, self._render and self._has_context())

    def _has_context(self) -> bool:
        return getattr(self.sim, '_render_context_offscreen', None) is not None

    def _place_fixtures(self, render: bool) -> None:
        """Draw the fixtures' places once, as the first episode after ``env.seed`` has them.

        OpenVLA-OFT seeds an environment once, so its fixtures move by a centimetre from episode to
        episode; here they stay, and an episode follows from task and initial state alone. The
        objects' places come from the initial state in both.
        """
        from robosuite.utils.errors import RandomizationError

        self.env.has_offscreen_renderer = render
        self.env.seed(ENV_SEED)
        for _ in range(_PLACEMENT_TRIALS):
            try:
                self.env.reset()
                break
            except RandomizationError:
                continue
        else:
            raise VlaPruneError(
                f'{self.task.name}: objects do not fit into their regions',
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
        raise VlaPruneError(
            f'LIBERO task file {bddl_file} is missing',
            REINSTALL,
        )
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
            camera_names=['agentview', 'robot0_eye_in_hand'],
        )
