"""The policy node on real topics: life cycle, chunks, instruction, services and faults.

Expected chunks come from ``load_policy`` on the same frames, with the state vector computed here
(scipy); units from robosuite's OSC_POSE scaling, 0.05 m and 0.5 rad per unit and step.
"""

import shutil
import threading

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.srv import GetState
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage

from vla_prune_ros import load_policy
from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.nodes import interface
from vla_prune_ros.nodes.client import CLEANUP, DEACTIVATE
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.pruning.layout import write_trained
from vla_prune_ros.records import Observation
from vla_prune_ros.runtime.messages import status_values, to_ns

POSITION = np.array([0.05, 0.1, 1.1])
QUATERNION = np.array([0.995, -0.05, 0.03, 0.08])
FINGERS = (0.02, -0.02)
TASK = 'pick up the red cube'
AXES = ('x', 'y', 'z', 'rx', 'ry', 'rz')
TO_SI = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0])
WIDE = {'max_step_m': 1.0, 'max_step_rad': 3.0}


def observation(frames, task=TASK):
    unit = QUATERNION / np.linalg.norm(QUATERNION)
    state = np.concatenate([POSITION, Rotation.from_quat(unit).as_rotvec(), FINGERS])
    return Observation(frames, state, task)


def assert_answers(chunk, policy, frames):
    """The chunk is what the policy says of these frames, in SI units, the gripper in 0 ... 1."""
    want = policy.infer(observation(frames)).actions * TO_SI
    want[:, 6] = want[:, 6].clip(0, 1)
    np.testing.assert_allclose([p.positions for p in chunk.points], want, rtol=0, atol=1e-6)


def counts(node):
    return (
        threading.active_count(),
        *(len(list(kind)) for kind in (node.subscriptions, node.publishers, node.timers)),
        len(list(node.services)),
    )


def test_five_life_cycles_leave_nothing_behind(rig):
    """Quick rounds of start, stop and reset in each."""
    one = rig()
    seen = []
    for _ in range(5):
        one.bring_up()
        for service in 2 * ('stop', 'start', 'reset'):
            one.robot.client.trigger(f'/vla_policy/{service}')
        one.robot.next_chunk()
        assert one.change(DEACTIVATE) and one.robot.state == 'INACTIVE'
        one.robot.no_chunk_for(1)
        assert one.change(CLEANUP)
        seen.append(counts(one.node))
    assert seen == [seen[0]] * 5


def test_chunk_is_the_policys_answer_in_si_units(rig, micro):
    """Only the first camera is turned, by 180 degrees: both its axes are reversed."""
    one = rig(rotate_180=['primary'], frame_id='panda_link0', **WIDE).bring_up()
    chunk = one.robot.next_chunk()
    frames = one.robot.frames[to_ns(chunk.header.stamp)]
    turned = {'primary': frames['primary'][::-1, ::-1].copy(), 'wrist': frames['wrist']}
    assert_answers(chunk, load_policy(micro), turned)
    assert chunk.header.frame_id == 'panda_link0'
    assert list(chunk.joint_names) == [*(f'delta_{d}' for d in AXES), 'gripper']
    times = [to_ns(p.time_from_start) for p in chunk.points]
    assert times == [50_000_000 * (i + 1) for i in range(8)]


def test_a_checkpoint_that_was_trained_for_lightvla_runs_pruned(rig, micro, tmp_path):
    folder = shutil.copytree(micro, tmp_path / 'trained')
    write_trained(folder, 'lightvla', {}, {})
    one = rig(checkpoint=str(folder), pruning='lightvla', **WIDE).bring_up()
    chunk = one.robot.next_chunk()
    policy = load_policy(folder, pruning='lightvla')
    frames = one.robot.frames[to_ns(chunk.header.stamp)]
    assert_answers(chunk, policy, frames)
    values = one.robot.inference_of(chunk)
    assert values['early_cameras'] == '0'  # both come at once: together they are faster
    kept = {c: int(mask.sum()) for c, mask in policy.infer(observation(frames)).kept.items()}
    assert {camera: int(values[f'kept_{camera}']) for camera in kept} == kept
    assert sum(kept.values()) < 512


