"""Simulators by name."""

from collections.abc import Sequence
from typing import Any

from ..errors import VlaPruneError
from .libero.suites import SUITES
from .scene import Scene

SIMULATORS = ('two_cubes', *SUITES)


def make_scene(simulator: str = 'two_cubes', tasks: Sequence[str] = (), **options: Any) -> Scene:
    """Open a simulator.

    :param tasks: names of its tasks; the episode of a seed has task ``seed % len(tasks)``. Empty:
        the simulator's own choice.
    :param options: passed on to the scene, for example ``image_size``, ``gl`` or ``render``.
    """
    if simulator not in SIMULATORS:
        raise VlaPruneError(
            f'simulator {simulator!r} is unknown', f'choose from {", ".join(SIMULATORS)}'
        )
    if simulator in SUITES:
        from .libero.scene import LiberoScene

        return LiberoScene(simulator, tasks, **options)
    from .two_cubes import PICK_TASKS, TwoCubeScene

    return TwoCubeScene(tasks=tasks or PICK_TASKS, **options)
