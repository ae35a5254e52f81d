"""The decoder: attention, rotary angles, joined weights, reading out less.

Expected values: softmax attention by hand in float64; cos and sin of position * theta^(-2i/d) with
numpy in float64; transformers' own layers, which multiply part by part, and its LlamaModel with an
open mask. Float32 angles are at most 600 * 2^-23 = 7e-5 off; rounding to bfloat16, 8 significant
bits, adds at most 2^-8 of the value.
"""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from vla_prune_ros.model import language
from vla_prune_ros.model.checkpoint import Variant, load_model
from vla_prune_ros.model.language import fuse, gated_mlp, query_key_value, reserve
from vla_prune_ros.model.vision import attend
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.base import Layout
from vla_prune_ros.pruning.forward_state import PruningState
from vla_prune_ros.pruning.methods.baselines import Dense

SHAPE = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LAYOUT = Layout(('a', 'b'), patches=9, proprio=1, prompt=16, slots=6)


def attention_by_hand(q, k, v, scale):
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    for b, h, s in product(*map(range, q.shape[:3])):
        scores = [scale * float(q[b, h, s] @ key) for key in k[b, h]]
        weights = [math.exp(score - max(scores)) for score in scores]
        for weight, value in zip(weights, v[b, h], strict=True):
            out[b, h, s] += weight / sum(weights) * value.double()
    return out


def attention_inputs(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = (2, 2, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)
    return [torch.randn(shape, generator=draw, dtype=dtype) * 2 for shape in shapes]


@pytest.mark.parametrize('scale', [None, 0.7])
@pytest.mark.parametrize('learning', [False, True])
def test_with_and_without_gradient_it_is_softmax_attention(scale, learning):
    q, k, v = attention_inputs()
    want = attention_by_hand(q, k, v, 8**-0.5 if scale is None else scale)
    got = attend(q.requires_grad_(learning), k, v, scale)
    assert got.requires_grad == learning
    torch.testing.assert_close(got.detach().double(), want, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, scale), got.detach(), rtol=0, atol=1e-5)


def test_the_gradient_of_attention_is_that_of_small_differences():
    q, k, v = (t[:1, :1, :2, :4].clone().requires_grad_() for t in attention_inputs(torch.float64))
    assert torch.autograd.gradcheck(lambda *given: attend(*given, 0.5), (q, k, v))


def angle_tables(count, head_dim, theta):
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    frequency = frequency.astype(np.float32).astype(float)
    angle = np.arange(count)[:, None] * np.concatenate([frequency, frequency])
    return np.cos(angle), np.sin(angle)


def worst(got, want):
    """In units of what rounding may cost."""
    return max(
        (np.abs(g[0].double().numpy() - w) / (7e-5 + np.abs(w) * 2**-8)).max()
        for g, w in zip(got, want, strict=True)
    )


@pytest.mark.parametrize(
    'cast',
    [lambda m: m.to(torch.bfloat16), lambda m: m.to(torch.bfloat16).float().bfloat16()],
    ids=['once', 'to and back'],
)
def test_a_cast_model_uses_the_same_angles(cast, data_dir, monkeypatch):
    folder = data_dir / 'micro' / 'checkpoint'
    model = load_model(folder, LIBERO, Variant('l1', True, False), 'cpu', torch.float32)
    assert not list(model.buffers()), 'a buffer would be cast'
    model = cast(model)
    seen, apply = [], language.rotated
    monkeypatch.setattr(
        language, 'rotated', lambda x, cos, sin: seen.append((cos, sin)) or apply(x, cos, sin)
    )
    layout = model.layout(LIBERO.cameras, 12, LIBERO.chunk)
    with torch.inference_mode():
        model.decode(torch.zeros(1, layout.length, 64, dtype=torch.bfloat16), layout, Dense())
    config = model.size.text
    want = angle_tables(layout.length, config.head_dim, config.rope_parameters['rope_theta'])
    assert len(seen) == 2 * config.num_hidden_layers  # keys and queries
    *seen, last = seen  # the queries of the last layer are those that are read
    assert all(worst(pair, want) <= 1 for pair in seen)
    read = list(layout.readout_positions)
    assert worst(last, [table[read] for table in want]) <= 1


def decoder_and_input(batch):
    torch.manual_seed(batch)
    return language.LanguageModel(SHAPE).eval(), torch.randn(batch, LAYOUT.length, 32)


def dense(trace=None):
    positions = torch.arange(LAYOUT.length)
    return PruningState(layout=LAYOUT, pruner=Dense(), positions=positions, trace=trace)


