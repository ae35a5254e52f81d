"""Methods by name, and policies that share weights without sharing anything else."""

from dataclasses import replace

import numpy as np
import pytest

from vla_prune_ros import load_policy
from vla_prune_ros.errors import VlaPruneError
from vla_prune_ros.evaluate.methods import MethodPolicies, parse_methods
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.records import Observation


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('checkpoints')
    return [make_checkpoint(root / str(seed), 'micro', seed) for seed in (0, 1)]


def test_names_become_pruning_and_weights(folders):
    base, own = folders
    dense, fast = parse_methods(('dense', f'fastv:64@{own}'), base)
    assert (dense.pruning, dense.folder) == ('dense', base)
    assert (fast.pruning, fast.folder, fast.name) == ('fastv:64', own, f'fastv:64@{own}')
    assert dense.fingerprint != fast.fingerprint
    assert parse_methods((f'dense@{base}',), own)[0].fingerprint == dense.fingerprint


def test_a_method_file_is_part_of_the_fingerprint(folders, tmp_path):
    path = tmp_path / 'mine.yaml'
    prints = set()
    for budget in (64, 96):
        path.write_text(f'{{name: uniform, budget: {budget}}}')
        prints.add(parse_methods((str(path),), folders[0])[0].fingerprint)
    assert len(prints) == 2
    plain = parse_methods(('dense',), folders[0])[0].fingerprint
    assert all(p.startswith(f'{plain}+') for p in prints)


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (('dense', 'dense'), 'methods repeat'),
        (('dense', 'fly'), "unknown pruning method 'fly'"),
        (('uniform:many',), 'neither a budget nor a preset'),
        (('dense@/nowhere',), "checkpoint '/nowhere' is not a folder"),
        (('dense@/etc',), '/etc holds no checkpoint'),
    ],
    ids=str,
)
def test_wrong_names_are_said_at_once(folders, names, words):
    with pytest.raises(VlaPruneError, match=words):
        parse_methods(names, folders[0])


def test_policies_share_weights_and_act_as_if_loaded_alone(folders):
    policies = MethodPolicies('libero', 'cpu', 'float32')
    methods = parse_methods(('dense', 'uniform:64', f'dense@{folders[1]}'), folders[0])
    dense, uniform, other = (policies.get(m) for m in methods)
    assert dense.model is uniform.model and dense.model is not other.model
    assert policies.get(methods[0]) is dense and uniform.untrained

    random = np.random.default_rng(0)
    images = {c: random.integers(0, 256, (256, 256, 3), np.uint8) for c in ('primary', 'wrist')}
    seen = Observation(images, dense.statistics.proprio.mean, 'pick up the red cube')
    for policy, method in zip((uniform, other), methods[1:], strict=True):
        alone = load_policy(method.folder, pruning=method.pruning).infer(seen)
        answer = policy.infer(seen)
        np.testing.assert_array_equal(answer.actions, alone.actions)
        assert answer.visual_tokens == alone.visual_tokens


def test_weights_that_changed_since_are_not_loaded(folders):
    (dense,) = parse_methods(('dense',), folders[0])
    elsewhere = replace(dense, folder=folders[1])
    with pytest.raises(VlaPruneError, match='not the checkpoint that the run began with'):
        MethodPolicies('libero', 'cpu', 'float32').get(elsewhere)
