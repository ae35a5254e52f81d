"""LIBERO's tasks as a scene: episodes, goals, labels, environments that are kept, the expert.

Expected values: the files of initial states, the goals as the BDDL files state them ("on the
plate": touching it and within 3 cm; "open": beyond 14 cm), and running the same episode twice.
"""

import re
from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.libero.expert import libero_expert_action
from vla_prune_ros.sim.libero.scene import LiberoScene
from vla_prune_ros.sim.scene import SIMULATORS, make_scene

pytestmark = [pytest.mark.libero, pytest.mark.usefixtures('renderer')]
if not (find_spec('libero') and find_spec('bddl') and find_spec('robosuite')):
    pytest.skip('robosuite, hf-libero or bddl is not installed', allow_module_level=True)

SIZE = 128
BETWEEN = 'pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate'
STILL = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
BOWL, PLATE = 'akita_black_bowl_1', 'plate_1'


def open_scene(*arguments, **options):
    return LiberoScene(*arguments, assets='generated', image_size=SIZE, **options)


@pytest.fixture(scope='module')
def scene():
    """Two tasks of libero_spatial, rendered."""
    scene = open_scene('libero_spatial', [BETWEEN, '2'])
    yield scene
    scene.close()


def put(scene, name, position):
    """Set an object down somewhere, at rest, in the orientation that it has."""
    sim = scene.env.sim
    pose = sim.data.get_joint_qpos(f'{name}_joint0').copy()
    pose[:3] = position
    sim.data.set_joint_qpos(f'{name}_joint0', pose)
    sim.data.set_joint_qvel(f'{name}_joint0', np.zeros(6))
    sim.forward()


def settle(scene, steps=6):
    for _ in range(steps):
        scene.step(STILL)


def test_same_seed_same_episode_whatever_came_before(scene):
    def episode():
        scene.reset(3)
        assert np.abs(scene.state().joint_positions[7:]).min() > 0.03  # the gripper is open
        for _ in range(4):
            scene.step(np.array([0.3, -0.2, -0.4, 0.0, 0.0, 0.5, 1.0]))
        return vars(scene.state()), scene.images(), scene.env.body_position(BOWL)

    first = episode()
    scene.reset(2)
    for _ in range(6):
        scene.step(np.array([1.0, 1.0, -1.0, 0.5, 0.5, 0.5, 1.0]))
    np.testing.assert_equal(episode(), first)


@pytest.mark.parametrize(
    ('seed', 'task', 'state'), [(0, 0, 0), (3, 1, 1), (99, 1, 49), (100, 0, 0)]
)
def test_a_seed_names_task_and_initial_state(scene, seed, task, state):
    scene.reset(seed)
    assert scene.task is scene.tasks[task] and scene.initial_state == state
    # time, then seven joints of the arm: a second of settling moves them by some hundredths
    wanted = scene.task.initial_states()[state][1:8]
    np.testing.assert_allclose(scene.state().joint_positions[:7], wanted, atol=0.06)
    at = 1 + scene.env.sim.model.get_joint_qpos_addr(f'{BOWL}_joint0')[0]
    start = scene.task.initial_states()[state][at : at + 2]
    np.testing.assert_allclose(scene.env.body_position(BOWL)[:2], start, atol=0.015)
    assert scene.time_s == 0.0 and not scene.success()


def test_instruction_limit_labels_and_state(scene):
    scene.reset(0)
    assert scene.instruction == BETWEEN.replace('_', ' ')
    assert scene.max_steps == 220 and scene.control_hz == 20.0
    assert scene.cameras == ('primary', 'wrist')
    assert scene.generated_assets is True
    assert 'not comparable with published results' in scene.description
    state, observed = scene.state(), scene.env.env._get_observations(force_update=True)
    np.testing.assert_allclose(state.ee_position, observed['robot0_eef_pos'], atol=1e-9)
    np.testing.assert_allclose(state.ee_quat_xyzw, observed['robot0_eef_quat'], atol=1e-9)
    np.testing.assert_allclose(state.joint_positions[7:], observed['robot0_gripper_qpos'])


