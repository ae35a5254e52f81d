"""The offline replay and a live node give the same chunks for the same bag.

Two ways that share no clock and no transport: ``vla-prune replay``'s worker reads the file; the
node hears it through DDS from ``bag_player`` at a tenth of its speed, so that the refresh after a
chunk is over before the next query. A busy machine does not promise that, so ``make test`` leaves
this out. All queries are compared: none may be missing on either side.
"""

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip('rclpy')
pytest.importorskip('rosbags', reason='needs the extra with rosbags')

import bag_writer as writer
from rclpy.executors import ExternalShutdownException
from rclpy.parameter import Parameter

from vla_prune_ros import load_policy
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.evaluate.replay.method import MethodReplay
from vla_prune_ros.evaluate.replay.scan import ReplaySetting
from vla_prune_ros.nodes.tools.bag_player import BagPlayerNode
from vla_prune_ros.runtime.messages import status_values, to_ns
from vla_prune_ros.runtime.params import SessionParams

T0, MS = writer.T0, writer.MS
FINGERS = ('panda_finger_joint1', 'panda_finger_joint2')
STEPS = 60  # 3 s at 20 Hz
WIDE = {'max_step_m': 1.0, 'max_step_rad': 3.0}


def position(step):
    """Fast for a second, 0.6 m/s, then slow, 0.02 m/s."""
    return (0.03 * min(step, 20) + 0.001 * max(step - 20, 0), 0.0, 1.1)


def image(step, camera, texture):
    """A still scene with a block that moves, and a little noise."""
    pixels = texture.copy()
    left = (2 * step) % 40
    pixels[20:36, left : left + 16] = (200, 30, 30) if camera == 'primary' else (30, 30, 200)
    noise = np.random.default_rng([step, camera == 'primary']).normal(0, 2, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    """States at 20 Hz, cameras 2 and 4 ms behind them; the task changes once."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    rows = [('/task', T0, writer.text_message('pick up the red cube'))]
    for step in range(STEPS):
        at = T0 + step * 50 * MS
        rows.append(('/arm/pose', at + MS, writer.pose_message(at, position(step), (1, 0, 0, 0))))
        rows.append(('/joint_states', at + MS, writer.joints_message(at, FINGERS, (0.02, -0.02))))
        for delay, camera in ((2, 'primary'), (4, 'wrist')):
            message = writer.image_message(at, image(step, camera, texture))
            rows.append((f'/cam/{camera}', at + delay * MS, message))
        if step == 41:  # 70 ms of the bag behind a query, 700 ms as it is played: its answer is
            # out, else the node would discard it
            task = writer.text_message('pick up the green cube')
            rows.append(('/task', at + 20 * MS, task))
    return writer.write(tmp_path_factory.mktemp('bags') / 'run', rows)


@pytest.mark.parametrize('pruning', ['dense', 'specprune', 'specprune:paper'])
def test_same_bag_same_chunks(rig, ros, bag, micro, pruning):
    setting = ReplaySetting(robot=SessionParams(**WIDE))
    with Bag(bag) as opened:
        offline = list(MethodReplay(load_policy(micro, pruning=pruning), setting).answers(opened))
    one = rig(use_sim_time=True, instruction='', replan_period_s=0.2, pruning=pruning, **WIDE)
    one.robot.silent = True
    one.bring_up()
    values = {'bag': str(bag), 'rate': 0.1, 'wait_for_subscribers_s': 30.0}
    player = BagPlayerNode(parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
    one.robot.client.executor.add_node(player)
    try:
        with pytest.raises(ExternalShutdownException):  # the end of the bag
            one.robot.client.spin_for(120.0)
        one.robot.until(lambda: len(one.robot.chunks) == len(offline), 'as many chunks')
        one.robot.until(lambda: len(one.robot.inferences) == len(offline), 'as many records')
    finally:
        player.destroy_node()
    assert [to_ns(c.header.stamp) for c in one.robot.chunks] == [q.stamp_ns for q in offline]
    for chunk, record, query in zip(one.robot.chunks, one.robot.inferences, offline, strict=True):
        found = np.array([point.positions for point in chunk.points])
        np.testing.assert_allclose(found, query.actions, rtol=0, atol=1e-6)
        values = status_values(record.status[0])
        assert values['mode'] == query.record.mode
        kept = {camera: int(values[f'kept_{camera}']) for camera in query.kept}
        assert kept == {camera: int(mask.sum()) for camera, mask in query.kept.items()}
    modes = {query.record.mode for query in offline}
    assert modes == ({'dense'} if pruning == 'dense' else {'dense', 'coarse', 'fine'})
    assert len({query.epoch for query in offline}) == 2