@torch.inference_mode()
def test_the_loop_equals_transformers_with_an_open_mask():
    """An independent route to bidirectional attention: LlamaModel with a 4-D mask of zeros."""
    ours, x = decoder_and_input(1)
    reference = LlamaModel(SHAPE).eval()
    reference.load_state_dict(ours.model.state_dict())
    mask = torch.zeros(1, 1, LAYOUT.length, LAYOUT.length)
    want = reference(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
    want = want[:, list(LAYOUT.readout_positions)]
    torch.testing.assert_close(ours(x, dense()), want, rtol=0, atol=1e-5)


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


class TestJoinedWeights:
    @pytest.fixture
    def layers(self):
        torch.manual_seed(0)
        return nn.ModuleList(LlamaDecoderLayer(SHAPE, i) for i in range(3)).requires_grad_(False)

    @pytest.fixture
    def y(self):
        return torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(1))

    def parts(self, attn, y, only=slice(None)):
        return attn.q_proj(y[:, only]), attn.k_proj(y), attn.v_proj(y)

    @torch.inference_mode()
    def check_queries(self, attn, y):
        got = query_key_value(attn, y)
        torch.testing.assert_close(got, self.parts(attn, y), rtol=0, atol=1e-6)

    def check(self, layer, y, joined=True):
        """Products are those of the parts, and how many parts were called for them."""
        attn, rows, calls = layer.self_attn, torch.tensor([2, 5, 6]), []
        want = [self.parts(attn, y), self.parts(attn, y, rows), layer.mlp(y)]
        watched = attn.q_proj, attn.k_proj, attn.v_proj, layer.mlp.up_proj
        hooks = [m.register_forward_hook(lambda *args: calls.append(1)) for m in watched]
        with torch.inference_mode():
            got = [query_key_value(attn, y, only) for only in (None, rows)]
            got.append(gated_mlp(layer.mlp, y))
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
        assert len(calls) == (1 if joined else 7)  # queries of some rows are a product apart

    def test_products_names_and_memory_stay(self, layers, y):
        self.check(layers[2], y, joined=False)
        before = {name: value.clone() for name, value in layers.state_dict().items()}
        fuse(layers)
        after = layers.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], value) for name, value in before.items())
        q, v = layers[0].self_attn.q_proj.weight, layers[0].self_attn.v_proj.weight
        assert q.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
        assert q.untyped_storage().nbytes() == (32 + 2 * 16) * 32 * 4
        for layer in layers:
            self.check(layer, y)

    def test_weights_that_are_read_into_their_places_are_joined(self, layers, y):
        with torch.device('meta'):
            empty = nn.ModuleList(LlamaDecoderLayer(SHAPE, i) for i in range(3))
        places = reserve(empty, 'cpu', torch.float32)
        assert len(places) == 3 * 5
        for name, value in layers.named_parameters():
            place = places.get(id(empty.get_parameter(name)))
            parent, _, leaf = name.rpartition('.')
            value = value if place is None else place.copy_(value)
            setattr(empty.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=False))
        for layer in empty:
            self.check(layer, y)

    def test_what_is_written_to_a_part_is_seen(self, layers, y):
        fuse(layers)
        with torch.no_grad():
            layers[0].self_attn.k_proj.weight.mul_(2)
            layers[0].mlp.up_proj.weight.add_(1)
        layers[0].load_state_dict(layers[0].state_dict())
        self.check(layers[0], y)

    def test_shared_layers_stay_shared(self, layers, y):
        for name, value in layers[0].named_parameters():
            parent, _, leaf = name.rpartition('.')
            setattr(layers[1].get_submodule(parent), leaf, value)
        fuse(layers[:2])
        assert layers[0].self_attn.q_proj.weight is layers[1].self_attn.q_proj.weight
        for layer in layers[:2]:
            self.check(layer, y)

    @pytest.mark.parametrize('before', [True, False])
    @pytest.mark.parametrize('name', ['q_proj', 'v_proj'])
    def test_an_adapter_is_not_passed_by(self, layers, y, before, name):
        class Adapted(nn.Module):
            def __init__(self, base):
                super().__init__()
                self.base, self.weight, self.bias = base, base.weight, None

            def forward(self, x):
                return self.base(x) + 1

        attn = layers[0].self_attn
        if not before:
            fuse(layers)
        setattr(attn, name, Adapted(getattr(attn, name)))
        if before:
            fuse(layers)
        self.check_queries(attn, y)

    def test_weights_that_moved_are_multiplied_one_by_one(self, layers, y):
        fuse(layers)
        moved = copy.deepcopy(layers)
        with torch.no_grad():
            moved[0].self_attn.q_proj.weight.add_(1)
        self.check(moved[0], y, joined=False)
        self.check(layers.double()[0], y.double(), joined=False)

    def test_gradients_reach_the_parts(self, layers, y):
        fuse(layers)
        layers.requires_grad_(True)
        total = sum(t.sum() for t in query_key_value(layers[0].self_attn, y))
        (total + gated_mlp(layers[0].mlp, y).sum()).backward()
        grads = [layers[0].self_attn.k_proj.weight.grad, layers[0].mlp.gate_proj.weight.grad]
        assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)

    def test_a_bias_keeps_a_layer_as_it_is(self, y):
        config = copy.deepcopy(SHAPE)
        config.attention_bias = True
        layer = LlamaDecoderLayer(config, 0).requires_grad_(False)
        nn.init.ones_(layer.self_attn.k_proj.bias)
        fuse([layer])
        self.check_queries(layer.self_attn, y)
