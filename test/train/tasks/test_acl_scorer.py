"""The scorer's training pass: equal to inference and to the dense policy where it should be.

Expected: the pruner on the same embeddings, one sample at a time; a dense pass.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vla_prune_ros import load_policy
from vla_prune_ros.model.openvla import ActInputs
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.train.collate import TrainingBatch
from vla_prune_ros.train.config import FineTuning
from vla_prune_ros.train.tasks.acl_scorer import ScorerTask, gated
from vla_prune_ros.train.tasks.forward import visual_tokens


@pytest.fixture(scope='module')
def task(checkpoint):
    train = {'method': 'vla_acl', 'budget': [9, 4], 'layers': 1, 'width': 8, 'heads': 2}
    settings = {'checkpoint': str(checkpoint), 'out': 'out', 'work': 'work', 'train': train}
    settings['data'] = [{'format': 'two_cubes', 'path': 'data'}]
    return ScorerTask(load_policy(checkpoint), FineTuning.model_validate(settings))


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(2)
    prompt = torch.tensor([1, 320, 321, 322, 323, 324, 325, 326, 327, 328, 329, 29871])

    def draw(*shape):
        return torch.from_numpy(rng.normal(size=shape)).float()

    return TrainingBatch(
        draw(2, 2, 6, 224, 224), prompt.repeat(2, 1), draw(2, 8), draw(2, 8, 7), torch.ones(2, 8)
    )


@torch.no_grad()
def test_without_noise_it_is_the_pruned_policy(task, batch):
    loss, metrics = task(batch, 1.0)
    errors = []
    pruner = build_pruner('vla_acl:9,4', Target(width=8))
    pruner.scorer = task.scorer
    for i in range(2):
        visual = visual_tokens(task.policy, batch.pixels[i : i + 1], batch.prompts[i : i + 1])
        layout = task.policy.layout(('primary', 'wrist'), batch.prompts.shape[1], 8)
        inputs = ActInputs(
            visual=visual.flatten(1, 2),
            prompt_ids=batch.prompts[:1],
            proprio=batch.state[i : i + 1],
            layout=layout,
            pruner=pruner,
        )
        act = [task.policy.act(replace(inputs, pruner=p)) for p in (pruner, Dense())]
        assert len(act[0].pruning.ids) == 13
        pruned, dense = (a.actions[0] for a in act)
        own = (pruned - dense).abs().mean()
        given = (pruned - batch.actions[i]).abs().mean()
        errors.append((float(0.5 * own + 0.5 * given), float(given)))
    expected = np.mean(errors, axis=0)
    assert float(loss) == pytest.approx(expected[0], abs=1e-5)
    assert float(metrics['l1']) == pytest.approx(expected[1], abs=1e-5)


def test_gates_of_one_change_nothing_and_of_zero_leave_black():
    x, blank = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4)
    gates = torch.tensor([[[1.0, 1, 1], [0, 0, 0]]])
    found = gated(x, blank, gates)
    torch.testing.assert_close(found[:, 0], x[:, 0], rtol=0, atol=5e-3)
    torch.testing.assert_close(found[:, 1], blank[:, 0])


def test_the_soft_choice_teaches_the_scorer_alone(task, batch):
    loss, metrics = task(batch, 0.5, torch.Generator())
    loss.backward()
    assert all(p.grad is None for p in task.policy.parameters())
    gradients = {name: p.grad.abs().sum().item() for name, p in task.scorer.named_parameters()}
    # The bias of the last layer moves all scores alike, which changes no ratio.
    assert gradients.pop('leave.1.bias') < 1e-6
    assert min(gradients.values()) > 0
    assert 0.0 < float(metrics['decided']) < 1.0
