"""When a task of the two-cube scene counts as done, and when the wrong cube was touched.

Expected values: the cubes' edges (40 and 50 mm, robosuite's Stack scene) and closed-form geometry;
the base's upper face as a polygon, not as a rotated frame; MuJoCo's own contacts.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.sim.two_cubes import TASKS, Cube, TwoCubeScene

TABLE_Z = 0.8
STILL = np.array([0.0] * 6 + [-1.0])
HALF = {'red': 0.020, 'green': 0.025}
FAR = {'red': (-0.05, -0.08), 'green': (0.08, 0.08)}
PAIRS = [('red', 'green'), ('green', 'red')]


def cube(colour, position, touching=('table',), yaw=0.0, speed=0.0, rest=None):
    c, s = math.cos(yaw), math.sin(yaw)
    at_rest = np.array([*FAR[colour], TABLE_Z + HALF[colour]])
    return Cube(
        position=np.array(position),
        rotation=np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]),
        rest=at_rest if rest is None else np.array(rest),
        half_m=HALF[colour],
        speed_m_s=speed,
        touching=frozenset(touching),
    )


def stacked(top, base, aside=(0.0, 0.0), gap=0.0, yaw=0.0, touching=None, speed=0.0):
    """The top cube ``gap`` above the base, its centre ``aside`` from the base's."""
    z = TABLE_Z + 2 * HALF[base] + HALF[top] + gap
    return {
        top: cube(top, [*aside, z], touching or (base,), speed=speed),
        base: cube(base, [0.0, 0.0, TABLE_Z + HALF[base]], ('table', top), yaw=yaw),
    }


@pytest.mark.parametrize(('top', 'base'), PAIRS)
def test_stack_needs_the_cube_to_lie_free_and_still_on_the_other(top, base):
    task = TASKS[f'stack_{top}_on_{base}']
    assert task.success(stacked(top, base))
    assert not task.success(stacked(top, base, gap=0.006))
    assert not task.success(stacked(top, base, touching=('finger1',)))
    assert not task.success(stacked(top, base, speed=0.06))
    for held in ('finger1', 'finger2', 'robot'):
        cubes = stacked(top, base, touching=(base, held))
        assert task.reached(cubes) and not task.success(cubes)
    assert not TASKS[f'stack_{base}_on_{top}'].success(stacked(top, base))


@pytest.mark.parametrize(('top', 'base'), PAIRS)
@given(
    along=st.floats(-0.05, 0.05), across=st.floats(-0.05, 0.05), yaw=st.floats(-math.pi, math.pi)
)
def test_stack_asks_for_the_centre_over_the_bases_upper_face(top, base, along, across, yaw):
    half = HALF[base] * math.sqrt(2.0)
    angles = yaw + math.pi / 4 + math.pi / 2 * np.arange(4)
    corners = half * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    edges = np.roll(corners, -1, axis=0) - corners
    to_point = np.array([along, across]) - corners
    left_of = edges[:, 0] * to_point[:, 1] - edges[:, 1] * to_point[:, 0]
    if np.abs(left_of).min() < 1e-9:
        return  # on the edge itself
    cubes = stacked(top, base, aside=(along, across), yaw=yaw)
    assert TASKS[f'stack_{top}_on_{base}'].success(cubes) == bool((left_of > 0).all())


@pytest.mark.parametrize('colour', HALF)
@pytest.mark.parametrize(
    ('y', 'above', 'touching', 'done'),
    [
        (0.16, 0.0, ('table',), True),
        (0.14, 0.0, ('table',), False),
        (-0.16, 0.0, ('table',), False),
        (0.16, 0.01, (), False),
        (0.16, 0.0, ('table', 'finger1', 'finger2'), False),
    ],
)
def test_place_asks_for_the_cube_on_the_left_of_the_table(colour, y, above, touching, done):
    cubes = {
        name: cube(name, [0.0, -0.2, TABLE_Z + half], ('table',)) for name, half in HALF.items()
    }
    cubes[colour] = cube(colour, [0.0, y, TABLE_Z + HALF[colour] + above], touching)
    assert TASKS[f'place_{colour}_left'].success(cubes) is done
    other = next(name for name in HALF if name != colour)
    assert not TASKS[f'place_{other}_left'].success(cubes)


def ask(scene, name):
    """Reset to an episode of that task."""
    scene.reset(list(TASKS).index(name))
    assert scene.task is TASKS[name] and not scene.success()


