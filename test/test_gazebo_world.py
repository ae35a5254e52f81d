"""The world of Gazebo against SDFormat 1.9 and against itself: frames, names, topics.

``test/data/sdformat_1_9.yaml`` is a transcription of the specification, not the specification.
Where SDFormat's own parser is installed (``gz sdf``, ``ign sdf``, or Debian's library of it), it
reads the file as well. Cubes, table and cameras are compared with robosuite's Stack scene.
"""

import ctypes.util
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[1]
WORLD = ROOT / 'gazebo' / 'tabletop.sdf'
SPEC = yaml.safe_load((ROOT / 'test/data/sdformat_1_9.yaml').read_text(encoding='utf-8'))
NUMBERS = {'vector3': 3, 'vector2d': 2, 'pose': 6, 'color': 4, 'double': 1, 'float': 1}
FREE = 'plugin'  # its children are the plugin's own
# Systems of gz-sim 8 (Harmonic), gz::sim::systems::NAME, and the parameters that the world uses
# of them, from its headers; the library of JointStatePublisher is
# gz-sim-joint-state-publisher-system.
JOINT = ('topic', 'joint_name', 'initial_position')
SYSTEMS = {
    'Physics': {},
    'UserCommands': {},
    'SceneBroadcaster': {},
    'Sensors': {'render_engine'},
    'JointStatePublisher': {'topic', 'joint_name'},
    'PosePublisher': {
        *('publish_link_pose', 'publish_model_pose', 'publish_nested_model_pose'),
        *('use_pose_vector_msg', 'update_frequency'),
    },
    'JointTrajectoryController': {
        *(*JOINT, 'position_p_gain', 'position_cmd_min', 'position_cmd_max'),
    },
    'JointPositionController': {*JOINT, 'p_gain', 'i_gain', 'd_gain', 'cmd_min', 'cmd_max'},
}


@pytest.fixture
def root() -> xml.Element:
    return xml.parse(WORLD).getroot()


def numbers(text: str | None) -> list[float]:
    return [float(word) for word in (text or '').split()]


def value_fault(kind: str, text: str) -> str:
    """What is wrong with a value of a type of the specification; empty where nothing is."""
    text = text.strip()
    if kind in NUMBERS:
        try:
            good = len(numbers(text)) == NUMBERS[kind] and np.isfinite(numbers(text)).all()
        except ValueError:
            good = False
    elif kind == 'bool':
        good = text in ('true', 'false', '1', '0')
    elif kind in ('int', 'unsigned int'):
        good = re.fullmatch(r'-?\d+' if kind == 'int' else r'\d+', text) is not None
    else:
        good = bool(text)
    return '' if good else f'{text!r} is no {kind}'


def faults(element: xml.Element, row: str) -> list[str]:
    """Where an element and everything in it departs from the table."""
    if row == FREE:
        return [] if set(element.attrib) == {'name', 'filename'} else ['plugin: attributes']
    rules = SPEC.get(row)
    if rules is None:
        fault = value_fault(row, element.text or '')
        return [f'{element.tag}: {fault}'] if fault else []
    attributes, children = rules.get('attributes', {}), rules.get('children', {})
    found = [f'{row}: attribute {a}' for a in set(element.attrib) - set(attributes)]
    found += [
        f'{row}: lacks attribute {a}'
        for a, needed in attributes.items()
        if needed == '1' and a not in element.attrib
    ]
    for name, rule in children.items():
        many, count = rule[0], len(element.findall(name))
        if (count > 1 and many != '*') or (count == 0 and many == '1'):
            found.append(f'{row}: {count} times {name}')
    if 'type' in rules:
        fault = value_fault(rules['type'], element.text or '')
        found += [f'{element.tag}: {fault}'] if fault else []
    for child in element:
        if child.tag not in children:
            found.append(f'{row}: element {child.tag}')
        else:
            found += faults(child, children[child.tag][2:])
    return found


def test_the_world_keeps_to_sdformat(root):
    assert root.tag == 'sdf' and root.get('version') == '1.9'
    assert faults(root, 'sdf') == []


def own_parser() -> list[str]:
    """Command that reads a file with SDFormat's own parser and fails where it finds errors."""
    for program in ('gz', 'ign'):
        if shutil.which(program):
            return [program, 'sdf', '--check']
    for version in (16, 15, 14, 13, 12):
        library = ctypes.util.find_library(f'sdformat{version}')
        if library:  # what the command line calls
            call = 'sys.exit(ctypes.CDLL(sys.argv[1]).cmdCheck(sys.argv[2].encode()))'
            return [sys.executable, '-c', f'import ctypes, sys; {call}', library]
    return []


