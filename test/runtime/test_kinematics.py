"""Velocity of an arm's tip, against central differences of a forward kinematics that these tests
compute themselves from the URDF: products of homogeneous transforms, rotations by scipy.

Against MuJoCo: ``test_motion_in_the_scene.py``.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_prune_ros.errors import InputRefused, ProfileError
from vla_prune_ros.runtime.motion import ArmKinematics

pytest.importorskip('pinocchio', reason='needs the extra motion')

LIMIT = '<limit lower="-3" upper="3" effort="1" velocity="1"/>'
XACRO = 'xmlns:xacro="http://www.ros.org/wiki/xacro"'
angles = st.floats(-20, 20)  # a continuous joint makes whole turns
rates = st.floats(-2, 2)


def joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    xyz: str = '0 0 0',
    rpy: str = '0 0 0',
    axis: str = '0 0 1',
    more: str = '',
) -> str:
    return (
        f'<joint name="{name}" type="{kind}"><origin xyz="{xyz}" rpy="{rpy}"/>'
        f'<parent link="{parent}"/><child link="{child}"/><axis xyz="{axis}"/>{LIMIT}{more}'
        '</joint>'
    )


def robot(*joints: str) -> str:
    """A URDF with a mesh that exists nowhere on every link."""
    root = ElementTree.fromstring(f'<robot>{"".join(joints)}</robot>')
    links = {e.get('link') for tag in ('parent', 'child') for e in root.iter(tag)}
    mesh = '<visual><geometry><mesh filename="package://nowhere/a.dae"/></geometry></visual>'
    body = ''.join(f'<link name="{name}">{mesh}</link>' for name in sorted(links))
    return f'<?xml version="1.0" encoding="utf-8"?><robot name="r">{body}{"".join(joints)}</robot>'


PLANAR = robot(
    joint('lift', 'prismatic', 'world', 'base', rpy='0.3 0.2 0.1'),
    joint('shoulder', 'revolute', 'base', 'upper', axis='0 -1 0'),
    joint('elbow', 'revolute', 'upper', 'fore', '0.4 0 0', axis='0 -1 0'),
    joint('wrist', 'fixed', 'fore', 'tool', '0.3 0 0'),
    joint('finger', 'prismatic', 'tool', 'finger_tip'),
)
"""In the plane of x and z of its base, which itself rides on a tilted lift."""


def transform(element: ElementTree.Element, position: float) -> np.ndarray:
    """Pose of a joint's child in its parent, homogeneous (4, 4)."""
    xyz, rpy, axis = (
        np.array(element.find(tag).get(key).split(), float)
        for tag, key in (('origin', 'xyz'), ('origin', 'rpy'), ('axis', 'xyz'))
    )
    out, move = np.eye(4), np.eye(4)
    out[:3, :3] = Rotation.from_euler('xyz', rpy).as_matrix()
    out[:3, 3] = xyz
    along = axis / np.linalg.norm(axis) * position
    if element.get('type') in ('revolute', 'continuous'):
        move[:3, :3] = Rotation.from_rotvec(along).as_matrix()
    elif element.get('type') == 'prismatic':
        move[:3, 3] = along
    return out @ move


def link_pose(urdf: str, link: str, where: Mapping[str, float]) -> np.ndarray:
    """Pose of a link in the root."""
    joints = ElementTree.fromstring(urdf).findall('joint')
    parents = {j.find('child').get('link'): j for j in joints}
    out = np.eye(4)
    while link in parents:
        element = parents[link]
        out = transform(element, where[element.get('name')]) @ out
        link = element.find('parent').get('link')
    return out


def difference_twist(
    urdf: str, tip: str, base: str, where: Mapping[str, float], speed: Mapping[str, float]
) -> np.ndarray:
    """Twist of the tip in the base's axes, from poses a moment before and after."""
    h = 1e-5
    poses = []
    for sign in (-1, 0, 1):
        now = {name: q + sign * h * speed.get(name, 0.0) for name, q in where.items()}
        poses.append(np.linalg.inv(link_pose(urdf, base, now)) @ link_pose(urdf, tip, now))
    before, here, after = poses
    spin = (after[:3, :3] - before[:3, :3]) / (2 * h) @ here[:3, :3].T
    linear = (after[:3, 3] - before[:3, 3]) / (2 * h)
    return np.concatenate((linear, [spin[2, 1], spin[0, 2], spin[1, 0]]))


