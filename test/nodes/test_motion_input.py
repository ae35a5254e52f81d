"""The speed of the end effector from each source, as the query gets it and as the node reports it.

Expected speeds are closed forms: a steady translation, one joint that swings a lever, and the
step of a received chunk that is due at the image.
"""

import array
from functools import partial

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import String

from vla_prune_ros.nodes import interface
from vla_prune_ros.runtime.messages import status_values, to_ns

LEVER = """<robot name="lever">
  <link name="base"/><link name="arm"/><link name="tip"/>
  <joint name="panda_joint1" type="revolute">
    <parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>
    <limit lower="-3" upper="3" effort="1" velocity="1"/>
  </joint>
  <joint name="end" type="fixed">
    <parent link="arm"/><child link="tip"/><origin xyz="0.5 0 0"/>
  </joint>
</robot>"""
JACOBIAN = {'motion_source': 'joint_velocities', 'ee_link': 'tip'}


@pytest.fixture
def asking(rig, recorder):
    """A rig whose pruner asks for the motion."""
    return partial(rig, pruning='recorder')


def swing(velocity):
    """Joint 1 turns at ``velocity`` rad/s, the fingers at a tenth of it."""

    def spoil(messages):
        speeds = [0.1 * velocity, velocity, 0.1 * velocity]
        messages['joint_states'].velocity = array.array('d', speeds)

    return spoil


def until_known(one):
    """The first known motion of a query, and its record."""
    queries = one.policy.pruner.queries
    one.robot.until(lambda: any(q.motion for q in queries), 'known motion')
    query = next(q for q in queries if q.motion)
    return query.motion, one.robot.inference_at(query.stamp_ns)


def assert_reported(motion, values):
    assert values['motion'] == values['pruning_motion'] == motion.source
    for name in ('linear_m_s', 'angular_rad_s', 'vertical_m_s'):
        want = getattr(motion, name)
        assert float(values[f'motion_{name}']) == pytest.approx(want, rel=1e-3, abs=1e-9)


def drift(messages):
    """0.2 m/s: 0.12 along y and 0.16 downwards."""
    pose = messages['ee_pose']
    seconds = to_ns(pose.header.stamp) * 1e-9 % 1000
    pose.pose.position.y, pose.pose.position.z = 0.12 * seconds, -0.16 * seconds


SPEEDS = {  # source: parameters, what moves, linear, angular and vertical speed
    'pose': ({}, drift, (0.2, 0.0, -0.16)),
    # A lever of 0.5 m.
    'joint_velocities': ({'urdf': LEVER, 'ee_link': 'tip'}, swing(0.6), (0.3, 0.6, 0.0)),
}


@pytest.mark.parametrize('source', SPEEDS)
def test_speed_is_that_of_the_closed_form(asking, source):
    parameters, moves, want = SPEEDS[source]
    one = asking(motion_source=source, **parameters)
    one.robot.spoil = moves
    motion, values = until_known(one.bring_up())
    assert motion.source == source
    got = (motion.linear_m_s, motion.angular_rad_s, motion.vertical_m_s)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-9)
    assert_reported(motion, values)


def test_due_step_of_the_last_chunk(asking):
    one = asking(motion_source='actions', max_step_m=1.0, max_step_rad=3.0).bring_up()
    motion, values = until_known(one)
    now = next(q.stamp_ns for q in one.policy.pruner.queries if q.motion)
    due = []
    for chunk in one.robot.chunks:
        step = (now - to_ns(chunk.header.stamp)) // 50_000_000
        if 0 <= step < 8 and to_ns(chunk.header.stamp) < now:
            due.append(np.array(chunk.points[step].velocities[:6]))
    speeds = [(np.linalg.norm(v[:3]), np.linalg.norm(v[3:]), v[2]) for v in due]
    got = (motion.linear_m_s, motion.angular_rad_s, motion.vertical_m_s)
    assert any(got == pytest.approx(want, rel=1e-6) for want in speeds)
    assert_reported(motion, values)


def pruning_status(one, level):
    """The diagnostics of pruning, once they are at ``level``."""

    def status():
        return one.robot.diagnostics.get('vla_policy: pruning')

    one.robot.until(lambda: status() is not None and status().level == level, f'level {level}')
    return status()


