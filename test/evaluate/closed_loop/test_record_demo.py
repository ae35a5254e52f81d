"""A bag out of the two-cube scene, read back.

Observations and actions are compared with those of a scene of its own, which is told the recorded
commands; what a policy answers to the bag's observations is what it must have commanded."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='needs the extra with rosbags')

from bag_frames import frames

from vla_prune_ros import load_policy
from vla_prune_ros.bags.reader import Bag
from vla_prune_ros.bags.topics import guess_topics
from vla_prune_ros.errors import DataError, VlaPruneError
from vla_prune_ros.evaluate.closed_loop import record_demo as module
from vla_prune_ros.evaluate.closed_loop.record_demo import record_demo
from vla_prune_ros.evaluate.closed_loop.rollout import observe
from vla_prune_ros.evaluate.options import RecordOptions
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.runtime.messages import read_gripper, read_twist
from vla_prune_ros.runtime.params import load_params
from vla_prune_ros.sim.expert import expert_action
from vla_prune_ros.sim.scene import twist_to_action
from vla_prune_ros.train.sources.rosbag import Rosbag

ROOT = Path(__file__).resolve().parents[3]
SIZE = 64
HAND_DOWN = np.array([np.pi, 0.0, 0.0])
UNIT = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5])  # m and rad of an action of 1 (osc_pose.json)


@pytest.fixture(scope='module')
def expert(renderer, tmp_path_factory):
    """Two episodes of the expert: the result and the bag's path."""
    path = tmp_path_factory.mktemp('demo') / 'bag'
    told = []
    options = RecordOptions(path, episodes=2, seed=4, size=SIZE)
    result = asdict(record_demo(options, told.append))
    assert [asdict(episode) for episode in told] == result['episodes']
    return result, path


@pytest.fixture(scope='module')
def scene(renderer):
    from vla_prune_ros.sim.two_cubes import TwoCubeScene

    scene = TwoCubeScene(image_size=SIZE, tasks=('pick_red',))
    yield scene
    scene.close()


@pytest.fixture
def in_one_scene(scene, monkeypatch):
    """Recordings share a scene, which takes seconds to make."""
    monkeypatch.setattr(type(scene), 'close', lambda self: None)
    monkeypatch.setattr(module, 'make_scene', lambda simulator, tasks, image_size: scene)


def seen(path):
    with Bag(path) as bag:
        topics = guess_topics(bag, LIBERO)
        return frames(bag, topics, LIBERO, rotation_mean=HAND_DOWN, period_s=0.0)


def commands(path):
    """Stamp -> velocity (6,), and stamp -> opening of the gripper."""
    with Bag(path) as bag:
        moves = {m.stamp_ns: m.read(read_twist) for m in bag.messages(['/twist'])}
        return moves, {m.stamp_ns: m.read(read_gripper) for m in bag.messages(['/gripper'])}


def test_the_result_tells_what_was_recorded(expert):
    result, path = expert
    steps = [episode['steps'] for episode in result['episodes']]
    assert [(e['seed'], e['task'], e['success']) for e in result['episodes']] == [
        (4, 'pick_red', True),
        (5, 'pick_red', True),
    ]
    each = sum(steps) + 2  # and one where an episode ends
    assert {name: topic['count'] for name, topic in result['topics'].items()} == {
        **dict.fromkeys(('/ee_pose', '/joint_states', '/twist'), each),
        **dict.fromkeys(('/camera/primary/image_raw', '/camera/wrist/image_raw'), each),
        '/gripper': sum(steps),
        '/instruction': 2,
    }
    with Bag(path) as bag:
        assert {n: tuple(t.values()) for n, t in result['topics'].items()} == bag.topics
    assert result['bytes'] == sum(f.stat().st_size for f in path.iterdir())
    assert result['bytes'] > 2 * each * SIZE * SIZE * 3
    assert result['seconds'] == pytest.approx(0.05 * (sum(steps) + 1) + 2.0, abs=0.05)
    assert result['next'] == f'vla-prune replay {path} --params {path}.yaml'


def test_the_parameters_beside_the_bag_are_those_of_the_simulator(expert):
    """As ``config/libero.yaml`` has them, but for the images, which are upright already."""
    result, path = expert
    written = load_params(result['parameters'])
    usual = load_params(ROOT / 'config' / 'libero.yaml')
    assert result['parameters'] == f'{path}.yaml'
    if written.motion_source == 'pose':  # without pinocchio
        usual = replace(usual, motion_source='pose')
    assert written == replace(usual, rotate_180=())


def test_the_bag_gives_what_the_policy_sees_in_the_scene_and_what_the_expert_does(expert, scene):
    result, path = expert
    policy = SimpleNamespace(
        profile=LIBERO,
        statistics=SimpleNamespace(proprio=SimpleNamespace(mean=np.r_[0, 0, 0, HAND_DOWN, 0, 0])),
    )
    found, (moves, grips) = seen(path), commands(path)
    stamps = iter(observation.stamp_ns for observation in found)
    read = iter(found)
    for episode in result['episodes']:
        scene.reset(episode['seed'])
        for step in range(episode['steps'] + 1):
            stamp = next(stamps)
            expected, got = observe(policy, scene, scene.images(), stamp), next(read)
            assert got.instruction == expected.instruction == 'pick up the red cube'
            np.testing.assert_allclose(got.proprio, expected.proprio, rtol=0, atol=1e-9)
            for camera in LIBERO.cameras:
                np.testing.assert_array_equal(got.images[camera], expected.images[camera])
            if step == episode['steps']:
                assert not moves[stamp].any() and stamp not in grips
                break
            action = expert_action(scene)
            np.testing.assert_allclose(moves[stamp] * 0.05, action[:6] * UNIT, atol=1e-12)
            assert grips[stamp] == (0.0 if action[6] > 0 else 1.0)
            scene.step(twist_to_action(moves[stamp][:3], moves[stamp][3:], grips[stamp], 20.0))
        assert scene.success()
    assert next(read, None) is None


