"""What the policy node does for its pruner: frames between queries, refresh, and its reports.

Expected frames are those the test's robot sent, prepared by the function that the model's images
go through; ``RecordingPruner`` keeps what it was told.
"""

from functools import partial

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus

from vla_prune_ros.model.images import prepare_image
from vla_prune_ros.nodes.messages import build
from vla_prune_ros.runtime.messages import status_values


@pytest.fixture
def watching(rig, recorder):
    """A rig whose pruner looks back in time and may refresh."""
    return partial(rig, pruning='recorder')


def which_frame(robot, camera, image, turned):
    """Stamp of the robot's frame that the model would see as ``image``."""
    for stamp, frames in robot.frames.items():
        frame = frames[camera][::-1, ::-1] if turned else frames[camera]
        if np.array_equal(prepare_image(np.ascontiguousarray(frame), 0), image):
            return stamp
    return None


def test_frames_between_queries_reach_the_pruner_turned_as_in_a_query(watching):
    """Ten frames a second, a query each half second, and a look 0.15 s back."""
    one = watching(replan_period_s=0.5, rotate_180=['primary']).bring_up()
    pruner = one.policy.pruner
    one.robot.until(lambda: len(pruner.queries) >= 4, 'four queries')
    assert pruner.before[0] == {'primary': None, 'wrist': None}
    asked = [q.stamp_ns for q in pruner.queries]
    for i in range(1, 4):
        for camera in ('primary', 'wrist'):
            image = pruner.before[i][camera]
            seen = which_frame(one.robot, camera, image, turned=camera == 'primary')
            assert seen is not None and seen not in asked
            assert asked[i - 1] < seen <= asked[i] - 130_000_000
        assert pruner.counts[i]['wrist'] >= pruner.counts[i - 1]['wrist'] + 3


def test_a_message_that_pairing_refuses_is_not_shown(watching):
    one = watching().bring_up()
    one.robot.next_chunk()
    seen = []
    one.policy.watch = lambda camera, stamp_ns, frame: seen.append((camera, stamp_ns))

    def no_stamp(messages):
        messages['wrist'].header.stamp = build.time(0)

    one.robot.spoil = no_stamp
    inputs = one.pipeline.inputs
    heard = inputs.counts()['wrist_received']
    one.robot.until(lambda: inputs.counts()['wrist_received'] >= heard + 5, 'five wrist frames')
    one.robot.until(lambda: len(seen) >= 3, 'three frames that are shown')
    assert {camera for camera, stamp_ns in seen if stamp_ns == 0} == set()
    assert 'primary' in {camera for camera, _ in seen}


def test_a_frame_that_cannot_be_decoded_stops_no_later_query(watching):
    """Each third one: the queries two frames later look back at it, and get nothing."""
    one = watching().bring_up()
    pruner = one.policy.pruner
    one.robot.until(lambda: len(pruner.queries) >= 3, 'queries')

    def break_each_third(messages):
        if one.robot.ticks % 3 == 0:
            messages['wrist'].encoding = 'foo8'

    one.robot.spoil = break_each_third
    count = len(pruner.before)

    def looked_at_a_broken_one():
        return any(b['wrist'] is None and b['primary'] is not None for b in pruner.before[count:])

    one.robot.until(looked_at_a_broken_one, 'query that looks back at a broken frame')
    count = len(pruner.queries)
    one.robot.until(lambda: len(pruner.queries) > count, 'query after it')
    assert one.pipeline.faults == 0


def test_no_frame_of_before_a_reset_survives_and_none_of_after_is_taken_for_it(watching, hold):
    """A query hangs while the reset comes and the cameras go on."""
    one = watching().bring_up()
    pruner, policy = one.policy.pruner, one.policy
    one.robot.until(lambda: len(pruner.queries) >= 3, 'three queries')
    slow = hold(policy.infer)
    policy.infer = slow
    one.robot.until(slow.begun.is_set, 'inference')
    resets = pruner.resets
    one.robot.client.trigger('/vla_policy/reset')
    shown, watch = [], policy.watch
    policy.watch = lambda *args: shown.append(args[1]) or watch(*args)
    ticks = one.robot.ticks
    one.robot.until(lambda: one.robot.ticks >= ticks + 4, 'frames of the new episode')
    assert shown == [] and pruner.resets == resets  # the query before still looks at its frames
    queries = len(pruner.queries)
    policy.infer = slow._function
    slow.go.set()
    one.robot.until(lambda: len(pruner.queries) >= queries + 3, 'queries of the new episode')
    assert pruner.resets == resets + 1
    new = next(i for i in range(queries, queries + 2) if pruner.counts[i]['primary'] == 1)
    assert pruner.before[new] == {'primary': None, 'wrist': None}
    first = pruner.queries[new].stamp_ns
    seen = which_frame(one.robot, 'primary', pruner.before[new + 1]['primary'], turned=False)
    assert seen is not None and first <= seen


