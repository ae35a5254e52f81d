"""The scene with all its tasks, not rendered: what predicates and expert are tried on."""

import pytest

from vla_prune_ros.sim.two_cubes import TASKS


@pytest.fixture(scope='module')
def scene(renderer):
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(tasks=tuple(TASKS), render=False)
    yield scene
    scene.close()
