"""A policy node that cannot load, or would answer wrongly: one line that names thing and remedy,
and a second try."""

import shutil

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from vla_prune_ros.engine import policy
from vla_prune_ros.nodes.client import CLEANUP, CONFIGURE


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_model(path):
    path.write_text('{"model_type": "llama"}')


def not_finite(path):
    """In a weight that grey frames do not reach: the embedding of a rare word."""
    tensors = load_file(path)
    tensors['language_model.model.embed_tokens.weight'][31999, 0] = float('nan')
    save_file(tensors, path)


BROKEN = [
    ('config.json', remove, ('config.json',)),
    ('config.json', another_model, ('config.json',)),
    ('dataset_statistics.json', truncate, ('dataset_statistics.json',)),
    (
        'model-00002*.safetensors',
        not_finite,
        ('check of its weights', 'embed_tokens', 'vla-prune check '),
    ),
    ('model.safetensors.index.json', truncate, ('index.json',)),
    ('action_head*', truncate, ('action_head',)),
    ('proprio_projector*', remove, ('proprio_projector',)),
    ('tokenizer*', remove, ('tokenizer',)),
    ('tokenizer.json', truncate, ('tokenizer.json',)),
]

WRONG = [
    ('checkpoint', '', ('parameter checkpoint is empty', 'folder of a checkpoint')),
    ('checkpoint', '/nowhere/at/all', ("'/nowhere/at/all' is not a folder",)),
    ('profile', 'aloha', ("'aloha'", 'joint_positions')),
    ('profile', 'bridge', ('proprio',)),
    ('tokenizer', '/nowhere', ('/nowhere',)),
    ('pruning', 'nope:3', ("'nope", 'dense', 'uniform')),
    ('pruning', 'lightvla', ('trained without pruning', 'pruning.json', 'force: true')),
    ('engine', 'graphs', ("does not exist on device 'cpu'", "'auto'")),
    ('gripper_signs', [1.0, 5.0], ('gripper_signs', 'above 1')),
    ('motion_source', 'joint_velocities', ('ee_link is empty', 'link of the hand')),
    ('pose_offset_m', [float('nan'), 0.0, 0.0], ('pose_offset_m', 'nan')),
]


def assert_refused(one, *words):
    message = one.refusal()
    assert all(w in message for w in words), message
    assert '\n' not in message and '; ' in message and len(message) < 400, message


def assert_configures(one):
    assert one.change(CONFIGURE), one.robot.text
    assert one.change(CLEANUP)


def assert_refused_then_configures(one, name, value, *words):
    good = one.node.get_parameter(name).value
    assert one.set(name, value) == ''
    try:
        assert_refused(one, *words)
    finally:
        assert one.set(name, good) == ''
    assert_configures(one)


@pytest.mark.parametrize(('name', 'value', 'words'), WRONG, ids=lambda v: str(v)[:20])
def test_a_wrong_parameter_is_named_and_can_be_set_right(one, name, value, words):
    assert_refused_then_configures(one, name, value, *words)


@pytest.mark.parametrize(
    ('files', 'spoil', 'words'), BROKEN, ids=lambda v: getattr(v, '__name__', None)
)
def test_a_broken_checkpoint_is_named_and_can_be_replaced(
    one, micro, tmp_path, files, spoil, words
):
    broken = shutil.copytree(micro, tmp_path / 'broken')
    for path in broken.glob(files):
        spoil(path)
    assert_refused_then_configures(one, 'checkpoint', str(broken), *words)


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


def test_a_causal_mask_is_refused(one, monkeypatch):
    attend = F.scaled_dot_product_attention

    def causal(q, k, v, **options):
        return attend(q, k, v, **{**options, 'is_causal': True})

    with monkeypatch.context() as patch:
        patch.setattr(F, 'scaled_dot_product_attention', causal)
        assert_refused(one, 'check of its attention', 'causal', 'vla-prune check ')
    assert_configures(one)


def test_after_all_refusals_chunks_come(one):
    one.bring_up()
    one.robot.silent = False
    one.robot.next_chunk()
