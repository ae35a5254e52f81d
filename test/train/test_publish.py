"""The exported folder is a checkpoint like any other, and acts as the network that was trained.

What it should say is computed by the network itself with its weights rounded to bfloat16.
"""

import numpy as np
import pytest
import torch

from vla_prune_ros import Observation, load_policy
from vla_prune_ros.evaluate.check import CheckOptions, check_checkpoint
from vla_prune_ros.model.images import pixel_values
from vla_prune_ros.train.publish import export
from vla_prune_ros.train.tasks.policy import ReferenceNet

INSTRUCTION = 'stack the green cube on the other cube'


@pytest.fixture(scope='module')
def net(tiny_net):
    return tiny_net(2)


@pytest.fixture(scope='module')
def folder(net, words, statistics, tmp_path_factory):
    folder = tmp_path_factory.mktemp('export') / 'new' / 'checkpoint'
    export(net, words, folder=folder, statistics=statistics, step=12, about={})
    return folder


@pytest.fixture(scope='module')
def policy(folder):
    return load_policy(folder)


@torch.inference_mode()
def test_the_loaded_policy_acts_as_the_trained_network(policy, net, words, statistics, tiny_net):
    rng = np.random.default_rng(0)
    bounds = statistics['proprio']
    low, high = np.array(bounds['q01']), np.array(bounds['q99'])
    state = rng.uniform(low, high)
    frames = {c: rng.integers(0, 256, (256, 256, 3), np.uint8) for c in ('primary', 'wrist')}
    answer = policy.infer(Observation(frames, state, INSTRUCTION))
    rounded = tiny_net(2)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.bfloat16().float())
    seen = [answer.model_images[camera] for camera in ('primary', 'wrist')]
    scaled = 2.0 * (state - low) / (high - low + 1e-8) - 1.0
    given = (
        pixel_values(seen)[None],
        words.prompts[INSTRUCTION][None],
        torch.tensor(scaled, dtype=torch.float32)[None],
    )
    want = rounded(*given).actions[0]
    np.testing.assert_allclose(answer.normalized, want, rtol=0, atol=1e-5)
    exact = net(*given).actions[0]
    assert np.abs(answer.normalized - exact.numpy()).max() > 1e-5  # the rounding is seen
    action = statistics['action']
    low, high = np.array(action['q01'])[:6], np.array(action['q99'])[:6]
    unscaled = (want[:, :6].numpy() + 1.0) / 2.0 * (high - low) + low
    np.testing.assert_allclose(answer.actions[:, :6], unscaled, atol=1e-4)
    np.testing.assert_allclose(answer.actions[:, 6], want[:, 6], atol=1e-5)


def test_every_check_of_checkpoints_passes(folder):
    result = check_checkpoint(CheckOptions(str(folder), dtype='float32'))
    failed = [(c.name, c.reason) for c in result.checks if not c.ok]
    assert result.ok and failed == []
    assert result.found['FiLM'] == 'yes' and 'training' not in result.found


def test_a_later_step_replaces_the_components(net, words, statistics, tmp_path, tiny_net):
    for step, weights in ((1, tiny_net(5)), (25, net)):
        export(weights, words, folder=tmp_path, statistics=statistics, step=step, about={})
    names = sorted(p.name for p in tmp_path.glob('*.pt'))
    parts = ('action_head', 'proprio_projector', 'vision_backbone')
    assert names == [f'{part}--25_checkpoint.pt' for part in parts]
    ours = load_policy(tmp_path).model.state_dict()
    for name, value in net.policy.state_dict().items():
        if 'embed_tokens' not in name:
            assert torch.equal(ours[name], value.bfloat16().float()), name


def test_at_full_size_it_stays_below_16_megabytes(words, statistics, tmp_path):
    export(
        ReferenceNet(words.rows), words, folder=tmp_path, statistics=statistics, step=0, about={}
    )
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 16e6
