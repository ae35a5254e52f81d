"""Fine-tuning of a small checkpoint: resume, low-rank updates, and what a policy loads afterwards.

Expected: an uninterrupted run; peft's own forward pass; the module that was trained, against the
policy that is loaded from what it wrote.
"""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla_prune_ros import load_policy
from vla_prune_ros.errors import CheckpointError, ProfileError
from vla_prune_ros.pruning.base import PruningSite
from vla_prune_ros.pruning.methods.lightvla import TENSOR
from vla_prune_ros.records import Observation
from vla_prune_ros.train.config import FineTuning, Lora
from vla_prune_ros.train.dataset import save
from vla_prune_ros.train.publish import merged
from vla_prune_ros.train.tasks.lightvla import choose_trainable

pytest.importorskip('accelerate', reason='the train extra is not installed')
pytest.importorskip('tensorboard', reason='the train extra is not installed')

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vla_prune_ros.train.finetune import FineTuner, make_task


@pytest.fixture
def settings(checkpoint, recorded, tmp_path):
    def settings(**changes):
        data = {'format': 'two_cubes', 'path': recorded}
        held = {**data, 'options': {'split': 'validation'}}
        base = {
            'checkpoint': str(checkpoint),
            'out': tmp_path / 'out',
            'work': tmp_path / 'work',
            'train': {'method': 'lightvla'},
            'data': [data],
            'validation': [held],
            'steps': 4,
            'batch': 2,
            'lr': 1e-2,
            'lora': None,
            'precision': 'float32',
            'dtype': 'float32',
            'workers': 0,
            'save_every': 2,
            'validation_samples': 4,
        }
        return FineTuning.model_validate({**base, **changes})

    return settings


def weights(tuner):
    return {name: p.detach().clone() for name, p in tuner.task.named_parameters()}


def interrupt(step, metrics):
    if step == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize('lora', [None, {'rank': 2, 'alpha': 4}])
def test_an_interrupted_run_ends_like_a_whole_one(settings, tmp_path, lora):
    if lora:
        pytest.importorskip('peft', reason='the train extra is not installed')
    whole = FineTuner(settings(lora=lora, work=tmp_path / 'whole'), 'cpu')
    result = whole.run()
    assert result['steps'] == 4 and np.isfinite(result['l1'])
    assert 1 <= result['validation/tokens'] <= 512
    events = EventAccumulator(str(tmp_path / 'whole' / 'tensorboard'))
    events.Reload()
    assert [point.step for point in events.Scalars('tokens')] == [1, 2, 3, 4]
    assert {'l1', 'lr', 'validation/l1', 'validation/tokens'} <= set(events.Tags()['scalars'])
    torch.manual_seed(5)  # whatever the second process drew before
    with pytest.raises(KeyboardInterrupt):
        FineTuner(settings(lora=lora), 'cpu').run(interrupt)
    with pytest.raises(CheckpointError, match='lr 0.01, not 0.02'):
        FineTuner(settings(lora=lora, lr=0.02), 'cpu')
    again = FineTuner(settings(lora=lora, validate_every=3), 'cpu')  # may differ
    assert again.trainer.step == 2  # the last state that was saved
    again.run()
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(whole)[name], msg=name)


def test_accumulated_parts_are_one_batch(settings, six_episodes, tmp_path):
    # Every step counts as much, so that halves weigh the same.
    save(replace(six_episodes[0], valid=np.ones((3, 8), bool)), tmp_path / '6.npz')
    data = [{'format': 'two_cubes', 'path': tmp_path}]
    # No noise: the parts draw it in another order than the whole.
    train = {'method': 'lightvla', 'noise': {'first': 0.0}}
    gradients = []
    for n in (1, 2):
        work = tmp_path / str(n)
        changes = settings(accumulate=n, work=work, steps=1, lr=1e-3, train=train, data=data)
        tuner = FineTuner(changes, 'cpu')
        tuner.run()
        gradients.append({name: p.grad for name, p in tuner.trainer.weights.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-5, msg=name)


def test_what_was_trained_is_what_is_loaded(settings, tmp_path):
    tuner = FineTuner(settings(train={'method': 'lightvla', 'queries': 9, 'after': 1}), 'cpu')
    result = tuner.run()
    policy = load_policy(tmp_path / 'out', pruning='lightvla_star')
    for name, value in policy.model.state_dict().items():
        trained = tuner.policy.model.state_dict()[name]
        assert torch.equal(value, trained.to(torch.bfloat16).float()), name
    queries = load_file(tmp_path / 'out' / 'pruning.safetensors')[TENSOR]
    assert torch.equal(queries, tuner.task.queries.queries)
    assert policy.pruner.sites == (PruningSite(1),)
    out = policy.infer(grey(policy))
    assert 1 <= out.visual_tokens <= 9 and result['steps'] == 4
    note = json.loads((tmp_path / 'out' / 'pruning.json').read_text())
    assert note['method'] == 'lightvla_star' and note['queries'] == 9
    with pytest.raises(ProfileError, match="trained for 'lightvla_star'"):
        load_policy(tmp_path / 'out', pruning='lightvla')


def test_a_head_that_regresses_nothing_is_refused(settings):
    policy = SimpleNamespace(model=SimpleNamespace(size=SimpleNamespace(head='diffusion')))
    with pytest.raises(CheckpointError, match='diffusion'):
        make_task(policy, settings())


def test_a_scorer_learns_beside_a_policy_that_stays(settings, tmp_path, checkpoint):
    train = {'method': 'vla_acl', 'budget': 12, 'layers': 1, 'width': 8, 'heads': 2}
    tuner = FineTuner(settings(train=train), 'cpu')
    before = copy.deepcopy(tuner.policy.model.state_dict())
    scorer = copy.deepcopy(tuner.task.scorer.state_dict())
    tuner.run()
    assert all(torch.equal(v, before[k]) for k, v in tuner.policy.model.state_dict().items())
    assert any(not torch.equal(v, scorer[k]) for k, v in tuner.task.scorer.state_dict().items())
    names = {'pruning.json', 'pruning.safetensors', 'vla_prune.json'}
    assert {p.name for p in (tmp_path / 'out').iterdir()} == names
    pruning = {'name': 'vla_acl', 'weights': str(tmp_path / 'out')}
    policy = load_policy(checkpoint, pruning=pruning)
    assert policy.infer(grey(policy)).visual_tokens == 24


def test_low_rank_updates_become_weights(checkpoint):
    pytest.importorskip('peft', reason='the train extra is not installed')
    policy = load_policy(checkpoint)
    plain = {name: value.clone() for name, value in policy.model.state_dict().items()}
    choose_trainable(policy.model, Lora(rank=3, alpha=6))
    assert all(torch.equal(v, plain[k]) for k, v in merged(policy.model).items())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if 'lora_' in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    adapted = policy.infer(grey(policy)).normalized  # peft's own forward pass
    fresh = load_policy(checkpoint)
    dense = fresh.infer(grey(fresh)).normalized
    fresh.model.load_state_dict(merged(policy.model))
    assert np.abs(adapted - dense).max() > 1e-3
    np.testing.assert_allclose(fresh.infer(grey(fresh)).normalized, adapted, atol=1e-4)
    names = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert any('action_head' in name for name in names)
    assert all(
        'lora_' in n or n.split('.')[0] in ('action_head', 'proprio_projector') for n in names
    )


def grey(policy):
    image = np.full((64, 64, 3), 90, np.uint8)
    cameras = policy.profile.cameras
    return Observation(
        dict.fromkeys(cameras, image), policy.statistics.proprio.mean, 'pick up the red cube'
    )
