"""The L1 forward against the original modules (``micro/l1_fp32``, ``attention_fp32``)."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel

from vla_prune_ros.model.checkpoint import Variant, load_model
from vla_prune_ros.model.language import LanguageModel
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.base import Layout, PruningSite
from vla_prune_ros.pruning.forward_state import PruningState
from vla_prune_ros.pruning.methods.baselines import Dense

TOLERANCE = {'rtol': 0, 'atol': 1e-4}


L1 = Variant('l1', proprio=True, film=False)


@pytest.fixture(scope='module')
def golden(data_dir):
    return load_file(data_dir / 'micro' / 'l1_fp32.safetensors')


@pytest.fixture(scope='module')
def model(data_dir):
    return load_model(data_dir / 'micro' / 'checkpoint', LIBERO, L1, 'cpu', torch.float32)


@pytest.fixture(scope='module')
def pixels(golden):
    return golden['pixel_values'].view(2, 6, 224, 224)


@pytest.fixture(scope='module')
def layout(model, golden):
    # The prompt file ends before 29871; the model receives it behind.
    return model.layout(LIBERO.cameras, golden['input_ids_prompt'].shape[1] + 1, LIBERO.chunk)


@pytest.mark.parametrize(
    ('tower', 'channels', 'name', 'blocks'),
    [('featurizer', slice(0, 3), 'dino', 2), ('fused_featurizer', slice(3, 6), 'siglip', 3)],
)
@torch.inference_mode()
def test_towers(model, golden, pixels, tower, channels, name, blocks):
    trace = []
    getattr(model.vision_backbone, tower)(pixels[:1, channels], trace=trace)
    assert len(trace) == 1 + blocks
    torch.testing.assert_close(trace[0], golden[f'image0.{name}.patch_embed'], **TOLERANCE)
    for i in range(blocks):
        torch.testing.assert_close(trace[1 + i], golden[f'image0.{name}.block{i}'], **TOLERANCE)


@torch.inference_mode()
def test_features_and_projector(model, golden, pixels):
    torch.testing.assert_close(
        model.vision_backbone(pixels), golden['patch_features'], **TOLERANCE
    )
    torch.testing.assert_close(
        model.visual_tokens(pixels, golden['input_ids_prompt']),
        golden['projected_patches'],
        **TOLERANCE,
    )


@torch.inference_mode()
def test_proprio_token(model, golden):
    token = model.proprio_projector(golden['proprio_normalized'].float()[None])
    torch.testing.assert_close(token[0], golden['proprio_token'], **TOLERANCE)


@torch.inference_mode()
def test_sequence(model, golden, layout):
    ids = torch.cat([golden['input_ids_prompt'], torch.tensor([[29871]])], dim=1)
    got = model.embed(
        golden['projected_patches'], ids, golden['proprio_normalized'].float()[None], layout
    )
    torch.testing.assert_close(got, golden['multimodal_embeddings'], **TOLERANCE)
    assert layout.length == got.shape[1] == golden['multimodal_attention_mask'].shape[1]


@torch.inference_mode()
def test_language_model_and_head(model, golden, layout):
    trace = []
    hidden, _ = model.decode(golden['multimodal_embeddings'], layout, Dense(), trace)
    for i in (0, 1):
        torch.testing.assert_close(trace[i], golden[f'hidden_states.{i + 1}'], **TOLERANCE)
    norm = model.language_model.model.norm
    torch.testing.assert_close(norm(trace[2]), golden['hidden_states.3'], **TOLERANCE)
    torch.testing.assert_close(hidden, golden['action_hidden_states'], **TOLERANCE)
    torch.testing.assert_close(
        model.action_head(hidden), golden['normalized_actions'], **TOLERANCE
    )


class Watcher(Dense):
    def __init__(self, layers, rows):
        object.__setattr__(self, 'sites', tuple(PruningSite(layer, rows) for layer in layers))
        object.__setattr__(self, 'seen', {})

    def keep(self, view):
        self.seen[view.site.layer] = view.attention


@torch.inference_mode()
def test_attention_rows_equal_the_full_maps(model, golden, layout, data_dir):
    maps = load_file(data_dir / 'micro' / 'attention_fp32.safetensors')
    first = layout.visual + 1  # the maps hold the rows from the proprio position on
    watcher = Watcher((0, 1, 2), lambda where: where.slot_positions)
    model.decode(golden['multimodal_embeddings'], layout, watcher)
    rows = slice(layout.slot_positions.start - first, layout.slot_positions.stop - first)
    for layer in (0, 1, 2):
        want = maps[f'head_mean.layer{layer}'][rows, 1 : 1 + layout.visual]
        torch.testing.assert_close(watcher.seen[layer], want, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_bfloat16_stays_within_the_published_noise(data_dir):
    golden = load_file(data_dir / 'micro' / 'l1_bf16.safetensors')
    model = load_model(data_dir / 'micro' / 'checkpoint', LIBERO, L1, 'cpu', torch.bfloat16)
    prompt = golden['input_ids_full'].shape[1] - 57
    layout = model.layout(LIBERO.cameras, prompt, LIBERO.chunk)
    hidden, _ = model.decode(golden['multimodal_embeddings'], layout, Dense())
    got = model.action_head(hidden).float()
    torch.testing.assert_close(
        got[0], golden['normalized_actions'].float().view(8, 7), rtol=0, atol=0.1
    )


@torch.inference_mode()
def test_the_loop_equals_transformers_with_an_open_mask():
    """An independent route to bidirectional attention: LlamaModel with a 4-D mask of zeros."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    reference = LlamaModel(config).eval()
    ours = LanguageModel(config).eval()
    ours.model.load_state_dict(reference.state_dict())
    layout = Layout(('a',), patches=9, proprio=1, prompt=16, slots=6)
    x = torch.randn(1, layout.length, 32)
    walk = PruningState(layout=layout, pruner=Dense(), positions=torch.arange(layout.length))
    mask = torch.zeros(1, 1, layout.length, layout.length)
    want = reference(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
    torch.testing.assert_close(
        ours(x, walk), want[:, list(layout.readout_positions)], rtol=0, atol=1e-5
    )
