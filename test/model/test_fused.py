"""Joined weights against transformers' own layers, which multiply part by part."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from vla_prune_ros.model.language import fuse, gated_mlp, query_key_value, reserve

SHAPE = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
ROWS = torch.tensor([2, 5, 6])


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.ModuleList(LlamaDecoderLayer(SHAPE, i) for i in range(3)).requires_grad_(False)


@pytest.fixture
def y():
    return torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))


def parts(layer, y, only=None):
    attn = layer.self_attn
    return attn.q_proj(y if only is None else y[:, only]), attn.k_proj(y), attn.v_proj(y)


def assert_right(layer, y, joined=True):
    calls = []
    names = ('q_proj', 'k_proj', 'v_proj')
    want = [parts(layer, y, only) for only in (None, ROWS)], layer.mlp(y)
    hooks = [
        module.register_forward_hook(lambda *args: calls.append(1))
        for module in (*(getattr(layer.self_attn, n) for n in names), layer.mlp.up_proj)
    ]
    with torch.inference_mode():
        got = [query_key_value(layer.self_attn, y, only) for only in (None, ROWS)]
        mlp = gated_mlp(layer.mlp, y)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(got, want[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(mlp, want[1], rtol=0, atol=1e-6)
    assert len(calls) == (
        1 if joined else 7
    )  # the queries of some rows have a product of their own


def test_products_are_those_of_the_parts(layers, y):
    for layer in layers:
        assert_right(layer, y, joined=False)
    fuse(layers)
    for layer in layers:
        assert_right(layer, y)


def test_names_and_memory_stay(layers):
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    fuse(layers)
    after = layers.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    q, v = layers[0].self_attn.q_proj.weight, layers[0].self_attn.v_proj.weight
    assert q.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert q.untyped_storage().nbytes() == (32 + 2 * 16) * 32 * 4


def test_weights_that_are_read_into_their_places_are_joined(layers, y):
    with torch.device('meta'):
        empty = nn.ModuleList(LlamaDecoderLayer(SHAPE, i) for i in range(3))
    places = reserve(empty, 'cpu', torch.float32)
    read = 0
    for name, value in layers.named_parameters():
        place = places.get(id(empty.get_parameter(name)))
        read += place is not None
        parent, _, leaf = name.rpartition('.')
        value = value if place is None else place.copy_(value)
        setattr(empty.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=False))
    assert read == 3 * 5
    for layer in empty:
        assert_right(layer, y)


def test_what_is_written_to_a_part_is_seen(layers, y):
    fuse(layers)
    with torch.no_grad():
        layers[0].self_attn.k_proj.weight.mul_(2)
        layers[0].mlp.up_proj.weight.add_(1)
    layers[0].load_state_dict(layers[0].state_dict())
    assert_right(layers[0], y)


def test_shared_layers_stay_shared(layers, y):
    for name, value in layers[0].named_parameters():
        parent, _, leaf = name.rpartition('.')
        setattr(layers[1].get_submodule(parent), leaf, value)
    fuse(layers[:2])
    assert layers[0].self_attn.q_proj.weight is layers[1].self_attn.q_proj.weight
    for layer in layers[:2]:
        assert_right(layer, y)


class Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, None

    def forward(self, x):
        return self.base(x) + 1


@pytest.mark.parametrize('before', [True, False])
@pytest.mark.parametrize('name', ['q_proj', 'v_proj'])
def test_an_adapter_is_not_passed_by(layers, y, before, name):
    attn = layers[0].self_attn
    if not before:
        fuse(layers)
    setattr(attn, name, Adapted(getattr(attn, name)))
    if before:
        fuse(layers)
    with torch.inference_mode():
        got = query_key_value(attn, y)
    torch.testing.assert_close(got, parts(layers[0], y), rtol=0, atol=1e-6)


@pytest.mark.parametrize('change', ['cast', 'copied'])
def test_weights_that_moved_are_multiplied_one_by_one(layers, y, change):
    fuse(layers)
    if change == 'copied':
        layers = copy.deepcopy(layers)
        with torch.no_grad():
            layers[0].self_attn.q_proj.weight.add_(1)
        assert_right(layers[0], y, joined=False)
    else:
        layers.double()
        assert_right(layers[0], y.double(), joined=False)


def test_gradients_reach_the_parts(layers, y):
    fuse(layers)
    layers.requires_grad_(True)
    total = sum(t.sum() for t in query_key_value(layers[0].self_attn, y))
    (total + gated_mlp(layers[0].mlp, y).sum()).backward()
    grads = [layers[0].self_attn.k_proj.weight.grad, layers[0].mlp.gate_proj.weight.grad]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_a_bias_keeps_a_layer_as_it_is(y):
    config = copy.deepcopy(SHAPE)
    config.attention_bias = True
    layer = LlamaDecoderLayer(config, 0).requires_grad_(False)
    nn.init.ones_(layer.self_attn.k_proj.bias)
    fuse([layer])
    with torch.inference_mode():
        got = query_key_value(layer.self_attn, y)
    torch.testing.assert_close(got, parts(layer, y), rtol=0, atol=1e-6)
