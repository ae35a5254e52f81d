"""The scene with all its tasks, not rendered: what predicates and expert are tried on."""

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.rendering import apply_gl
from vla_prune_ros.sim.tasks import TASKS


@pytest.fixture(scope='module')
def scene():
    pytest.importorskip('robosuite', reason='the sim extra is not installed')
    try:
        apply_gl()
    except VlaPruneError as error:
        pytest.skip(str(error))
    from vla_prune_ros.sim.robosuite_scene import TwoCubeScene

    scene = TwoCubeScene(tasks=tuple(TASKS), render=False)
    yield scene
    scene.close()
