"""A policy node that cannot load: one line that names the thing and the mend, and a second try."""

import json
import shutil

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')


from vla_prune_ros.engine import policy
from vla_prune_ros.nodes.client import CLEANUP, CONFIGURE


def remove(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


def truncate(folder, pattern):
    path = next(folder.glob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_config(folder):
    remove(folder, 'config.json')


def config_is_no_json(folder):
    (folder / 'config.json').write_text('{"llm')


def config_of_another_model(folder):
    (folder / 'config.json').write_text('{"model_type": "llama"}')


def no_statistics(folder):
    remove(folder, 'dataset_statistics.json')


def statistics_are_no_json(folder):
    truncate(folder, 'dataset_statistics.json')


def statistics_lack_a_field(folder):
    path = folder / 'dataset_statistics.json'
    statistics = json.loads(path.read_text())
    del next(iter(statistics.values()))['action']['q01']
    path.write_text(json.dumps(statistics))


def no_weights(folder):
    remove(folder, 'model-*.safetensors')


def one_shard_missing(folder):
    remove(folder, 'model-00002*.safetensors')


def weights_cut_short(folder):
    truncate(folder, 'model-00001*.safetensors')


def index_is_no_json(folder):
    truncate(folder, 'model.safetensors.index.json')


def no_head(folder):
    remove(folder, 'action_head*')


def head_cut_short(folder):
    truncate(folder, 'action_head*')


def no_proprio_projector(folder):
    remove(folder, 'proprio_projector*')


def no_tokenizer(folder):
    remove(folder, 'tokenizer*')


def tokenizer_is_no_json(folder):
    truncate(folder, 'tokenizer.json')


BROKEN = {
    no_config: 'config.json',
    config_is_no_json: 'config.json',
    config_of_another_model: 'config.json',
    no_statistics: 'dataset_statistics.json',
    statistics_are_no_json: 'dataset_statistics.json',
    statistics_lack_a_field: 'q01',
    no_weights: 'safetensors',
    one_shard_missing: 'model-00002',
    weights_cut_short: 'model-00001',
    index_is_no_json: 'index.json',
    no_head: 'action_head',
    head_cut_short: 'action_head',
    no_proprio_projector: 'proprio_projector',
    no_tokenizer: 'tokenizer',
    tokenizer_is_no_json: 'tokenizer.json',
}

WRONG = [
    ('checkpoint', '', ('parameter checkpoint is empty', 'folder of a checkpoint')),
    ('checkpoint', '/nowhere/at/all', ("'/nowhere/at/all' is not a folder",)),
    ('profile', 'nope', ("'nope'", 'libero')),
    ('profile', 'aloha', ("'aloha'", 'joint_positions')),
    ('profile', 'bridge', ('proprio',)),
    ('profile', '/nowhere.yaml', ('/nowhere.yaml',)),
    ('unnorm_key', 'bridge_orig', ("'bridge_orig'", "'untrained'")),
    ('tokenizer', '/nowhere', ('/nowhere',)),
    ('pruning', 'nope:3', ("'nope", 'dense', 'uniform')),
    ('pruning', 'uniform:0', ('uniform', '0')),
    ('pruning', 'lightvla', ('trained without pruning', 'pruning.json', 'force: true')),
    ('device', 'tpu', ("'tpu'", "'cpu'")),
    ('engine', 'graphs', ("does not exist on device 'cpu'", "'auto'")),
    ('rotate_180', ['front'], ("'front'", 'primary')),
    ('gripper_signs', [1.0], ('gripper signs', 'for each joint')),
    ('gripper_signs', [1.0, 0.5], ('gripper signs', '1 or -1')),
    ('gripper_signs', [1.0, 5.0], ('gripper_signs', 'above 1')),
    ('gripper_joints', ['a', 'a'], ('gripper joints', 'once')),
    ('motion_source', 'gyroscope', ("'gyroscope'", 'joint_velocities')),
    ('motion_source', 'joint_speed', ('reach of 0.0 m', 'stretched arm')),
    ('motion_source', 'joint_velocities', ('ee_link is empty', 'link of the hand')),
    ('pose_offset_m', [1.0], ('pose_offset_m', 'x, y and z')),
    ('pose_offset_m', [float('nan'), 0.0, 0.0], ('pose_offset_m', 'nan')),
]


def assert_refused(one, *words):
    message = one.refusal()
    assert all(w in message for w in words), message
    assert '\n' not in message and '; ' in message and len(message) < 400, message


def assert_configures(one):
    assert one.change(CONFIGURE), one.robot.text
    assert one.change(CLEANUP)


@pytest.mark.parametrize(('name', 'value', 'words'), WRONG, ids=lambda v: str(v)[:20])
def test_a_wrong_parameter_is_named_and_can_be_mended(one, name, value, words):
    good = one.node.get_parameter(name).value
    assert one.set(name, value) == ''
    try:
        assert_refused(one, *words)
    finally:
        assert one.set(name, good) == ''
    assert_configures(one)


@pytest.mark.parametrize('spoil', BROKEN, ids=lambda v: v.__name__)
def test_a_broken_checkpoint_is_named_and_can_be_mended(one, micro, tmp_path, spoil):
    broken = tmp_path / 'broken'
    shutil.copytree(micro, broken)
    spoil(broken)
    assert one.set('checkpoint', str(broken)) == ''
    try:
        assert_refused(one, BROKEN[spoil])
    finally:
        assert one.set('checkpoint', str(micro)) == ''
    assert_configures(one)


ERRORS = [
    (RuntimeError('CUDA out of memory.\nTried to allocate 14 GiB'), 'CUDA out of memory.'),
    (MemoryError(), 'MemoryError'),
    (KeyError('vision_backbone'), 'vision_backbone'),
]


@pytest.mark.parametrize(('error', 'words'), ERRORS, ids=lambda v: type(v).__name__)
def test_no_error_leaves_the_node_in_loading(one, monkeypatch, error, words):
    def fail(self, **how):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(policy.Policy, 'warm_up', fail)
        assert_refused(one, 'loading failed', words)
    assert_configures(one)


def test_after_all_refusals_chunks_come(one):
    one.bring_up()
    one.robot.silent = False
    one.robot.next_chunk()
