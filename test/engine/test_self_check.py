"""Every probe passes on the published variants and fails on the mistake it is there for, which is
made in the model itself. Fixed ids and the hash are those of the published Llama-2 tokenizer."""

import copy
import re
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vla_prune_ros
from vla_prune_ros.engine.quantize import quantize_module
from vla_prune_ros.engine.self_check import (
    LLAMA2_SHA256,
    check_tokenizer,
    probe_policy,
    require_sound,
    tokenizer_hash,
)
from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.model import language
from vla_prune_ros.model.openvla import OpenVLAOFT
from vla_prune_ros.model.prompt import PromptTokenizer
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.pruning.base import Layout

VARIANTS = {
    'l1': ((), {}),
    'bfloat16': ((), {'dtype': 'bfloat16'}),
    'pruned': ((), {'pruning': 'uniform:64'}),
    'one camera': ((), {'cameras': ('primary',)}),
    'discrete': ((), {'head': 'discrete'}),
    'diffusion': (('micro/checkpoint_diffusion',), {}),
    'film': (('micro/checkpoint_film',), {}),
    'aloha': (('micro_aloha/checkpoint', 'micro_aloha/checkpoint_film'), {'profile': 'aloha'}),
}


@pytest.fixture(scope='module')
def loaded(load):
    return load()


@pytest.fixture
def policy(loaded):
    return copy.deepcopy(loaded)


def failures(policy, dry=None):
    found = probe_policy(policy, dry)
    assert all(f.ok == (not f.reason) and '\n' not in f.reason for f in found)
    return {f.name: f.reason for f in found if not f.ok}


@pytest.mark.parametrize('variant', VARIANTS)
def test_all_probes_pass_on_every_variant(variant, load_variant):
    sources, options = VARIANTS[variant]
    assert failures(load_variant(*sources, **options)) == {}


def test_probes_leave_no_trace(load_variant, observation):
    policy, untouched = (
        load_variant('micro/checkpoint_diffusion', diffusion_steps=2) for _ in 'ab'
    )
    require_sound(policy)
    np.testing.assert_array_equal(
        policy.infer(observation).actions, untouched.infer(observation).actions
    )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_causal_mask_is_found(load, monkeypatch, dtype):
    policy = load(dtype=dtype)
    attend = F.scaled_dot_product_attention

    def causal(q, k, v, **options):
        return attend(q, k, v, **{**options, 'is_causal': True})

    monkeypatch.setattr(F, 'scaled_dot_product_attention', causal)
    found = failures(policy)
    assert 'row 0 ' in found['attention'] and (dtype == 'bfloat16' or len(found) == 1)


@pytest.mark.parametrize('shift', [-2, -1, 1])
def test_a_shifted_read_out_is_found_with_its_distance(policy, monkeypatch, shift):
    def shifted(layout):
        slots = layout.slot_positions
        return range(slots.start - 1 + shift, slots.stop - 1 + shift)

    monkeypatch.setattr(Layout, 'readout_positions', property(shifted))
    assert f'{shift:+d}' in failures(policy)['read-out']


def test_a_norm_that_is_left_out_is_found(policy):
    policy.model.language_model.model.norm.register_forward_hook(
        lambda module, args, out: args[0] if out.shape[1] == 56 else out
    )
    assert 'read-out' in failures(policy)


@pytest.mark.parametrize(
    ('module', 'field', 'eps'),
    [
        ('language_model.model.norm', 'variance_epsilon', 1e-5),
        ('vision_backbone.featurizer.blocks.0.norm1', 'eps', 1e-5),
        ('action_head.model.layer_norm1', 'eps', 1e-6),
    ],
)
def test_one_other_epsilon_is_found(policy, module, field, eps):
    setattr(policy.model.get_submodule(module), field, eps)
    found = failures(policy)
    assert list(found) == ['norm eps'] and module in found['norm eps']


