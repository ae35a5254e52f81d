"""VLA-ACL's pruner: the best of each camera by a scorer, and which scorers are refused.

Expected: sorting the scorer's own numbers in plain Python; each camera scored alone.
"""

import pytest
import torch

from vla_prune_ros.errors import CheckpointError, ProfileError
from vla_prune_ros.pruning.layout import Layout, Target, Trained, write_trained
from vla_prune_ros.pruning.methods.vla_acl import make_scorer
from vla_prune_ros.pruning.registry import build_pruner

SHAPE = {'layers': 1, 'width': 8, 'heads': 2}
LAYOUT = Layout(('a', 'b'), 16, 1, 20, 8)


@pytest.fixture
def target(tiny_llama):
    return Target(LAYOUT.cameras, 16, 3, width=tiny_llama.width, trained=Trained())


@pytest.fixture
def scorer(target):
    return make_scorer(target, SHAPE)


def test_the_best_of_each_camera_stay(tiny_llama, tmp_path, target, scorer):
    write_trained(tmp_path, 'vla_acl', {**SHAPE, 'budget': [5, 2]}, scorer.state_dict())
    x = tiny_llama.embeddings(LAYOUT, 4)
    views = x[0, 1:33].unflatten(0, (2, 16))
    scores = scorer(views[None])[0]
    for spec, budget in (
        ({'name': 'vla_acl'}, (5, 2)),
        ({'name': 'vla_acl', 'budget': [3, 4]}, (3, 4)),
    ):
        pruner = build_pruner({**spec, 'weights': str(tmp_path)}, target)
        _, state = tiny_llama.run(LAYOUT, x, pruner)
        expected = [
            camera * 16 + i
            for camera, k in enumerate(budget)
            for i in sorted(sorted(range(16), key=lambda i: -scores[camera, i])[:k])
        ]
        assert state.ids.tolist() == expected


def test_a_camera_is_scored_by_itself(scorer):
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(1, 2, 16, 16, generator=generator)
    other = views.clone()
    other[:, 1] = torch.randn(16, 16, generator=generator)
    assert torch.allclose(scorer(views)[:, 0], scorer(other)[:, 0], atol=1e-6)
    assert not torch.allclose(scorer(views)[:, 1], scorer(other)[:, 1], atol=1e-3)


def test_a_checkpoint_without_a_scorer_is_refused(target):
    for trained in (Trained(), Trained('lightvla'), Trained('vla_acl', SHAPE)):
        with pytest.raises(ProfileError, match='vla_acl'):
            build_pruner('vla_acl', Target(trained=trained))


@pytest.mark.parametrize(
    'settings', [{}, {**SHAPE, 'heads': 3}, {**SHAPE, 'width': 'wide'}, {**SHAPE, 'layers': 2}]
)
def test_a_scorer_that_does_not_fit_is_refused(target, scorer, tmp_path, settings):
    write_trained(tmp_path, 'vla_acl', settings, scorer.state_dict())
    with pytest.raises(CheckpointError, match='vla_acl'):
        build_pruner({'name': 'vla_acl', 'weights': str(tmp_path)}, target)
