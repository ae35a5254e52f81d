"""The training pass of LightVLA: equal to inference where it should be, and told where it is not.

Expected: inference by the pruner (held against the authors' runs by ``test_lightvla_golden.py``),
and finite differences of the softmax that the straight-through estimator stands for.
"""

import pytest
import torch

from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.methods.lightvla import selection_scores, straight_through
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.train.tasks.lightvla import selected_pass, shared_weight


@pytest.fixture(scope='module')
def batch(tiny_net):
    """A small policy, and two sequences of the same layout."""
    policy = tiny_net(5).policy
    layout = policy.layout(LIBERO.cameras, 16, LIBERO.chunk)
    generator = torch.Generator().manual_seed(1)
    width = policy.size.text.hidden_size
    return policy, torch.randn(2, layout.length, width, generator=generator), layout


@torch.no_grad()
def test_with_each_token_once_training_equals_inference(batch):
    policy, x, layout = batch
    ours = selected_pass(policy, x, layout, once=True)
    published = selected_pass(policy, x, layout)
    for i in range(2):
        hidden, state = policy.decode(x[i : i + 1], layout, build_pruner('lightvla'))
        assert state.ids.tolist() == ours.kept_ids[i].unique().tolist()
        assert len(state.ids) < layout.visual  # some token has several votes
        torch.testing.assert_close(ours.hidden[i], hidden[0], rtol=0, atol=1e-5)
        # The published pass does not: the mismatch that its users reported.
        assert (published.hidden[i] - hidden[0]).abs().max() > 1e-3


@torch.no_grad()
def test_noise_moves_the_choice_alone(batch):
    policy, x, layout = batch
    shape = (2, layout.visual, layout.visual)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    found = selected_pass(policy, x, layout, noise=noise)
    assert torch.equal(found.kept_ids, (found.scores + noise).argmax(-1))
    torch.testing.assert_close(found.scores, selected_pass(policy, x, layout).scores)


def test_weights_are_shared_by_the_rows_of_a_token(batch):
    _, _, layout = batch
    chosen = torch.zeros(1, layout.visual, dtype=torch.long)
    chosen[0, :3] = torch.tensor([7, 7, 9])
    weight = shared_weight(chosen, layout).exp()[0, 0, 0]
    assert weight[1:4].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert weight[4 : 1 + layout.visual].sum().item() == pytest.approx(1.0)
    assert weight[0] == 1.0 and (weight[1 + layout.visual :] == 1.0).all()


def test_the_straight_through_gradient_is_that_of_the_softmax():
    """Forward a one-hot matrix, backward the derivative of softmax: by finite differences."""
    generator = torch.Generator().manual_seed(3)
    scores, towards = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    scores.requires_grad_(True)
    matrix, chosen = straight_through(scores, None)
    assert torch.equal(matrix.detach().round(), torch.nn.functional.one_hot(chosen, 5).double())
    (matrix * towards).sum().backward()
    step = 1e-6 * torch.eye(25, dtype=torch.float64).reshape(25, 5, 5)
    ends = [
        ((scores.detach() + side * step).softmax(-1) * towards).sum((1, 2)) for side in (1, -1)
    ]
    slopes = ((ends[0] - ends[1]) / 2e-6).reshape(5, 5)
    torch.testing.assert_close(scores.grad, slopes, rtol=0, atol=1e-8)


def test_gradients_reach_every_token_that_asks(batch):
    policy, x, layout = batch
    x = x.clone().requires_grad_(True)
    selected_pass(policy, x, layout).hidden.square().sum().backward()
    asked = selection_scores(x[:, 1 : 1 + layout.visual], x[:, 1 + layout.visual :])
    gone = torch.ones(2, layout.visual, dtype=torch.bool).scatter_(1, asked.argmax(-1), False)
    assert gone.any() and (x.grad[:, 1 : 1 + layout.visual][gone].abs().amax(-1) > 0).all()
