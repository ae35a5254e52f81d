"""Random models: the published shapes and counts, and the published execution against ours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_prune_ros import Observation, load_policy
from vla_prune_ros.errors import ProfileError
from vla_prune_ros.evaluate.bench.models import (
    BENCH_PRESETS,
    ReferenceForward,
    build_bench_model,
    model_size,
    random_network,
)
from vla_prune_ros.evaluate.options import BenchModelOptions
from vla_prune_ros.model.checkpoint import published_shapes
from vla_prune_ros.model.openvla import ActInputs, OpenVLAOFT
from vla_prune_ros.model.synthetic import Preset, make_checkpoint
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.methods.baselines import Dense

DEEP = Preset((32, 3, 2), (40, 4, 2), 64, 172, 32, 4)
MICRO = model_size(BENCH_PRESETS['micro'], LIBERO)
PROMPT = torch.tensor([[1, *range(500, 524), 29871]])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def act_inputs(visual, state, layout):
    return ActInputs(
        visual=visual, prompt_ids=PROMPT, proprio=state, layout=layout, pruner=Dense()
    )


def test_7b_has_the_published_shapes():
    size = model_size(BENCH_PRESETS['7b'], LIBERO)
    shapes = published_shapes(size)
    assert len(shapes) == 982
    assert sum(int(np.prod(s)) for s in shapes.values()) == 7_541_237_184
    with torch.device('meta'):
        network = OpenVLAOFT(size)
    assert parameters(network.action_head) / 1e6 == pytest.approx(151.1, abs=0.05)
    assert parameters(network.proprio_projector) / 1e6 == pytest.approx(16.8, abs=0.05)
    assert size.text.num_hidden_layers == 32


@pytest.mark.parametrize('share', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_activations_stay_near_one_through_32_layers(dtype, share):
    network = random_network(model_size(DEEP, LIBERO), dtype, 'cpu', share_layers=share)
    layout = network.layout(LIBERO.cameras, PROMPT.shape[1], LIBERO.chunk)
    pixels, trace = torch.randn(2, 6, 224, 224).to(dtype), []
    with torch.no_grad():
        visual = network.visual_tokens(pixels, PROMPT)
        x = network.embed(visual, PROMPT, torch.zeros(1, 8, dtype=dtype), layout)
        hidden, _ = network.decode(x, layout, Dense(), trace)
        actions = network.action_head(hidden)
    deviations = [t.float().std().item() for t in (visual, *trace, hidden, actions)]
    assert all(0.02 < d < 20 for d in deviations), deviations


def test_shared_layers_have_one_memory_and_keep_their_number():
    shared = random_network(MICRO, torch.float32, 'cpu', share_layers=True)
    layers = shared.language_model.model.layers
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2]
    for name, first in layers[0].named_parameters():
        assert layers[2].get_parameter(name).data_ptr() == first.data_ptr()
    apart = random_network(MICRO, torch.float32, 'cpu')
    assert parameters(apart) - parameters(shared) == 2 * parameters(layers[0])
    apart.load_state_dict(shared.state_dict())
    layout = apart.layout(LIBERO.cameras, PROMPT.shape[1], 8)
    inputs = act_inputs(torch.randn(1, 512, 64), torch.zeros(1, 8), layout)
    with torch.no_grad():
        one, two = (network.act(inputs).actions for network in (shared, apart))
    assert torch.equal(one, two)


def test_the_seed_decides():
    heads = [
        random_network(MICRO, torch.bfloat16, 'cpu', s).action_head.model.fc1.weight
        for s in (0, 0, 1)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_what_is_reported():
    model = build_bench_model(BenchModelOptions('micro', layers=5, share_layers=True))
    about = model.about
    assert (about['layers'], about['layers_published'], about['shared_layers']) == (5, 3, True)
    assert about['untrained'] is True and about['dtype'] == 'bfloat16'
    held = parameters(model.model)
    assert about['weights_mib'] == pytest.approx(2 * held / 2**20)
    layer = parameters(model.model.language_model.model.layers[0])
    assert about['parameters'] == held + 4 * layer


@pytest.mark.parametrize('profile', ['libero', 'aloha', 'bridge'])
def test_every_profile_infers(profile):
    policy = build_bench_model(BenchModelOptions('micro', profile)).policy('uniform:64')
    out = policy.warm_up()
    assert out.actions.shape == (policy.profile.chunk, policy.profile.action_dim)
    assert np.isfinite(out.actions).all() and policy.untrained
    assert out.visual_tokens == 64 * len(policy.profile.cameras)


def test_a_checkpoint_instead(tmp_path):
    folder = make_checkpoint(tmp_path / 'checkpoint', 'micro')
    model = build_bench_model(BenchModelOptions(checkpoint=folder, dtype='float32'))
    frames = {c: np.full((256, 256, 3), 99, np.uint8) for c in LIBERO.cameras}
    observation = Observation(frames, model.statistics.proprio.mean, 'open the drawer')
    want = load_policy(folder).infer(observation).actions
    assert (model.policy('dense').infer(observation).actions == want).all()
    assert model.about['untrained'] is True and model.about['checkpoint'] == str(folder)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (BenchModelOptions('micro', dtype='int8'), "dtype 'int8' cannot be generated"),
        (BenchModelOptions('micro', device='abacus'), "device 'abacus' is unknown"),
        (BenchModelOptions(checkpoint=Path('x'), layers=2), 'layers of a checkpoint'),
        (BenchModelOptions(checkpoint=Path('x'), share_layers=True), 'layers of a checkpoint'),
        (BenchModelOptions('micro', profile='boat'), "unknown profile 'boat'"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ProfileError, match=match):
        build_bench_model(options)


@pytest.mark.parametrize('change', [{}, {'film': True}, {'head': 'discrete'}, {'proprio_dim': 0}])
def test_the_published_execution_is_the_same_function(change):
    """The stock decoder layers of transformers, with their own attention and cache."""
    size = replace(MICRO, **change)
    network = random_network(size, torch.float32, 'cpu')
    layout = network.layout(LIBERO.cameras, PROMPT.shape[1], LIBERO.chunk)
    images = torch.randint(0, 256, (len(LIBERO.cameras), 224, 224, 3), dtype=torch.uint8)
    state = torch.randn(1, size.proprio_dim) if size.proprio_dim else None
    published = ReferenceForward(network)
    with torch.inference_mode():
        visual = network.encode_images(images, PROMPT)
        torch.testing.assert_close(published.visual(images, PROMPT), visual, rtol=0, atol=1e-4)
        inputs = act_inputs(visual, state, layout)
        ours, theirs = network.act(inputs), published.act(inputs)
    torch.testing.assert_close(theirs.actions, ours.actions, rtol=0, atol=1e-4)
    assert len(theirs.pruning.ids) == layout.visual


def test_the_published_execution_has_no_diffusion_head():
    with pytest.raises(ValueError, match='reference'):
        ReferenceForward(random_network(replace(MICRO, head='diffusion'), torch.float32, 'cpu'))
