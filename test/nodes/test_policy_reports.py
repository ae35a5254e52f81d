"""What the policy node says of itself: overlays, path, diagnostics, and labels."""

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Path as PathMessage
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.nodes.policy import outputs
from vla_prune_ros.runtime.messages import status_values, to_ns

POSITION = np.array([0.05, 0.1, 1.1])  # where the test robot's arm is


def test_overlays_are_drawn_for_those_who_watch(rig, monkeypatch):
    one = rig(pruning='uniform:64').bring_up()
    drawn, seen, draw = [], [], outputs.overlay_message
    monkeypatch.setattr(
        outputs, 'overlay_message', lambda a, c, t: drawn.append(c) or draw(a, c, t)
    )
    one.robot.next_chunk()
    one.robot.next_chunk()
    assert drawn == []
    one.robot.listen(CompressedImage, 'overlay/wrist', seen.append, interface.sensor_data())
    one.robot.until(lambda: bool(seen), 'overlay')
    assert set(drawn) == {'wrist'}
    image = cv2.imdecode(np.frombuffer(seen[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (224, 224, 3)
    assert one.robot.inference_at(to_ns(seen[0].header.stamp))


def test_path_starts_at_the_arm_and_sums_the_deltas_and_random_weights_are_labelled(rig):
    one = rig(pose_offset_m=[5.0, 0.0, 0.0]).bring_up()
    seen = []
    one.robot.listen(PathMessage, 'chunk_path', seen.append, interface.command())
    one.robot.until(lambda: bool(seen), 'path')
    chunk = next(c for c in one.robot.chunks if c.header.stamp == seen[0].header.stamp)
    points = [p.pose.position for p in seen[0].poses]
    got = np.array([(p.x, p.y, p.z) for p in points])
    np.testing.assert_allclose(got[0], POSITION, atol=1e-12)
    deltas = [p.positions[:3] for p in chunk.points]
    np.testing.assert_allclose(np.diff(got, axis=0), deltas, atol=1e-12)
    assert status_values(one.robot.status)['untrained'] == 'True'
    one.robot.inference_of(chunk)
    assert one.robot.inferences[-1].status[0].message.startswith('UNTRAINED')


def test_a_second_source_of_chunks_is_an_error_in_the_diagnostics(rig):
    one = rig().bring_up()
    rival = one.robot.publisher(JointTrajectory, 'action_chunk', interface.command())

    def safety():
        return getattr(one.robot.diagnostics.get('vla_policy: safety'), 'message', '')

    wanted = '1 other publishers of /vla_policy/action_chunk; stop them'
    one.robot.until(lambda: safety() == wanted, 'error about the second publisher')
    assert one.robot.diagnostics['vla_policy: safety'].level == DiagnosticStatus.ERROR
    one.robot.client.destroy_publisher(rival)
    one.robot.until(lambda: safety() == 'ok', 'all clear')


def test_diagnostics_count_what_arrives_and_what_is_refused(rig):
    one = rig().bring_up()
    one.robot.next_chunk()
    before = one.robot.ticks

    def pose_without_stamp(messages):
        messages['ee_pose'].header.stamp = build.time(0)

    one.robot.spoil = pose_without_stamp
    one.robot.until(lambda: one.robot.ticks >= before + 3, 'three ticks')
    one.robot.silent = True
    one.robot.client.spin_for(0.2)

    def inputs():
        status = one.robot.diagnostics.get('vla_policy: inputs')
        return {} if status is None else status_values(status)

    one.robot.diagnostics.clear()
    one.robot.until(lambda: bool(inputs()), 'diagnostics')
    assert int(inputs()['lost_stamp_zero']) == one.robot.ticks - before
    assert int(inputs()['ee_pose_received']) <= one.robot.ticks
