"""Rotary angles survive any cast of the model; reading out less computes the same.

Expected angles: cos and sin of position * theta^(-2i/d), computed with numpy in float64. Float32
angles are at most 600 * 2^-23 = 7e-5 off; rounding to bfloat16, 8 significant bits, adds at most
2^-8 of the value.
"""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from vla_prune_ros.model import language
from vla_prune_ros.model.checkpoint import Variant, load_model
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.base import Layout
from vla_prune_ros.pruning.forward_state import PruningState
from vla_prune_ros.pruning.methods.baselines import Dense

POSITIONS = torch.arange(600)
HEAD_DIM, THETA = 128, 10000.0


def tables(positions, head_dim, theta):
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    frequency = frequency.astype(np.float32).astype(float)
    angle = positions.numpy()[:, None] * np.concatenate([frequency, frequency])
    return np.cos(angle), np.sin(angle)


def rounding(want):
    return 7e-5 + np.abs(want) * 2**-8


def worst(got, want):
    return max(
        (np.abs(g[0].double().numpy() - w) / rounding(w)).max()
        for g, w in zip(got, want, strict=True)
    )


def test_bfloat16_tables_are_rounded_float32_tables():
    got = language.rope(POSITIONS, HEAD_DIM, THETA, torch.bfloat16)
    assert all(t.dtype == torch.bfloat16 for t in got)
    assert worst(got, tables(POSITIONS, HEAD_DIM, THETA)) <= 1


@pytest.mark.parametrize('cast', ['to', 'bfloat16', 'to_and_back'])
def test_a_cast_model_uses_the_same_angles(cast, data_dir, monkeypatch):
    folder = data_dir / 'micro' / 'checkpoint'
    model = load_model(folder, LIBERO, Variant('l1', True, False), 'cpu', torch.float32)
    assert not list(model.buffers()), 'a buffer would be cast'
    model = {
        'to': lambda: model.to(torch.bfloat16),
        'bfloat16': model.bfloat16,
        'to_and_back': lambda: model.to(torch.bfloat16).float().bfloat16(),
    }[cast]()
    seen = []
    apply = language.rotated
    monkeypatch.setattr(
        language,
        'rotated',
        lambda x, cos, sin: seen.append((cos, sin)) or apply(x, cos, sin),
    )
    layout = model.layout(LIBERO.cameras, 12, LIBERO.chunk)
    x = torch.zeros(1, layout.length, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        model.decode(x, layout, Dense())
    config = model.size.text
    theta = config.rope_parameters['rope_theta']
    want = tables(torch.arange(layout.length), config.head_dim, theta)
    assert len(seen) == 2 * config.num_hidden_layers  # keys and queries
    *seen, last = seen  # the queries of the last layer are those that are read
    assert all(worst(pair, want) <= 1 for pair in seen)
    read = list(layout.readout_positions)
    assert worst(last, [table[read] for table in want]) <= 1


SHAPE = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LAYOUT = Layout(('a', 'b'), patches=9, proprio=1, prompt=16, slots=6)


def decoder_and_input(batch):
    torch.manual_seed(batch)
    return language.LanguageModel(SHAPE).eval(), torch.randn(batch, LAYOUT.length, 32)


def dense(trace=None):
    positions = torch.arange(LAYOUT.length)
    return PruningState(layout=LAYOUT, pruner=Dense(), positions=positions, trace=trace)


@torch.inference_mode()
@pytest.mark.parametrize('batch', [1, 3])
def test_the_read_out_rows_alone_are_those_of_the_whole_pass(batch):
    model, x = decoder_and_input(batch)
    got = model(x, dense())
    assert got.shape == (batch, 6, 32)
    torch.testing.assert_close(got, model(x, dense([])), rtol=0, atol=1e-6)
    alone = torch.cat([model(sample[None], dense()) for sample in x])
    torch.testing.assert_close(got, alone, rtol=0, atol=1e-6)


def test_the_read_out_learns_as_the_whole_pass_does():
    """Gradients of the same loss by both routes; the route with gradients has its own kernel."""
    model, x = decoder_and_input(2)
    found = []
    for trace in (None, []):
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        model(leaf, dense(trace)).square().sum().backward()
        weights = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append({**weights, 'input': leaf.grad})
    assert set(found[0]) == set(found[1]) and len(found[0]) > 20
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-4)
