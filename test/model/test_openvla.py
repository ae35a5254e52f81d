"""The L1 forward against the original modules (``micro/l1_fp32``, ``attention_fp32``)."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from vla_prune_ros.model.checkpoint import Variant, load_model
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.base import PruningSite
from vla_prune_ros.pruning.methods.baselines import Dense

L1 = Variant('l1', proprio=True, film=False)
close = partial(torch.testing.assert_close, rtol=0, atol=1e-4)


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


@torch.inference_mode()
def test_features_projectors_and_sequence(model, golden, pixels, layout):
    ids = torch.cat([golden['input_ids_prompt'], torch.tensor([[29871]])], dim=1)
    state = golden['proprio_normalized'].float()[None]
    close(model.vision_backbone(pixels), golden['patch_features'])
    close(model.visual_tokens(pixels, ids), golden['projected_patches'])
    close(model.proprio_projector(state)[0], golden['proprio_token'])
    got = model.embed(golden['projected_patches'], ids, state, layout)
    close(got, golden['multimodal_embeddings'])
    assert layout.length == got.shape[1] == golden['multimodal_attention_mask'].shape[1]


@torch.inference_mode()
def test_language_model_and_head(model, golden, layout):
    trace = []
    hidden, _ = model.decode(golden['multimodal_embeddings'], layout, Dense(), trace)
    for i in (0, 1):
        close(trace[i], golden[f'hidden_states.{i + 1}'])
    close(model.language_model.model.norm(trace[2]), golden['hidden_states.3'])
    close(hidden, golden['action_hidden_states'])
    close(model.action_head(hidden), golden['normalized_actions'])


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
        close(watcher.seen[layer], want, atol=1e-6)


@torch.inference_mode()
def test_bfloat16_stays_within_the_published_noise(data_dir):
    golden = load_file(data_dir / 'micro' / 'l1_bf16.safetensors')
    model = load_model(data_dir / 'micro' / 'checkpoint', LIBERO, L1, 'cpu', torch.bfloat16)
    layout = model.layout(LIBERO.cameras, golden['input_ids_full'].shape[1] - 57, LIBERO.chunk)
    hidden, _ = model.decode(golden['multimodal_embeddings'], layout, Dense())
    got = model.action_head(hidden).float()
    close(got[0], golden['normalized_actions'].float().view(8, 7), atol=0.1)
