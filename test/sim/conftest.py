import pytest

from vla_prune_ros.sim.two_cubes import TASKS, TwoCubeScene


@pytest.fixture(scope='module')
def scene(renderer):
    """With all its tasks, not rendered: what predicates and expert are tried on."""
    scene = TwoCubeScene(tasks=tuple(TASKS), render=False)
    yield scene
    scene.close()


@pytest.fixture(scope='session')
def put():
    """Puts a cube somewhere, upright."""

    def put(scene, colour, position, speed_z=0.0):
        sim, joint = scene.env.sim, {'red': 'cubeA_joint0', 'green': 'cubeB_joint0'}[colour]
        sim.data.set_joint_qpos(joint, [*position, 1.0, 0.0, 0.0, 0.0])
        sim.data.set_joint_qvel(joint, [0.0, 0.0, speed_z, 0.0, 0.0, 0.0])
        sim.forward()

    return put
