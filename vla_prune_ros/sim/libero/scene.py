"""LIBERO's tasks as a scene: fixed initial states, published step limits, BDDL goals."""

import atexit
import contextlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ...errors import VlaPruneError
from ..panda import PandaScene
from .assets import INSTALL, find_assets, libero_version, use_assets
from .env import LiberoEnv
from .suites import MAX_STEPS, LiberoTask, suite_tasks

KEPT_ENVS = 3  # one with its OpenGL context needs memory, another takes time to make


class LiberoScene(PandaScene):
    """The tasks of one LIBERO suite.

    The episode of a seed has task ``seed % n`` of the n tasks and fixed initial state ``seed //
    n`` modulo their number (50): seeds 0 .. 50 n - 1 are the published protocol.

    :param tasks: names or numbers of the suite's tasks; none: all of them.
    :param assets: as for :func:`~.assets.find_assets`.
    :param fast_visuals: None: with generated assets only; published policies were trained on
        images that have shadows and reflections.
    """

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

    def _open(self, task: LiberoTask) -> LiberoEnv:
        if task.name in self._envs:
            self._envs.move_to_end(task.name)
            return self._envs[task.name]
        while len(self._envs) >= KEPT_ENVS:
            self._envs.popitem(last=False)[1].close()
        use_assets(self._assets)
        fast_size = self.image_size if self.fast_visuals else 0
        self._envs[task.name] = LiberoEnv(task, self._render, fast_size)
        return self._envs[task.name]


def _import_libero() -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import libero.libero.envs  # noqa: F401
    except ImportError as error:
        raise VlaPruneError(f'LIBERO cannot be imported ({error})', INSTALL) from None