def test_sdformats_own_parser_takes_the_world():
    command = own_parser()
    if not command:
        pytest.skip('no SDFormat: apt install libsdformat12-12, or Gazebo')
    done = subprocess.run([*command, str(WORLD)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and 'Error' not in done.stderr, done.stdout + done.stderr


def test_systems_are_those_of_gz_sim_and_take_their_parameters(root):
    for plugin in root.iter('plugin'):
        space, _, name = plugin.get('name').rpartition('::')
        library = re.sub('(?<!^)(?=[A-Z])', '-', name).lower()
        assert space == 'gz::sim::systems'
        assert plugin.get('filename') == f'gz-sim-{library}-system'
        assert {child.tag for child in plugin} <= set(SYSTEMS[name]), name


def test_names_are_unique_among_siblings_and_within_the_arm(root):
    def unique(parent, *tags):
        names = [child.get('name') for tag in tags for child in parent.findall(tag)]
        assert len(names) == len(set(names)), names

    for parent in root.iter():
        for tag in ('model', 'link', 'joint', 'sensor', 'collision', 'visual', 'light'):
            unique(parent, tag)
    unique(root.find("world/model[@name='panda']"), 'link', 'joint', 'model')


def test_frames_that_poses_refer_to_exist(root):
    for model in root.iter('model'):
        frames = {child.get('name') for child in model if child.get('name')}
        for pose in (p for child in model for p in child.findall('pose')):
            assert pose.get('relative_to', '__model__') in frames | {'__model__'}


def model_pose(root: xml.Element, name: str) -> np.ndarray:
    return np.array(numbers(root.find(f"world/model[@name='{name}']/pose").text))


@pytest.mark.parametrize(('name', 'side'), [('red_cube', 0.04), ('green_cube', 0.05)])
def test_cubes_lie_on_the_table_within_reach(root, name, side):
    x, y, z = model_pose(root, name)[:3]
    top = model_pose(root, 'table')[2] + 0.05 / 2
    assert z - side / 2 == pytest.approx(top, abs=1e-9)
    size = root.findtext(f"world/model[@name='{name}']/link/collision/geometry/box/size")
    assert numbers(size) == [side] * 3
    # robosuite places them within 0.1 m of the table's centre, 0.56 m before the base.
    assert abs(x - 0.56) <= 0.1 and abs(y) <= 0.1


def mujoco_view(quat_wxyz: list[float]) -> np.ndarray:
    """Axes of a Gazebo camera (x forward, y left, z up) for MuJoCo's (-z forward, x right)."""
    right, up, back = Rotation.from_quat(np.roll(quat_wxyz, -1)).as_matrix().T
    return np.stack((-back, -right, up), axis=1)


def rotation(pose: np.ndarray) -> np.ndarray:
    """SDFormat's roll, pitch, yaw: about fixed axes, x first."""
    return Rotation.from_euler('xyz', pose[3:]).as_matrix()


def test_cameras_stand_where_robosuites_do(root):
    # robosuite 1.4, arena of Stack: agentview; base of the robot at (-0.56, 0, 0.912).
    pose = model_pose(root, 'primary_camera')
    np.testing.assert_allclose(pose[:3], np.array([0.5, 0, 1.35]) - [-0.56, 0, 0.912], atol=1e-9)
    view = mujoco_view([0.65309797, 0.27104066, 0.27104066, 0.65309797])
    np.testing.assert_allclose(rotation(pose), view, atol=1e-4)
    # robots/panda/robot.xml: camera eye_in_hand of the body right_hand, along the fingers.
    pose = np.array(numbers(root.find(".//sensor[@name='wrist']").findtext('pose')))
    np.testing.assert_allclose(pose[:3], [0.05, 0, 0])
    np.testing.assert_allclose(rotation(pose), mujoco_view([0, 0.707108, 0.707108, 0]), atol=1e-5)


def test_cameras_have_robosuites_field_of_view_and_the_policys_rate(root):
    views = {s.get('name'): s for s in root.iter('sensor')}
    assert set(views) == {'primary', 'wrist'}
    for name, degrees in (('primary', 45.0), ('wrist', 75.0)):
        camera = views[name].find('camera')
        assert float(camera.findtext('horizontal_fov')) == pytest.approx(np.radians(degrees))
        assert camera.findtext('image/width') == camera.findtext('image/height') == '256'
        assert camera.findtext('image/format') == 'R8G8B8'  # the bridge makes rgb8 of it
        assert views[name].findtext('update_rate') == '20'
