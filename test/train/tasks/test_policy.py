"""The network that is trained is the one that acts, sample by sample, with all visual tokens.

Expected values: the policy's own inference path (towers, ``act`` with the dense pruner, one sample
at a time), the tokeniser's ids, and closed forms.
"""

import math

import numpy as np
import pytest
import torch

from vla_prune_ros.model.openvla import ActInputs
from vla_prune_ros.model.prompt import build_prompt
from vla_prune_ros.model.synthetic import VOCABULARY
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.sim.two_cubes import TASKS
from vla_prune_ros.train.tasks.policy import PIECES, grid_waves

INSTRUCTIONS = [task.instruction for task in TASKS.values()]
RED, GREEN = 'pick up the red cube', 'pick up the green cube'


@pytest.fixture(scope='module')
def net(tiny_net):
    return tiny_net()


@pytest.fixture(scope='module')
def inputs(words):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 2, 6, 224, 224, generator=draw)
    prompts = torch.stack([words.prompts[text] for text in (RED, GREEN, RED)])
    return pixels, prompts, torch.rand(3, 8, generator=draw) * 2 - 1


@pytest.fixture(scope='module')
def answer(net, inputs):
    with torch.inference_mode():
        return net(*inputs)


@torch.inference_mode()
def test_actions_are_those_of_the_policys_own_path(net, inputs, answer):
    pixels, prompts, state = inputs
    policy = net.policy
    layout = policy.layout(LIBERO.cameras, prompts.shape[1], LIBERO.chunk)
    for i in range(len(pixels)):
        one = prompts[i : i + 1]
        visual = policy.visual_tokens(pixels[i], one)
        torch.testing.assert_close(
            net.visual(pixels, prompts)[i].flatten(0, 1), visual[0], rtol=0, atol=1e-5
        )
        inputs = ActInputs(
            visual=visual, prompt_ids=one, proprio=state[i : i + 1], layout=layout, pruner=Dense()
        )
        act = policy.act(inputs)
        torch.testing.assert_close(answer.actions[i], act.actions[0], rtol=0, atol=1e-5)


def test_every_acting_weight_learns_from_the_actions(tiny_net, inputs):
    """Embedding rows of absent words aside."""
    net = tiny_net()
    net(*inputs).actions.square().sum().backward()
    still = {n for n, p in net.policy.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator_alone(tiny_net):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (tiny_net(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = 'policy.projector.fc1.weight'
    assert not torch.equal(first[name], other[name])


def test_prompts_are_the_tokenizers_ids_through_the_table(words, tokenizer):
    numbers = torch.arange(1.0, words.rows + 1)[:, None]  # row r of the small table says r + 1
    table = words.full_table(numbers, VOCABULARY)
    assert table.shape == (VOCABULARY, 1)
    for text in INSTRUCTIONS:
        ids = tokenizer(build_prompt(text))
        assert table[ids].flatten().tolist() == (words.prompts[text] + 1).tolist()
    used = {0, 1, 2, *(i for text in INSTRUCTIONS for i in tokenizer(build_prompt(text)))}
    assert set(table.flatten().nonzero().flatten().tolist()) == used
    assert len(used) == words.rows


def test_words_of_the_instructions_are_single_pieces(tokenizer):
    assert len(set(PIECES)) == len(PIECES)
    fixed = {len(tokenizer(build_prompt(text))) - len(text.split()) for text in INSTRUCTIONS}
    assert len(fixed) == 1  # one piece per word, and the same frame around them
    frame = tokenizer(build_prompt('x'))
    assert frame[0] == 1 and frame[-1] == 29871


def test_position_waves_tell_all_patches_apart():
    waves = grid_waves(32)
    assert waves.shape == (256, 32)
    distances = torch.cdist(waves, waves) + 9 * torch.eye(256)
    assert distances.min() > 0.5
    row, column, number = 5, 11, 3  # a patch and a wave, by the formula
    rate = 100.0 ** (-number / 8)
    want = [math.sin(column * rate), math.cos(column * rate)]
    want += [math.sin(row * rate), math.cos(row * rate)]
    got = waves[16 * row + column][[number, 8 + number, 16 + number, 24 + number]]
    np.testing.assert_allclose(got, want, atol=1e-6)