@pytest.mark.parametrize(('top', 'base'), PAIRS)
def test_stack_in_the_simulator(scene, put, top, base):
    ask(scene, f'stack_{top}_on_{base}')
    for aside, gap, speed_z, done in (
        (0.0, 0.002, 0.0, False),  # touches nothing
        (0.0, -3e-4, -0.2, False),
        (HALF[base] + 0.002, -3e-4, 0.0, False),
        (HALF[base] - 0.005, -3e-4, 0.0, True),
    ):
        put(scene, base, (0.0, 0.0, TABLE_Z + HALF[base] - 1e-4))
        z = TABLE_Z + 2 * HALF[base] + HALF[top] + gap
        put(scene, top, (aside, 0.0, z), speed_z)
        assert scene.success() is done
    for _ in range(20):
        scene.step(STILL)
    assert scene.success()  # a centre over the face stays there


@pytest.mark.parametrize('colour', HALF)
def test_contacts_with_fingers_and_table_are_seen(scene, put, colour):
    scene.reset(0)
    assert scene.cubes()[colour].touching == {'table'} and scene.cubes()[colour].released
    scene.step(-STILL)
    pads = [f'gripper0_finger{i}_pad_collision' for i in (1, 2)]
    ends = np.array([scene.env.sim.data.get_geom_xpos(pad) for pad in pads])
    put(scene, colour, ends[0])
    assert 'finger1' in scene.cubes()[colour].touching and not scene.cubes()[colour].released
    for _ in range(12):
        put(scene, colour, scene.state().ee_position - [0.0, 0.0, 0.011])
        scene.step(-STILL)
    assert scene.cubes()[colour].between_fingers


@pytest.mark.parametrize(
    ('colour', 'shift', 'found'),
    [
        ('green', (0.0, 0.0, 0.06), 'lifted'),
        ('green', (0.0, 0.0, 0.04), ''),
        ('green', (0.025, 0.025, 0.0), 'pushed'),
        ('green', (0.02, 0.02, 0.0), ''),
        ('red', (0.0, 0.0, 0.06), ''),
    ],
)
def test_wrong_object_is_the_other_cube_lifted_or_pushed(scene, put, colour, shift, found):
    ask(scene, 'pick_red')
    assert scene.wrong_object() == ''
    put(scene, colour, scene.cube_position(colour) + shift)
    assert scene.wrong_object() == found


def test_wrong_object_is_kept_until_the_reset(scene, put):
    ask(scene, 'pick_red')
    rest = scene.cube_position('green')
    for shift, found in (([0.04, 0.0, 0.0], 'pushed'), ([0.0, 0.0, 0.1], 'lifted')):
        put(scene, 'green', rest + shift)
        scene.step(STILL)
        put(scene, 'green', rest)
        scene.step(STILL)
        assert scene.wrong_object() == found
    scene.reset(0)
    assert scene.wrong_object() == ''


def test_the_left_is_on_the_left_of_the_image_that_the_policy_sees(scene):
    sim = scene.env.sim
    camera = sim.model.camera_name2id('agentview')
    axes, origin = sim.data.cam_xmat[camera].reshape(3, 3), sim.data.cam_xpos[camera]
    half_view = math.tan(math.radians(sim.model.cam_fovy[camera]) / 2)
    for x in (-0.1, 0.1):
        right, up, back = axes.T @ (np.array([x, 0.19, TABLE_Z + 0.02]) - origin)
        # Turned by 180 degrees the bottom-up image stands upright and is mirrored.
        assert -0.95 < -right / -back / half_view < -0.2
        assert abs(up / -back / half_view) < 0.95


def test_where_things_lie_follows_from_the_seed_whatever_the_task(scene):
    other = TwoCubeScene(tasks=('stack_green_on_red', 'place_red_left'), render=False)
    for seed in (7, 8):
        scene.reset(seed)
        other.reset(seed)
        for colour in HALF:
            np.testing.assert_array_equal(scene.cube_position(colour), other.cube_position(colour))
        assert other.task is TASKS['place_red_left' if seed % 2 else 'stack_green_on_red']
        assert other.instruction == other.task.instruction
    other.close()


@pytest.mark.parametrize(('tasks', 'named'), [(('pick_blue',), "'pick_blue'"), ((), 'no task')])
def test_unknown_tasks_are_named(tasks, named):
    with pytest.raises(VlaPruneError, match=named) as error:
        TwoCubeScene(tasks=tasks, render=False)
    assert 'stack_red_on_green' in str(error.value)
