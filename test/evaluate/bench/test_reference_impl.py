"""The published execution against ours: the stock decoder layers of transformers, driven by their
own attention and cache, must say what our loop says."""

from dataclasses import replace

import pytest
import torch

from vla_prune_ros.evaluate.bench.cost import Roofline, measure_roofline
from vla_prune_ros.evaluate.bench.models import BENCH_PRESETS, model_size, random_network
from vla_prune_ros.evaluate.bench.reference_impl import ReferenceForward
from vla_prune_ros.model.openvla import ActInputs
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.methods.baselines import Dense

PROMPT = torch.tensor([[1, *range(500, 524), 29871]])


@pytest.mark.parametrize('change', [{}, {'film': True}, {'head': 'discrete'}, {'proprio_dim': 0}])
def test_it_is_the_same_function(change):
    size = replace(model_size(BENCH_PRESETS['micro'], LIBERO), **change)
    network = random_network(size, torch.float32, 'cpu')
    layout = network.layout(LIBERO.cameras, PROMPT.shape[1], LIBERO.chunk)
    images = torch.randint(0, 256, (len(LIBERO.cameras), 224, 224, 3), dtype=torch.uint8)
    state = torch.randn(1, size.proprio_dim) if size.proprio_dim else None
    published = ReferenceForward(network)
    with torch.inference_mode():
        visual = network.encode_images(images, PROMPT)
        torch.testing.assert_close(published.visual(images, PROMPT), visual, rtol=0, atol=1e-4)
        inputs = ActInputs(
            visual=visual, prompt_ids=PROMPT, proprio=state, layout=layout, pruner=Dense()
        )
        ours, theirs = network.act(inputs), published.act(inputs)
    torch.testing.assert_close(theirs.actions, ours.actions, rtol=0, atol=1e-4)
    assert len(theirs.pruning.ids) == layout.visual


def test_a_diffusion_head_is_not_covered():
    size = replace(model_size(BENCH_PRESETS['micro'], LIBERO), head='diffusion')
    with pytest.raises(ValueError, match='reference'):
        ReferenceForward(random_network(size, torch.float32, 'cpu'))


def test_least_time_by_hand():
    """8 TFLOP at 2 TFLOP/s are 4 s; 15 GB at 30 GB/s half a second."""
    roofline = Roofline(tflops=2.0, gb_per_s=30.0)
    assert roofline.least_ms(8e12, 15e9) == pytest.approx(4000)
    assert roofline.least_ms(1e9, 15e9) == pytest.approx(500)


def test_the_machine_has_limits():
    roofline = measure_roofline(torch.device('cpu'), torch.float32)
    assert 1e-3 < roofline.tflops < 1e3 and 0.1 < roofline.gb_per_s < 1e4