def assert_unknown(one, *words):
    """No query knows the motion, and everything that reports says so."""
    status = pruning_status(one, DiagnosticStatus.WARN)
    assert status.message.startswith('motion of the end effector is unknown: ')
    assert all(w in status.message for w in words), status.message
    assert '\n' not in status.message
    values = one.robot.inference_of(one.robot.next_chunk())
    assert values['motion'] == values['pruning_motion'] == 'unknown'
    assert not {k for k in values if k.startswith('motion_')}
    assert all(q.motion is None for q in one.policy.pruner.queries)


def test_missing_velocities_are_no_motion_of_zero(asking):
    one = asking(urdf=LEVER, **JACOBIAN).bring_up()
    assert_unknown(one, '3 names and 0 velocities')
    one.robot.spoil = swing(0.6)
    until_known(one)
    status = pruning_status(one, DiagnosticStatus.OK)
    assert status_values(status)['motion'] == 'joint_velocities'
    assert status_values(status)['motion_source'] == 'joint_velocities'


def test_a_method_that_asks_for_no_motion_is_not_warned_about(rig):
    one = rig(urdf=LEVER, **JACOBIAN).bring_up()
    values = one.robot.inference_of(one.robot.next_chunk())
    assert values['motion'] == 'unknown'
    one.robot.diagnostics.clear()
    status = pruning_status(one, DiagnosticStatus.OK)
    assert status_values(status)['motion'] == 'not used'


def describe(one, text, topic='/vla_policy/robot_description'):
    out = one.robot.client.create_publisher(String, topic, interface.latched())
    out.publish(String(data=text))
    return out


def test_until_the_robot_description_comes_the_motion_is_unknown(asking):
    one = asking(**JACOBIAN)
    one.robot.spoil = swing(0.6)
    one.bring_up()
    assert_unknown(one, 'no robot description received on /vla_policy/robot_description', 'remap')
    out = describe(one, '<robot name="half')
    one.robot.diagnostics.clear()

    def message():
        return getattr(one.robot.diagnostics.get('vla_policy: pruning'), 'message', '')

    one.robot.until(lambda: 'not XML' in message(), 'refusal of the description')
    assert '/vla_policy/robot_description: ' in message()
    out.publish(String(data=LEVER))
    motion, _ = until_known(one)
    assert motion.linear_m_s == pytest.approx(0.3)


def test_robot_description_is_latched_and_can_be_remapped(asking):
    one = asking('~/robot_description:=/robot_description', **JACOBIAN)
    one.robot.spoil = swing(0.6)
    describe(one, LEVER, '/robot_description')
    motion, _ = until_known(one.bring_up())
    assert motion.angular_rad_s == pytest.approx(0.6)


STATELESS = 'base: libero\nproprio_dim: 0\nproprio_kind: none\n'


@pytest.mark.parametrize(
    ('stream', 'parameters'),
    [('ee_pose', {}), ('joint_states', {'motion_source': 'joint_speed', 'reach_m': 1.0})],
)
def test_a_stream_for_motion_alone_is_heard_and_stops_nothing(
    asking, micro, tmp_path, stream, parameters
):
    """The checkpoint takes no state, so that no pair waits for pose or joints."""
    folder = tmp_path / 'stateless'
    folder.mkdir()
    for path in micro.iterdir():
        if not path.name.startswith('proprio_projector'):
            (folder / path.name).symlink_to(path)
    (tmp_path / 'stateless.yaml').write_text(STATELESS, encoding='utf-8')
    profile = str(tmp_path / 'stateless.yaml')
    one = asking(checkpoint=str(folder), profile=profile, **parameters)
    move = swing(0.3)

    def only_images(messages):
        del messages['ee_pose'], messages['joint_states']

    def one_state(messages):
        move(messages)
        for name in {'ee_pose', 'joint_states'} - {stream}:
            del messages[name]

    one.robot.spoil = only_images
    one.bring_up()
    assert_unknown(one, 'yet')
    one.robot.spoil = one_state
    until_known(one)