def test_chunk_is_stamped_with_its_newest_image(rig):
    one = rig(**WIDE)

    def wrist_later(messages):
        stamp = to_ns(messages['wrist'].header.stamp)
        messages['wrist'].header.stamp = build.time(stamp + 7_000_000)

    one.robot.spoil = wrist_later  # from the first message on: an unshifted pair would answer too
    stamp = to_ns(one.bring_up().robot.next_chunk().header.stamp)
    assert stamp - 7_000_000 in one.robot.frames


def test_an_early_camera_is_looked_at_before_its_partner_comes(rig, micro):
    """Every other tick, 0.1 s later, brings nothing but the wrist image of the one before."""
    one, held = rig(**WIDE), []

    def wrist_a_tick_late(messages):
        if held:
            messages.clear()
            messages['wrist'] = held.pop()
        else:
            held.append(messages.pop('wrist'))

    one.robot.spoil = wrist_a_tick_late
    one.bring_up().robot.next_chunk()  # of the first frame: nobody knows of a wrist camera yet
    chunk = one.robot.next_chunk()
    assert one.robot.inference_of(chunk)['early_cameras'] == '1'
    assert_answers(chunk, load_policy(micro), one.robot.frames[to_ns(chunk.header.stamp)])


def test_lossless_compressed_images_give_the_same_chunk(rig, micro):
    one = rig(image_transport='compressed', **WIDE).bring_up()
    for camera in ('primary', 'wrist'):
        topic = f'image/{camera}/compressed'
        out = one.robot.publisher(CompressedImage, topic, interface.sensor_data())
        one.robot.replace_camera(camera, out)

    def compress(messages):
        for camera in ('primary', 'wrist'):
            raw = messages[camera]
            rgb = np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3)
            png = CompressedImage(header=raw.header, format='png')
            png.data = cv2.imencode('.png', rgb[..., ::-1])[1].tobytes()
            messages[camera] = png

    one.robot.spoil = compress
    chunk = one.robot.next_chunk()
    assert_answers(chunk, load_policy(micro), one.robot.frames[to_ns(chunk.header.stamp)])


def test_instruction_from_parameter_and_topic(rig):
    one = rig(instruction='').bring_up()
    one.robot.until_says('WAITING', 'no instruction yet', '~/instruction')
    one.robot.no_chunk_for(2)
    one.robot.say(' Pick up the Red\n cube. ')
    values = one.robot.inference_of(one.robot.next_chunk())
    assert 'take to pick up the red cube?' in values['prompt']
    assert one.set('instruction', 'open the drawer.') == ''
    one.robot.until(
        lambda: 'open the drawer?' in status_values(one.robot.inferences[-1].status[0])['prompt'],
        'chunk of the new instruction',
    )
    assert 'instruction is empty' in one.set('instruction', '')
    assert 'at most 400' in one.set('instruction', 'a' * 401)
    one.robot.say('')  # refused with a warning; the old one stays
    values = one.robot.inference_of(one.robot.next_chunk())
    assert 'open the drawer?' in values['prompt']


def test_a_new_instruction_discards_the_answer_that_is_under_way(rig, hold):
    one = rig().bring_up()
    gate = one.policy.infer = hold(one.policy.infer)
    one.robot.until(gate.begun.is_set, 'inference')
    old = len(one.robot.chunks)
    one.robot.say('open the drawer')
    one.robot.until(
        lambda: one.pipeline.session.instruction == 'open the drawer', 'new instruction'
    )
    gate.go.set()
    chunk = one.robot.next_chunk()
    assert chunk is one.robot.chunks[old]
    assert 'open the drawer' in one.robot.inference_of(chunk)['prompt']