def test_training_reads_the_commands_as_the_actions_that_were_made(expert):
    result, path = expert
    moves, grips = commands(path)
    source = Rosbag(path, LIBERO, actions='commands', no_op=None)
    at, samples = 0, iter(source[i] for i in range(len(source)))
    stamps = sorted(moves)
    for episode in result['episodes']:
        steps = episode['steps']
        own = stamps[at : at + steps]
        actions = np.array([[*(moves[s] * 0.05 / UNIT), grips[s]] for s in own])
        for i in range(steps):  # behind the last step there is no label
            sample = next(samples)
            known = min(8, steps - i)
            assert sample.valid.tolist() == [True] * known + [False] * (8 - known)
            np.testing.assert_allclose(sample.chunk[:known], actions[i : i + known], atol=1e-9)
        at += steps + 1
    assert next(samples, None) is None


def test_the_same_options_give_the_same_messages(expert, tmp_path):
    """In another scene, made anew: one episode of the same seed begins like the first there."""
    result, path = expert
    record_demo(RecordOptions(tmp_path / 'bag', seed=4, size=SIZE, steps=6))
    raws = []
    for bag_path in (path, tmp_path / 'bag'):
        with Bag(bag_path) as bag:
            raws.append([(m.place, m.raw) for m in bag.messages(bag.topics)])
    short = raws[1][:-1]  # without the twist that ends the motion
    assert len(short) == 1 + 6 * 6 + 4 and short == raws[0][: len(short)]


def test_limits_storage_and_compression_are_taken(in_one_scene, tmp_path):
    packed, plain = (RecordOptions(tmp_path / name, steps=3) for name in ('packed', 'plain'))
    result = asdict(record_demo(replace(packed, storage='sqlite3', compressed=True)))
    (episode,) = result['episodes']
    assert (episode['steps'], episode['success']) == (3, False)
    assert (tmp_path / 'packed' / 'packed.db3').is_file() and f'{SIZE}x{SIZE}' in result['scene']
    assert result['topics']['/camera/primary/image_raw/compressed'] == {
        'type': 'sensor_msgs/msg/CompressedImage',
        'count': 4,
    }
    record_demo(plain)
    for jpeg, raw in zip(seen(packed.out), seen(plain.out), strict=True):
        for camera, view in raw.images.items():
            assert np.abs(view.astype(int) - jpeg.images[camera]).mean() < 6


def test_a_policy_can_drive_and_answers_the_same_to_what_is_read(in_one_scene, tmp_path):
    checkpoint = make_checkpoint(tmp_path / 'micro', 'micro')
    options = RecordOptions(tmp_path / 'bag', driver='policy', checkpoint=checkpoint, steps=16)
    result = asdict(record_demo(options))
    assert (result['driver'], result['method']) == ('policy', 'dense')
    assert result['next'].endswith(f'bag.yaml --checkpoint {checkpoint}')
    policy = load_policy(checkpoint)
    moves, grips = commands(tmp_path / 'bag')
    reference = policy.statistics.proprio.mean[3:6]
    with Bag(tmp_path / 'bag') as bag:
        topics = guess_topics(bag, LIBERO)
        found = frames(bag, topics, LIBERO, rotation_mean=reference, period_s=0.4)
    stamps = sorted(grips)
    for number, observation in enumerate(found[:2]):
        made = LIBERO.to_si(policy.infer(observation).actions)
        for step, stamp in enumerate(stamps[8 * number : 8 * number + 8]):
            np.testing.assert_allclose(moves[stamp] * 0.05, made[step, :6], atol=1e-9)
            assert grips[stamp] == (1.0 if made[step, 6] > 0.5 else 0.0)
    assert len(stamps) == 16


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        ({'task': 'juggle'}, 'juggle'),
        ({'driver': 'me'}, 'driver'),
        ({'driver': 'policy'}, 'checkpoint'),
        ({'checkpoint': 'x'}, 'checkpoint'),
        ({'method': 'specprune'}, 'specprune'),
        ({'size': 8}, 'size'),
        ({'seed': -1}, 'seed'),
        ({'seed': 2**32 - 1}, 'seed'),
        ({'storage': 'tape'}, 'storage'),
        ({'driver': 'policy', 'checkpoint': '/nope'}, '/nope'),
    ],
    ids=str,
)
def test_what_cannot_be_recorded_leaves_nothing(tmp_path, changes, name):
    with pytest.raises(VlaPruneError, match=name):
        record_demo(RecordOptions(**{'out': tmp_path / 'bag', **changes}))
    assert list(tmp_path.iterdir()) == []


def test_a_bag_that_is_there_stays_unless_it_may_be_replaced(in_one_scene, tmp_path):
    options = RecordOptions(tmp_path / 'bag', steps=1)
    record_demo(options)
    with pytest.raises(DataError, match='bag exists'):
        record_demo(options)
    record_demo(replace(options, seed=1, overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'bag.yaml']
