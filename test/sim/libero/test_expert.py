"""The scripted expert of libero_spatial does its tasks on generated assets, by the BDDL goal."""

from importlib.util import find_spec

import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError

pytestmark = [pytest.mark.libero, pytest.mark.usefixtures('renderer')]
if not (find_spec('libero') and find_spec('bddl') and find_spec('robosuite')):
    pytest.skip('robosuite, hf-libero or bddl is not installed', allow_module_level=True)


def open_scene(suite, task):
    from vla_prune_ros.sim.libero.scene import LiberoScene

    return LiberoScene(suite, [task], assets='generated', render=False)


@pytest.mark.parametrize('task', ['0', '2'])
def test_the_expert_puts_the_bowl_onto_the_plate(task):
    from vla_prune_ros.sim.libero.expert import libero_expert_action

    scene = open_scene('libero_spatial', task)
    try:
        for _ in range(scene.max_steps):
            action = libero_expert_action(scene)
            assert action.shape == (7,) and np.abs(action).max() <= 1.0
            # The same state again, the same action: nothing is kept from step to step.
            np.testing.assert_array_equal(action, libero_expert_action(scene))
            scene.step(action)
            if scene.success():
                break
        assert scene.success()
    finally:
        scene.close()


def test_other_suites_are_refused():
    from vla_prune_ros.sim.libero.expert import libero_expert_action

    scene = open_scene('libero_object', '0')
    try:
        with pytest.raises(VlaPruneError, match='no task of libero_object.*libero_spatial'):
            libero_expert_action(scene)
    finally:
        scene.close()