def test_a_refresh_follows_the_chunk_and_is_reported_with_the_next(watching):
    one = watching(replan_period_s=0.5).bring_up()
    one.robot.next_chunk()
    assert 'refresh_ms' not in one.robot.inference_of(one.robot.next_chunk())
    layers, order, publish = [], [], one.pipeline.outputs.publish
    one.pipeline.outputs.publish = lambda answer: (publish(answer), order.append('chunk'))
    one.policy.pruner.harvest = lambda layer: (layers.append(layer), order.append('layer'))
    one.robot.until(lambda: order.count('chunk') >= 3, 'three chunks')
    assert layers[:3] == [0, 1, 2]  # all layers of the checkpoint
    begin = order.index('chunk')
    assert order[begin : begin + 5] == ['chunk', 'layer', 'layer', 'layer', 'chunk']
    values = one.robot.inference_of(one.robot.next_chunk())
    assert float(values['refresh_ms']) > 0.0
    status = one.robot.diagnostics
    one.robot.until(lambda: 'refresh_ms' in _values(status, 'pruning'), 'refresh in diagnostics')


def _values(diagnostics, concern):
    status = diagnostics.get(f'vla_policy: {concern}')
    return {} if status is None else status_values(status)


def test_a_refresh_makes_way_for_a_waiting_query_after_one_layer(watching, hold):
    """It is held in its first layer until a query waits; its other layers are not walked."""
    one = watching().bring_up()
    one.robot.next_chunk()
    first = hold()
    one.policy.pruner.harvest = first
    one.robot.until(first.begun.is_set, 'refresh')
    one.robot.until(lambda: one.pipeline.worker.busy_s() > 0, 'waiting query')
    chunks = len(one.robot.chunks)
    one.policy.pruner.harvest = None  # no further refresh
    first.go.set()
    one.robot.until(lambda: len(one.robot.chunks) > chunks, 'chunk')
    assert first.calls == [(0,)]


def test_failed_refreshes_latch_like_failed_queries(watching):
    one = watching(max_faults=3, replan_period_s=0.4).bring_up()
    one.robot.next_chunk()

    def fail(layer):
        raise RuntimeError('device lost')

    one.policy.pruner.harvest = fail
    reason = 'last refresh after the chunk: RuntimeError: device lost'
    one.robot.until_says('FAULT', '3 failed', reason)
    assert one.robot.status.level == DiagnosticStatus.ERROR
    one.policy.pruner.harvest = None
    one.robot.no_chunk_for(3)
    one.robot.client.trigger('/vla_policy/reset')
    one.robot.next_chunk()
    one.robot.until_state('RUNNING')


def test_a_refresh_that_fails_once_is_forgiven_with_the_next(watching):
    one = watching(max_faults=2, replan_period_s=0.4).bring_up()
    done = []

    def fail_once(layer):
        done.append(layer)
        if len(done) == 1:
            raise RuntimeError('device lost')

    one.policy.pruner.harvest = fail_once
    one.robot.until(lambda: len(done) > 4, 'later refreshes')
    one.robot.next_chunk()
    one.robot.until_state('RUNNING')
    assert one.pipeline.faults == 0 and not one.pipeline.latched


def test_what_the_pruner_says_is_in_the_record_and_in_the_diagnostics(watching):
    one = watching().bring_up()
    queries = one.policy.pruner.queries
    one.robot.until(lambda: queries and queries[-1].motion, 'known motion')
    values = one.robot.inference_of(one.robot.next_chunk())
    assert (values['mode'], values['pruning_reason']) == ('fine', 'recorded')
    assert values['pruning_motion'] == values['motion'] == 'pose'
    assert float(values['policy_selection_ms']) >= 0.0
    diagnostics = one.robot.diagnostics
    diagnostics.clear()
    one.robot.until(lambda: bool(_values(diagnostics, 'pruning')), 'diagnostics')
    assert diagnostics['vla_policy: pruning'].level == DiagnosticStatus.OK
    motion = {'motion_source': 'pose', 'motion': 'pose', 'motion_why': ''}
    pruning = {'method': 'recorder', 'mode': 'fine', 'reason': 'recorded'}
    want = {**motion, **pruning, 'visual_tokens': '512'}
    assert _values(diagnostics, 'pruning') == want