def test_rotary_frequencies_in_bfloat16_are_found(policy, monkeypatch):
    def rounded(positions, head_dim, theta, dtype):
        exponent = torch.arange(0, head_dim, 2) / head_dim
        frequency = (1.0 / theta**exponent).to(torch.bfloat16).float()
        angles = positions[None, :, None].float() * torch.cat([frequency, frequency])
        return angles.cos().to(dtype), angles.sin().to(dtype)

    monkeypatch.setattr(language, 'rope', rounded)
    assert list(failures(policy)) == ['rotary angles']


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        # State before images; no stop token; slots that are not zero. 8 visual tokens.
        (lambda x: [x[:, :1], x[:, 9:10], x[:, 1:9], x[:, 10:]], 'visual tokens'),
        (lambda x: [x[:, :-1], torch.zeros_like(x[:, :1])], '</s>'),
        (lambda x: [x[:, :-57], x[:, :1].expand(-1, 56, -1), x[:, -1:]], 'slots'),
    ],
)
def test_a_part_of_the_sequence_in_the_wrong_place(policy, monkeypatch, change, part):
    embed = OpenVLAOFT.embed
    monkeypatch.setattr(OpenVLAOFT, 'embed', lambda *a, **k: torch.cat(change(embed(*a, **k)), 1))
    assert part in failures(policy)['sequence']


@pytest.mark.parametrize(
    ('what', 'change'),
    [
        ('action', lambda b: replace(b, low=b.high, high=b.low)),
        ('action', lambda b: replace(b, low=b.low * np.nan)),
        ('action', lambda b: replace(b, mask=b.mask & False)),
        ('action', lambda b: replace(b, low=b.low[:6])),
        ('proprio', lambda b: replace(b, high=b.low)),
    ],
)
def test_limits_that_cannot_be(policy, what, change):
    dry = policy.warm_up()
    bounds = getattr(policy.statistics, what)
    policy.statistics = replace(policy.statistics, **{what: change(bounds)})
    reason = failures(policy, dry)['statistics']
    assert what in reason and 'libero_spatial_no_noops' in reason


def test_a_masked_limit_may_be_anything(policy):
    bounds = policy.statistics.action
    high = np.where(bounds.mask, bounds.high, bounds.low)
    policy.statistics = replace(policy.statistics, action=replace(bounds, high=high))
    assert failures(policy) == {}


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize(
    'name',
    ['language_model.model.layers.0.mlp.up_proj.weight', 'vision_backbone.featurizer.pos_embed'],
)
def test_one_value_is_found_by_the_name_of_its_tensor(policy, name, value):
    policy.model.get_parameter(name).view(-1)[7] = value
    assert name in failures(policy)['weights']
    with pytest.raises(CheckpointError, match=re.escape(name)) as caught:
        require_sound(policy)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', ['int8', 'int4'])
def test_scales_of_quantised_weights_are_probed(policy, kind):
    pytest.importorskip('torchao')
    for name in [n for n, _ in policy.model.named_modules()]:
        quantize_module(policy.model, name, kind)
    assert failures(policy) == {}
    name = 'language_model.model.layers.2.self_attn.o_proj.scale'
    policy.model.get_buffer(name).view(-1)[0] = float('inf')
    assert name in failures(policy)['weights']


class TestTokenizer:
    def value(self, policy):
        return {f.name: f.value for f in probe_policy(policy)}['tokenizer']

    def test_the_published_one(self, policy, golden_dir):
        assert self.value(policy) == 'Llama-2 by its ids'  # without its hash
        assert not policy.untrained
        policy.tokenizer = PromptTokenizer(golden_dir / 'tokenizer')
        assert self.value(policy) == 'Llama-2'
        assert tokenizer_hash(golden_dir / 'tokenizer' / 'tokenizer.model') == LLAMA2_SHA256

    def test_a_stand_in_is_named_and_does_not_fail(self, tmp_path):
        policy = vla_prune_ros.load_policy(make_checkpoint(tmp_path / 'ck', 'micro'))
        assert failures(policy) == {} and self.value(policy) == 'stand-in, not Llama-2'
        assert policy.untrained and policy.describe()['untrained'] is True

    @pytest.mark.parametrize(
        'spoil',
        [
            lambda ids: ids[1:],
            lambda ids: [1, *ids],
            lambda ids: ids[:-1],
            lambda ids: [*ids[:12], 32064, *ids[13:]],  # beyond the rows of the table
            lambda ids: [*ids[:-3], 9, *ids[-2:]],
        ],
    )
    def test_a_broken_frame(self, policy, spoil):
        good = policy.tokenizer
        policy.tokenizer = Mock(path=good.path, side_effect=lambda text: spoil(good(text)))
        assert check_tokenizer(policy).reason


def test_a_dry_run_that_cannot_be(policy):
    for actions in (np.full((8, 7), np.inf), np.ones(7)):
        assert 'dry run' in failures(policy, replace(policy.warm_up(), actions=actions))
