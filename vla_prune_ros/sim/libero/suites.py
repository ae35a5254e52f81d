"""LIBERO's task suites and the protocol by which results on them are published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import VlaPruneError
from .assets import REINSTALL

# Control steps after settling within which a task must be done (OpenVLA-OFT's
# ``run_libero_eval.py``: longest demonstration of the suite plus a margin).
MAX_STEPS: Mapping[str, int] = {
    'libero_spatial': 220,
    'libero_object': 280,
    'libero_goal': 300,
    'libero_10': 520,
    'libero_90': 400,
}
SUITES = tuple(MAX_STEPS)
ENV_SEED = 0  # of every environment, whatever the episode (same source); it moves the fixtures
TRIALS_PER_TASK = 50  # episodes per task in published results, one per fixed initial state


@dataclass(frozen=True)
class LiberoTask:
    suite: str
    index: int  # in the benchmark's own order
    name: str  # of its files
    # The name as words, with which published policies are trained. The ``:language`` of the BDDL
    # file may differ ("Pick the akita black bowl ...").
    instruction: str
    bddl_file: Path  # objects, regions, initial placement and goal
    states_file: Path

    def initial_states(self) -> np.ndarray:
        """Fixed initial states, float64 (50, 1 + nq + nv): time, positions, velocities."""
        return _load_states(self.states_file)


def suite_tasks(suite: str, names: Sequence[str] = ()) -> tuple[LiberoTask, ...]:
    """LIBERO must have been configured, see :mod:`.assets`.
    :param names: names of tasks or their numbers as text (``'0'`` is the first); none: all."""
    if suite not in MAX_STEPS:
        raise VlaPruneError(f'LIBERO suite {suite!r} is unknown', f'choose from {SUITES}')
    from libero.libero import get_libero_path
    from libero.libero.benchmark import task_maps

    bddl, states = (Path(get_libero_path(key)) for key in ('bddl_files', 'init_states'))
    everything = tuple(
        LiberoTask(
            suite=suite,
            index=index,
            name=task.name,
            instruction=task.language,
            bddl_file=bddl / task.problem_folder / task.bddl_file,
            states_file=states / task.problem_folder / task.init_states_file,
        )
        for index, task in enumerate(task_maps[suite].values())
    )
    by_name = {task.name: task for task in everything}
    by_name |= {str(task.index): task for task in everything}
    for name in names:
        if name not in by_name:
            raise VlaPruneError(
                f'{suite} has no task {name!r}',
                f'name one of its {len(everything)} tasks or a number from 0 to '
                f'{len(everything) - 1}',
            )
    return tuple(by_name[name] for name in names) or everything


def _load_states(path: Path) -> np.ndarray:
    import torch
    from numpy._core.multiarray import _reconstruct

    # An array pickled by torch.save; nothing else is let in, so nothing in it can run.
    allowed: list[Any] = [np.ndarray, np.dtype, type(np.dtype(np.float64))]
    allowed += [(_reconstruct, 'numpy.core.multiarray._reconstruct'), _reconstruct]
    try:
        with torch.serialization.safe_globals(allowed):
            states = np.asarray(torch.load(path, weights_only=True), dtype=np.float64)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VlaPruneError(
            f'initial states {path} cannot be read ({reason})', REINSTALL
        ) from None
    if states.ndim != 2 or not len(states):
        raise VlaPruneError(f'initial states {path} have shape {states.shape}', REINSTALL)
    return states
