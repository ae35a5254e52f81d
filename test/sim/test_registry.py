"""The one door to simulators: names, tasks, options, and what is said to a wrong name."""

import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.registry import SIMULATORS, make_scene


def test_an_unknown_simulator_is_refused_with_the_names_of_the_others():
    with pytest.raises(VlaPruneError) as error:
        make_scene('three_cubes')
    text = str(error.value)
    assert "'three_cubes'" in text and 'two_cubes' in text
    assert all(name in text for name in SIMULATORS)


def test_a_real_scene_has_the_tasks_in_turn(renderer):
    with pytest.raises(VlaPruneError, match="'fly'"):
        make_scene('two_cubes', ['fly'], render=False)
    scene = make_scene('two_cubes', ['stack_red_on_green', 'pick_green'], render=False)
    try:
        found = []
        for seed in (0, 1, 2):
            scene.reset(seed)
            found.append(scene.instruction)
    finally:
        scene.close()
    stack, pick = 'stack the red cube on the other cube', 'pick up the green cube'
    assert found == [stack, pick, stack]
