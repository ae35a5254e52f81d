"""The arm of Gazebo's world as a mechanism: inertias, tree, kinematics, and its controllers.

Kinematics are compared with pinocchio on the Panda that robosuite ships as a URDF and as an MJCF.
The controllers are those of gz-sim 8, applied to pinocchio's forward dynamics of the same masses:
a check of the gains, not of Gazebo's contacts or solver.
"""

import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[1]
ARM = [f'panda_joint{i}' for i in range(1, 8)]
FINGERS = ['panda_finger_joint1', 'panda_finger_joint2']
STEP_S = 0.002
# robosuite's URDF has its first joint at (0, -0.1, 0); Franka's arm has it at d1 = 0.333 m.
SHIFT = np.array([0.0, 0.1, 0.333])
# robosuite 1.4, Panda.init_qpos.
START = np.array([0, np.pi / 16, 0, -5 * np.pi / 6, 0, np.pi - 0.2, np.pi / 4])


@pytest.fixture(scope='module')
def world() -> xml.Element:
    return xml.parse(ROOT / 'gazebo' / 'tabletop.sdf').getroot()


@pytest.fixture(scope='module')
def panda(world) -> xml.Element:
    return world.find("world/model[@name='panda']")


@pytest.fixture(scope='module')
def pin():
    return pytest.importorskip('pinocchio', reason='pip install vla_prune_ros[motion]')


def assets() -> Path:
    found = find_spec('robosuite')
    if found is None:
        pytest.skip('no robosuite: pip install vla_prune_ros[sim]')
    return Path(found.origin).parent / 'models' / 'assets'


def transform(pose: xml.Element | None) -> np.ndarray:
    """4 x 4 matrix of ``x y z roll pitch yaw``."""
    values = [float(v) for v in (pose.text or '').split()] if pose is not None else []
    values = values or [0.0] * 6
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler('xyz', values[3:]).as_matrix()
    out[:3, 3] = values[:3]
    return out


def child_joint(panda: xml.Element, link: str) -> xml.Element:
    return next(j for j in panda.findall('joint') if j.findtext('child') == link)


def forward(panda: xml.Element, link: str, q: dict[str, float]) -> np.ndarray:
    """Pose of a link's frame in the frame of panda_link0, after SDFormat's rules for poses."""
    if link == 'panda_link0':
        return np.eye(4)
    joint = child_joint(panda, link)
    parent = joint.findtext('parent')
    pose = joint.find('pose')
    moved = np.eye(4)
    if joint.get('type') != 'fixed':
        axis = np.array([float(v) for v in joint.findtext('axis/xyz').split()])
        angle = q.get(joint.get('name'), 0.0)
        if joint.get('type') == 'revolute':
            moved[:3, :3] = Rotation.from_rotvec(axis * angle).as_matrix()
        else:
            moved[:3, 3] = axis * angle
    if link == 'grip::point':  # the joint has no pose: it sits in the child
        nested = panda.find("model[@name='grip']/pose")
        return forward(panda, nested.get('relative_to'), q) @ transform(nested)
    assert pose.get('relative_to') == parent
    own = panda.find(f"link[@name='{link}']/pose")
    assert own.get('relative_to') == joint.get('name')
    return forward(panda, parent, q) @ transform(pose) @ moved @ transform(own)


def limits(panda: xml.Element, names: list[str], what: str) -> np.ndarray:
    joints = {j.get('name'): j for j in panda.findall('joint')}
    return np.array([float(joints[n].findtext(f'axis/limit/{what}')) for n in names])


def random_angles(panda: xml.Element, seed: int) -> np.ndarray:
    low, high = limits(panda, ARM, 'lower'), limits(panda, ARM, 'upper')
    return np.random.default_rng(seed).uniform(low, high)