def refusal(*arguments: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        ArmKinematics(*arguments)
    return caught.value


@st.composite
def robots(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A random tree of links l0 ... ln, each hung on an earlier one."""
    joints = []
    count = draw(st.integers(1, 6))
    triple = st.tuples(*[st.floats(-1, 1).map(lambda v: round(v, 3))] * 3)
    for i in range(1, count + 1):
        axis = draw(triple.filter(lambda a: np.linalg.norm(a) > 0.2))
        kind = draw(st.sampled_from(['revolute', 'continuous', 'prismatic', 'fixed']))
        texts = [' '.join(map(str, values)) for values in (draw(triple), draw(triple), axis)]
        parent = draw(st.integers(0, i - 1))
        joints.append(joint(f'j{i}', kind, f'l{parent}', f'l{i}', *texts))
    return robot(*joints), [f'l{i}' for i in range(count + 1)]


@settings(deadline=None, max_examples=80)
@given(robots(), st.data())
def test_random_trees_against_differences_of_poses(case, data):
    urdf, links = case
    tip, base = data.draw(st.sampled_from(links)), data.draw(st.sampled_from(links))
    names = [f'j{i}' for i in range(1, len(links))]
    where = {name: data.draw(angles) for name in names}
    speed = {name: data.draw(rates) for name in names}
    expected = difference_twist(urdf, tip, base, where, speed)
    try:
        arm = ArmKinematics(urdf, tip, base)
    except ProfileError as error:
        assert 'no joint between' in str(error)
        np.testing.assert_allclose(expected, np.zeros(6), atol=1e-9)
        return
    q, v = ([values[name] for name in arm.joints] for values in (where, speed))
    np.testing.assert_allclose(arm.twist(np.array(q), np.array(v)), expected, atol=1e-6)


class TestRead:
    @settings(deadline=None)
    @given(names=st.permutations(['shoulder', 'elbow', 'lift', 'finger', 'other_arm']))
    def test_any_order_and_joints_that_do_not_matter(self, names):
        values = {'shoulder': (0.1, 1.0), 'elbow': (0.2, 2.0)}
        both = [values.get(name, (np.nan, np.inf)) for name in names]
        q, v = ArmKinematics(PLANAR, 'tool', 'base').read(names, *zip(*both, strict=True))
        assert q.tolist() == [0.1, 0.2] and v.tolist() == [1.0, 2.0]

    def test_a_mimic_joint_follows_its_leader_unless_it_was_measured(self):
        rule = '<mimic joint="lead" multiplier="2" offset="0.5"/>'
        follow = joint('follow', 'revolute', 'b', 'c', '1 0 0', more=rule)
        arm = ArmKinematics(robot(joint('lead', 'revolute', 'a', 'b'), follow), 'c')
        q, v = arm.read(['lead'], [0.1], [3.0])
        np.testing.assert_allclose((q, v), [[0.1, 0.7], [3.0, 6.0]])
        q, v = arm.read(['follow', 'lead'], [0.9, 0.1], [5.0, 3.0])
        assert q.tolist() == [0.1, 0.9] and v.tolist() == [3.0, 5.0]
        with pytest.raises(InputRefused, match="'lead'"):
            arm.read(['other'], [0.1], [3.0])


class TestRefusals:
    @pytest.mark.parametrize('tip, base', [('nowhere', ''), ('tool', 'nowhere'), ('elbow', '')])
    def test_an_unknown_link_is_answered_with_those_there_are(self, tip, base):
        """A joint's name is no link, though pinocchio has a frame of that name."""
        error = refusal(PLANAR, tip, base)
        assert repr(base or tip) in error.what and 'finger_tip' in error.remedy

    @pytest.mark.parametrize('kind', ['floating', 'planar'])
    def test_a_joint_that_no_joint_state_describes(self, kind):
        urdf = robot(joint('drift', kind, 'a', 'b'), joint('j', 'revolute', 'b', 'c'))
        error = refusal(urdf, 'c')
        assert "'drift'" in error.what and 'floating or planar' in error.what
        assert ArmKinematics(urdf, 'c', 'b').joints == ('j',)

    @pytest.mark.parametrize(
        'urdf, what',
        [
            ('<robot name="a"', 'not XML'),
            ('<mujoco/>', '<mujoco>'),
            ('<robot name="a"/>', 'pinocchio refuses'),
            ('<robot name="a"><link name="x"/><link name="y"/></robot>', 'pinocchio refuses'),
            (f'<robot {XACRO}><xacro:arm/></robot>', 'xacro macros'),
        ],
    )
    def test_what_is_no_urdf(self, urdf, what):
        assert what in refusal(urdf, 'x').what

    def test_an_unused_xacro_namespace_is_no_macro(self):
        used = PLANAR.replace('<robot', f'<robot {XACRO}', 1)
        assert ArmKinematics(used, 'tool', 'base').joints == ('shoulder', 'elbow')

    @pytest.mark.parametrize('module', [None, ModuleType('pinocchio')])
    def test_without_pinocchio_the_extra_is_named(self, monkeypatch, module):
        """Absent, or the unrelated project that has this name on PyPI."""
        monkeypatch.setitem(sys.modules, 'pinocchio', module)
        error = refusal(PLANAR, 'tool')
        assert 'pinocchio is not installed' in error.what and '[motion]' in error.remedy