def test_stop_is_answered_and_obeyed_while_an_inference_hangs(rig, hold):
    one = rig(inference_timeout_s=0.2).bring_up()
    gate = one.policy.infer = hold(one.policy.infer)
    one.robot.until_says('TIMEOUT', 'runs longer than 0.2 s')
    assert one.robot.client.trigger('/vla_policy/stop', 10.0) == 'stopped'
    assert not gate.go.is_set()
    gate.go.set()
    one.robot.until_state('STOPPED')
    one.robot.no_chunk_for(3)


def test_start_stop_and_reset(rig):
    one = rig(start_on_activate=False)
    with pytest.raises(VlaPruneError, match='activate the node first'):
        one.robot.client.trigger('/vla_policy/start')
    one.bring_up()
    one.robot.until_state('STOPPED')
    one.robot.no_chunk_for(2)
    one.robot.client.trigger('/vla_policy/start')
    one.robot.next_chunk()
    one.robot.client.trigger('/vla_policy/stop')
    one.robot.no_chunk_for(2)
    assert one.robot.state == 'STOPPED'
    one.robot.client.trigger('/vla_policy/start')
    one.robot.next_chunk()
    resets = []
    one.policy.reset = lambda: resets.append(True)
    one.robot.client.trigger('/vla_policy/reset')
    one.robot.next_chunk()
    one.robot.until(lambda: resets == [True], 'one reset of the policy')


def test_autostart_comes_up_without_a_manager(rig):
    one = rig(autostart=True)
    one.robot.next_chunk()
    answer = one.robot.client.call(GetState, '/vla_policy/get_state', GetState.Request())
    assert answer.current_state.label == 'active'


@pytest.mark.parametrize('failure', ['nan', 'error'])
def test_an_answer_that_is_no_motion_never_leaves_and_latches(rig, failure):
    one = rig(max_faults=3).bring_up()
    one.robot.next_chunk()
    policy, infer = one.policy, one.policy.infer

    def bad(*args):
        if failure == 'error':
            raise RuntimeError('CUDA out of memory.\nTried to allocate 2 GiB')
        answer = infer(*args)
        answer.actions[3, 5] = np.nan
        return answer

    policy.infer = bad
    words = {'nan': 'action step 3 delta_rz is nan', 'error': 'RuntimeError: CUDA out of memory.'}
    one.robot.until_says('FAULT', '3 failed inferences in a row', words[failure], 'call ~/reset')
    assert one.robot.status.level == DiagnosticStatus.ERROR
    policy.infer = infer
    one.robot.no_chunk_for(3)  # latched, although the cause is gone
    one.robot.client.trigger('/vla_policy/reset')
    one.robot.next_chunk()
    one.robot.until_state('RUNNING')


def test_parameters_of_an_active_node(rig):
    one = rig().bring_up()
    reason = one.set('pruning', 'uniform:64')
    assert 'pruning is read when the node configures' in reason and 'clean it up first' in reason
    assert one.change(DEACTIVATE) and one.change(CLEANUP)
    assert one.set('pruning', 'uniform:64') == ''
    assert 'out of range' in one.set('sync_slop_s', 5.0)
    one.bring_up()
    values = one.robot.inference_of(one.robot.next_chunk())
    assert (values['kept_primary'], values['kept_wrist']) == ('64', '64')
    assert values['visual_tokens'] == '128'


def test_a_job_from_before_a_reset_does_not_hold_up_those_after_it(rig, hold):
    """The worker has taken a job and not begun it when the reset comes."""
    one = rig(replan_period_s=10.0).bring_up()
    worker = one.pipeline.worker
    late = worker._run = hold(worker._run)
    one.robot.until(late.begun.is_set, 'job')
    one.robot.client.trigger('/vla_policy/reset')
    late.go.set()
    before = one.robot.ticks
    one.robot.next_chunk()
    assert one.robot.ticks - before < 50  # half of the ten seconds between queries