def inertia(link: xml.Element) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre of mass and inertia about it."""
    part = link.find('inertial')
    xx, xy, xz, yy, yz, zz = (
        float(part.findtext(f'inertia/{k}')) for k in ('ixx', 'ixy', 'ixz', 'iyy', 'iyz', 'izz')
    )
    matrix = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return float(part.findtext('mass')), transform(part.find('pose'))[:3, 3], matrix


def test_every_moving_body_has_a_physical_inertia_and_cubes_that_of_a_cube(world):
    moving = [m for m in world.iter('model') if m.findtext('static') != 'true']
    links = [link for m in moving for link in m.findall('link')]
    assert len(links) == 8 + 3 + 1 + 2
    for link in links:
        mass, _, matrix = inertia(link)
        principal = np.linalg.eigvalsh(matrix)
        assert mass > 0 and principal[0] > 0, link.get('name')
        assert principal[0] + principal[1] >= principal[2], link.get('name')  # else no body has it
    for name, side in (('red_cube', 0.04), ('green_cube', 0.05)):
        mass, _, matrix = inertia(world.find(f"world/model[@name='{name}']/link"))
        np.testing.assert_allclose(matrix, np.eye(3) * mass * side**2 / 6, rtol=1e-3, atol=1e-12)


def test_every_link_hangs_on_one_joint_and_the_base_on_the_world(panda):
    parents = {j.findtext('child'): j.findtext('parent') for j in panda.findall('joint')}
    assert len(parents) == len(panda.findall('joint'))  # no link hangs on two joints
    names = {link.get('name') for link in panda.findall('link')} | {'grip::point'}
    assert set(parents) == names and set(parents.values()) - names == {'world'}


def test_axes_are_unit_and_nothing_but_cubes_feels_gravity(panda):
    axes = [j.findtext('axis/xyz') for j in panda.findall('joint') if j.get('type') != 'fixed']
    assert len(axes) == 9
    for axis in axes:
        assert np.linalg.norm([float(v) for v in axis.split()]) == pytest.approx(1.0)
    assert all(link.findtext('gravity') == 'false' for link in panda.iter('link'))


@pytest.mark.parametrize('seed', range(5))
def test_kinematics_are_those_of_robosuites_urdf(panda, pin, seed):
    file = assets() / 'bullet_data/panda_description/urdf/panda_arm_hand.urdf'
    model = pin.buildModelFromUrdf(str(file))
    data, q = model.createData(), random_angles(panda, seed)
    fingers = np.random.default_rng(seed).uniform(0, 0.04, 2)
    pin.framesForwardKinematics(model, data, np.concatenate((q, fingers)))
    mine = dict(zip(ARM + FINGERS, [*q, *fingers], strict=True))
    for link in ('panda_link4', 'panda_hand', 'panda_leftfinger', 'panda_rightfinger'):
        expected = data.oMf[model.getFrameId(link)].homogeneous
        expected[:3, 3] += SHIFT
        np.testing.assert_allclose(forward(panda, link, mine), expected, atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_the_grip_point_is_robosuites(panda, seed):
    # Its MJCF rounds the flange to 0.1065 m (Franka: 0.107) and the hand's angle to 3 digits.
    mujoco = pytest.importorskip('mujoco', reason='no MuJoCo: pip install vla_prune_ros[sim]')
    model = mujoco.MjModel.from_xml_path(str(assets() / 'robots/panda/robot.xml'))
    data, q = mujoco.MjData(model), random_angles(panda, seed)
    for i, angle in enumerate(q, 1):
        data.qpos[model.joint(f'joint{i}').qposadr[0]] = angle
    mujoco.mj_kinematics(model, data)
    hand, base = data.body('right_hand'), data.body('link0')
    grip = hand.xpos + 0.097 * hand.xmat.reshape(3, 3)[:, 2] - base.xpos
    pose = forward(panda, 'grip::point', dict(zip(ARM, q, strict=True)))
    np.testing.assert_allclose(pose[:3, 3], grip, atol=2e-3)
    np.testing.assert_allclose(pose[:3, :3], hand.xmat.reshape(3, 3), atol=2e-3)


def test_limits_are_those_of_robosuites_urdf(panda, pin):
    file = assets() / 'bullet_data/panda_description/urdf/panda_arm_hand.urdf'
    joints = {j.get('name'): j.find('limit') for j in xml.parse(file).getroot().findall('joint')}
    for what in ('lower', 'upper', 'effort', 'velocity'):
        expected = [float(joints[n].get(what)) for n in ARM + FINGERS]
        np.testing.assert_allclose(limits(panda, ARM + FINGERS, what), expected)


@pytest.mark.parametrize('seed', range(3))
def test_the_urdf_is_the_arm_of_the_world(panda, pin, seed):
    model = pin.buildModelFromUrdf(str(ROOT / 'gazebo' / 'panda.urdf'))
    assert list(model.names)[1:] == ARM + FINGERS
    np.testing.assert_allclose(model.lowerPositionLimit, limits(panda, ARM + FINGERS, 'lower'))
    np.testing.assert_allclose(model.upperPositionLimit, limits(panda, ARM + FINGERS, 'upper'))
    np.testing.assert_allclose(model.velocityLimit, limits(panda, ARM + FINGERS, 'velocity'))
    data, q = model.createData(), np.concatenate((random_angles(panda, seed), [0.01, 0.03]))
    pin.framesForwardKinematics(model, data, q)
    mine = dict(zip(ARM + FINGERS, q, strict=True))
    for frame, link in (('grip', 'grip::point'), ('panda_rightfinger', 'panda_rightfinger')):
        expected = data.oMf[model.getFrameId(frame)].homogeneous
        np.testing.assert_allclose(forward(panda, link, mine), expected, atol=1e-9)


class Simulated:
    """The arm under its trajectory controller: pinocchio's dynamics, damping taken implicitly."""

    def __init__(self, pin, panda: xml.Element) -> None:
        self.pin, self.model = pin, pin.buildModelFromUrdf(str(ROOT / 'gazebo' / 'panda.urdf'))
        for link in panda.findall('link')[1:]:
            frame = self.model.frames[self.model.getFrameId(link.get('name'))]
            body = pin.Inertia(*inertia(link))
            self.model.appendBodyToJoint(frame.parentJoint, body, frame.placement)
        self.model.gravity = pin.Motion.Zero()
        self.data = self.model.createData()
        arm = panda.find(".//plugin[@name='gz::sim::systems::JointTrajectoryController']")
        assert [e.text for e in arm.findall('joint_name')] == ARM
        tags = ('initial_position', *(f'position_{t}' for t in ('p_gain', 'cmd_min', 'cmd_max')))
        self.start, self.gain, low, high = (
            np.array([float(e.text) for e in arm.findall(tag)]) for tag in tags
        )
        effort = limits(panda, ARM, 'effort')
        np.testing.assert_allclose((low, high), (-effort, effort))
        joints = {j.get('name'): j for j in panda.findall('joint')}
        damping = [float(joints[n].findtext('axis/dynamics/damping')) for n in ARM + FINGERS]
        self.damping, self.effort = np.diag(damping), effort
        self.q, self.v = np.zeros(9), np.zeros(9)

    def step(self, target: np.ndarray) -> None:
        """One step of 2 ms towards arm angles; the fingers hold still."""
        # gz-sim: force = -p_gain * (position - target), clamped.
        force = np.zeros(9)
        force[:7] = np.clip(-self.gain * (self.q[:7] - target), -self.effort, self.effort)
        mass = self.pin.crba(self.model, self.data, self.q)
        mass = np.triu(mass) + np.triu(mass, 1).T
        bias = self.pin.rnea(self.model, self.data, self.q, self.v, np.zeros(9))
        right = mass @ self.v + STEP_S * (force - bias)
        self.v = np.linalg.solve(mass + STEP_S * self.damping, right)
        self.v[7:] = 0.0
        self.q = self.q + STEP_S * self.v

    def grip(self, q: np.ndarray) -> np.ndarray:
        """Position of the grip point, m."""
        self.pin.framesForwardKinematics(self.model, self.data, q)
        return self.data.oMf[self.model.getFrameId('grip')].translation.copy()


