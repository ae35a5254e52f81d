"""The robot's parameters. Expected values are those that stand in the files, and those of the
node itself; a robot that was saved is read by the YAML library alone."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.profiles import BRIDGE, LIBERO
from vla_prune_ros.runtime.motion import ActionMotion, PoseMotion
from vla_prune_ros.runtime.params import SessionParams, load_params, save_params

CONFIG = Path(__file__).resolve().parents[2] / 'config'
URDF = 'package://robosuite/models/assets/bullet_data/panda_description/urdf/panda_arm_hand.urdf'


def loaded(tmp_path, text):
    path = tmp_path / 'robot.yaml'
    path.write_text(text, encoding='utf-8')
    return load_params(path)


def parameters(tmp_path, text, node='vla_policy'):
    return loaded(tmp_path, f'{node}: {{ros__parameters: {{{text}}}}}')


def test_the_file_of_a_robot():
    assert load_params(CONFIG / 'robot.yaml') == SessionParams(
        gripper_signs=(1.0, -1.0),
        max_input_age_s=0.3,
        frozen_frames=15,
        max_step_m=0.02,
        max_step_rad=0.1,
        speed_scale=0.25,
    )


def test_the_file_of_the_simulator():
    robot = load_params(str(CONFIG / 'libero.yaml'))
    assert robot == SessionParams(
        rotate_180=('primary', 'wrist'),
        frame_id='world',
        motion_source='joint_velocities',
        urdf=URDF,
        ee_link='panda_hand',
        max_step_m=0.09,
    )
    robot.check(LIBERO)


@pytest.mark.parametrize(
    'node', ['vla_policy', '/vla_policy', '/**/vla_policy', '/left/vla_policy', '/**', '"**"']
)
def test_every_name_that_means_the_node(tmp_path, node):
    assert parameters(tmp_path, 'max_step_m: 0.5', node) == SessionParams(max_step_m=0.5)


def test_what_comes_later_in_the_file_wins(tmp_path):
    text = """
/**:
  ros__parameters: {max_step_m: 0.5, max_step_rad: 0.5, use_sim_time: true}
chunk_executor:
  ros__parameters: {max_step_m: 0.9}
vla_policy:
  ros__parameters: {max_step_m: 0.25, checkpoint: weights, threads: 3}
"""
    assert loaded(tmp_path, text) == SessionParams(max_step_m=0.25, max_step_rad=0.5)


def test_lists_lose_the_empty_word_that_ros_needs(tmp_path):
    robot = parameters(tmp_path, "rotate_180: [''], arm_joints: ['', a], gripper_signs: [1, -1]")
    assert (robot.rotate_180, robot.arm_joints) == ((), ('a',))
    assert robot.gripper_signs == (1.0, -1.0)
    assert {type(sign) for sign in robot.gripper_signs} == {float}


@pytest.mark.parametrize('value', ['max_step_m: far', 'frozen_frames: 1.5', 'rotate_180: wrist'])
def test_a_value_of_another_type_is_refused(tmp_path, value):
    with pytest.raises(ProfileError, match=value.partition(':')[0]) as caught:
        parameters(tmp_path, value)
    assert 'robot.yaml' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'text',
    [
        'vla_policy: 3',
        'vla_policy: {max_step_m: 0.5}',
        'vla_policy: {ros__parameters: 3}',
        'vla_policy: {ros__parameters: {}}',
        'chunk_executor: {ros__parameters: {max_step_m: 0.5}}',
        'not_vla_policy: {ros__parameters: {max_step_m: 0.5}}',
    ],
)
def test_a_file_without_the_node_is_refused(tmp_path, text):
    with pytest.raises(ProfileError, match='has no parameters of vla_policy'):
        loaded(tmp_path, text)


words = st.text(st.characters(codec='utf-8', categories=('L', 'N', 'P', 'Zs')), max_size=8)
names = st.lists(words.filter(bool), max_size=3).map(tuple)
number = st.floats(-100, 100)
robots = st.builds(
    SessionParams,
    instruction=words,
    rotate_180=names,
    gripper_joints=names,
    gripper_signs=st.lists(st.floats(-1, 1), max_size=3).map(tuple),
    pose_offset_m=st.tuples(number, number, number),
    frame_id=words,
    motion_source=st.sampled_from(['pose', 'joint_velocities', 'joint_speed', 'actions']),
    urdf=words,
    arm_joints=names,
    replan_period_s=st.floats(0, 10),
    frozen_frames=st.integers(0, 10**4),
    max_step_m=st.floats(1e-6, 1),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(robots)
def test_what_is_saved_is_loaded(tmp_path, robot):
    save_params(tmp_path / 'robot.yaml', robot)
    assert load_params(tmp_path / 'robot.yaml') == robot


def test_a_saved_robot_is_a_parameter_file(tmp_path):
    """Every list has an element, else ROS could not tell its type; other parameters come along."""
    robot = SessionParams(rotate_180=('wrist',), speed_scale=0.5)
    save_params(tmp_path / 'robot.yaml', robot, checkpoint='weights', threads=2)
    data = yaml.safe_load((tmp_path / 'robot.yaml').read_text(encoding='utf-8'))
    found = data.pop('/**/vla_policy')['ros__parameters']
    assert data == {}
    assert (found.pop('checkpoint'), found.pop('threads')) == ('weights', 2)
    assert list(found) == [f.name for f in fields(SessionParams)]
    assert (found['rotate_180'], found['arm_joints']) == (['wrist'], [''])
    assert (found['gripper_signs'], found['speed_scale']) == ([1.0, 1.0], 0.5)
    assert all(value != [] for value in found.values())


def test_what_the_node_would_refuse_is_refused():
    robot = SessionParams(rotate_180=('wrist',))
    robot.check(LIBERO)
    with pytest.raises(ProfileError, match="rotate_180 names camera 'wrist'.*'primary'"):
        robot.check(BRIDGE)
    for change in (
        {'gripper_joints': ()},
        {'gripper_signs': (1.0, 2.0)},
        {'pose_offset_m': (0.0,)},
        {'pose_offset_m': ()},
        {'stepping': 'slow'},
        {'max_step_rad': float('nan')},
        {'speed_scale': 1.5},
    ):
        with pytest.raises(ProfileError, match=next(iter(change)).replace('_', '.')):
            replace(robot, **change).check(LIBERO)


def test_the_motion_source_is_the_one_that_is_named():
    assert isinstance(SessionParams().motion(), PoseMotion)
    assert isinstance(SessionParams(motion_source='actions').motion(), ActionMotion)
    for joints in (('a', 'b'), ('',)):  # as ROS has an empty list of words
        wiring = {'arm_joints': joints, 'gripper_joints': ('c', '')}
        speed = SessionParams(motion_source='joint_speed', reach_m=0.5, **wiring).motion()
        speed.on_joints(10, ['a', 'b', 'c'], [0, 0, 0], [0.1, -0.4, 9.0])
        assert speed.at(10).linear_m_s == pytest.approx(0.4 * 0.5)
    velocities = {'motion_source': 'joint_velocities'}
    for changes, what in (
        ({'motion_source': 'guess'}, "'guess' is unknown; use .*joint_speed, actions"),
        ({'motion_source': 'joint_speed'}, 'reach'),
        ({**velocities, 'ee_link': 'hand'}, 'needs a URDF'),
        ({**velocities, 'urdf': '<robot/>'}, 'needs a tip'),
        ({**velocities, 'urdf': '/no/such.urdf', 'ee_link': 'hand'}, '/no/such.urdf'),
    ):
        with pytest.raises(ProfileError, match=what):
            SessionParams(**changes).motion()
