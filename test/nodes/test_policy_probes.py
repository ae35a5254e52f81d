"""``configure`` refuses a policy that would answer, but wrongly; mended, it configures."""

import shutil

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy')

import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from vla_prune_ros.nodes.client import CLEANUP, CONFIGURE


def assert_refused(one, *words):
    message = one.refusal()
    assert all(w in message for w in words), message
    assert '\n' not in message and 'vla-prune check ' in message, message


def assert_configures(one):
    assert one.change(CONFIGURE), one.robot.text
    assert one.change(CLEANUP)


def test_a_causal_mask_is_refused(one, monkeypatch):
    attend = F.scaled_dot_product_attention

    def causal(q, k, v, **options):
        return attend(q, k, v, **{**options, 'is_causal': True})

    with monkeypatch.context() as patch:
        patch.setattr(F, 'scaled_dot_product_attention', causal)
        assert_refused(one, 'check of its attention', 'causal')
    assert_configures(one)


def test_weights_that_are_not_finite_are_refused(one, micro, tmp_path):
    """In a weight that grey frames do not reach: the embedding of a rare word."""
    folder = shutil.copytree(micro, tmp_path / 'broken')
    file = folder / 'model-00002-of-00002.safetensors'
    tensors = load_file(file)
    tensors['language_model.model.embed_tokens.weight'][31999, 0] = float('nan')
    save_file(tensors, file)
    assert one.set('checkpoint', str(folder)) == ''
    try:
        assert_refused(one, 'check of its weights', 'embed_tokens')
    finally:
        assert one.set('checkpoint', str(micro)) == ''
    assert_configures(one)