def test_the_controller_brings_the_arm_to_robosuites_start_above_the_table(pin, panda):
    simulated = Simulated(pin, panda)
    np.testing.assert_allclose(simulated.start, START, atol=1e-4)
    lowest = np.inf
    for _ in range(1500):
        simulated.step(simulated.start)
        lowest = min(lowest, simulated.grip(simulated.q)[2])
    np.testing.assert_allclose(simulated.q[:7], simulated.start, atol=1e-3)
    assert lowest > -0.112 + 0.05 + 0.05  # the table's top, a cube, and air


def test_the_controller_follows_a_twist_and_stops_without_overshoot(pin, panda):
    arm = Simulated(pin, panda)
    arm.q[:7] = arm.start
    target, frame = arm.q.copy(), arm.model.getFrameId('grip')
    lags, speed = [], 0.2
    for i in range(500):
        moving = i < 250
        jacobian = pin.computeFrameJacobian(
            arm.model, arm.data, target, frame, pin.LOCAL_WORLD_ALIGNED
        )[:, :7]
        if moving:
            target[:7] += STEP_S * np.linalg.pinv(jacobian) @ [0, speed, 0, 0, 0, 0]
        arm.step(target[:7])
        lags.append(np.linalg.norm(arm.grip(arm.q) - arm.grip(target)))
    # Steady lag of a proportional controller: damping / gain, at most 0.04 s here.
    assert max(lags) < speed * 0.05 and lags[-1] < 1e-3


@pytest.mark.parametrize('seed', range(4))
def test_the_controller_is_stable_anywhere(pin, panda, seed):
    simulated = Simulated(pin, panda)
    simulated.q[:7] = random_angles(panda, seed)
    target = simulated.q[:7] + 0.05
    for _ in range(500):
        simulated.step(target)
    np.testing.assert_allclose(simulated.q[:7], target, atol=2e-3)


def test_fingers_close_with_a_force_that_their_joints_allow(panda):
    plugins = panda.findall(".//plugin[@name='gz::sim::systems::JointPositionController']")
    assert [p.findtext('joint_name') for p in plugins] == FINGERS
    for plugin, effort in zip(plugins, limits(panda, FINGERS, 'effort'), strict=True):
        assert -float(plugin.findtext('cmd_min')) == float(plugin.findtext('cmd_max')) == effort
        # On a cube of 4 cm each finger stands 2 cm from closed.
        squeeze = min(effort, float(plugin.findtext('p_gain')) * 0.02)
        weight, friction = 400 * 0.05**3 * 9.81, 1.0
        assert 2 * friction * squeeze > 10 * weight
        assert float(plugin.findtext('initial_position')) == limits(panda, FINGERS, 'upper')[0]