def test_the_bowl_on_the_plate_is_success_and_beside_it_is_not(scene):
    scene.reset(0)
    plate = scene.env.body_position(PLATE)
    put(scene, BOWL, plate + [0.0, 0.0, 0.02])
    settle(scene)
    assert scene.success()
    put(scene, BOWL, plate + [0.0, 0.16, 0.02])
    settle(scene)
    assert not scene.success()
    put(scene, BOWL, plate + [0.0, 0.0, 0.15])
    assert not scene.success()  # above, but not touching
    put(scene, 'akita_black_bowl_2', plate + [0.0, 0.0, 0.02])
    put(scene, BOWL, plate + [0.0, 0.16, 0.02])
    settle(scene)
    assert not scene.success()  # the other bowl


def test_fixtures_stay_where_they_are(scene):
    places = []
    for seed in (0, 2, 40):
        scene.reset(seed)
        places.append(scene.env.body_position('wooden_cabinet_1'))
    np.testing.assert_array_equal(places, [places[0]] * 3)
    # The region of the task file, 1 cm about this place.
    np.testing.assert_allclose(places[0][:2], [0.03, -0.27], atol=0.0101)


@pytest.mark.slow
def test_drawers_stove_and_few_environments():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    scene = open_scene(
        'libero_goal', ['open_the_middle_drawer_of_the_cabinet', '7', '6', '9'], render=False
    )
    assert np.random.rand() == expected
    try:
        assert scene.max_steps == 300
        sim, first = scene.env.sim, scene.env
        for joint, value, open_ in (
            ('middle', -0.15, True),
            ('middle', -0.10, False),
            ('top', -0.15, False),
        ):
            scene.reset(0)
            sim.data.set_joint_qpos(f'wooden_cabinet_1_{joint}_level', value)
            sim.forward()
            assert scene.success() is open_
        scene.reset(1)
        assert scene.instruction == 'turn on the stove' and not scene.success()
        scene.env.sim.data.set_joint_qpos('flat_stove_1_button', 1.0)
        assert scene.success()
        with pytest.raises(VlaPruneError, match='render=True'):
            scene.images()
        for seed in (2, 3):
            scene.reset(seed)
        assert first.sim is None  # the oldest of more than three made room
    finally:
        scene.close()
        scene.close()


def test_unknown_tasks_and_simulators_are_refused():
    assert set(SIMULATORS) > {'libero_spatial', 'libero_object', 'libero_goal', 'libero_10'}
    with pytest.raises(VlaPruneError, match='libero_goal has no task .stack.'):
        make_scene('libero_goal', ['stack'], assets='generated', render=False)
    with pytest.raises(VlaPruneError, match='libero_100.*choose from two_cubes'):
        make_scene('libero_100')


@pytest.mark.slow
@pytest.mark.parametrize('suite', ['libero_spatial', 'libero_object', 'libero_goal', 'libero_10'])
def test_tasks_build_start_unsolved_and_can_be_seen(suite):
    """Every third task, and each that brings an object or a fixture of a new kind."""
    seen = set()
    with closing(open_scene(suite)) as scene:
        for seed, task in enumerate(scene.tasks):
            kinds = set(re.findall(r' - (\w+)', task.bddl_file.read_text(encoding='utf-8')))
            if kinds <= seen and seed % 3:
                continue
            seen |= kinds
            scene.reset(seed)
            assert not scene.success(), scene.instruction
            state = scene.state()
            assert np.isfinite(state.joint_positions).all()
            for name in scene.env.env.objects_dict:
                # Nothing fell down or was thrown about while it settled.
                at = scene.env.sim.model.get_joint_qpos_addr(f'{name}_joint0')[0]
                start = scene.env.states[0][1 + at : 4 + at]
                moved = scene.env.body_position(name) - start
                assert np.hypot(*moved[:2]) < 0.04 and -0.17 < moved[2] < 0.01, name
            assert all(image.std() > 10 for image in scene.images().values())


@pytest.mark.parametrize('task', ['0', pytest.param('2', marks=pytest.mark.slow)])
def test_the_expert_puts_the_bowl_onto_the_plate(task):
    with closing(open_scene('libero_spatial', [task], render=False)) as scene:
        for _ in range(scene.max_steps):
            action = libero_expert_action(scene)
            assert action.shape == (7,) and np.abs(action).max() <= 1.0
            # The same state again, the same action: nothing is kept from step to step.
            np.testing.assert_array_equal(action, libero_expert_action(scene))
            scene.step(action)
            if scene.success():
                return
    pytest.fail('the bowl is not on the plate')


def test_the_expert_refuses_other_suites():
    refused = pytest.raises(VlaPruneError, match='no task of libero_object.*libero_spatial')
    with closing(open_scene('libero_object', ['0'], render=False)) as scene, refused:
        libero_expert_action(scene)
