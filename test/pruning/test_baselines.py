"""``uniform`` against its definition, and pruners by name."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.base import Layout, PruningContext, PruningSite
from vla_prune_ros.pruning.methods.baselines import Dense, Uniform, bayer_matrix, stratified
from vla_prune_ros.pruning.registry import build_pruner


def test_the_index_matrix_of_ordered_dithering():
    """The 4 x 4 matrix as printed in textbooks on ordered dithering."""
    want = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    assert bayer_matrix(4).tolist() == want


def test_half_of_a_camera_is_a_checkerboard():
    kept = torch.zeros(256, dtype=torch.bool)
    kept[stratified(256, 128)] = True
    row, column = torch.meshgrid(torch.arange(16), torch.arange(16), indexing='ij')
    assert torch.equal(kept.view(16, 16), (row + column) % 2 == 0)


@given(st.integers(1, 256))
def test_every_block_holds_the_same_number_give_or_take_one(budget):
    """Brute force over all aligned blocks of a 16 x 16 camera."""
    kept = torch.zeros(256, dtype=torch.long)
    kept[stratified(256, budget)] = 1
    for size in (2, 4, 8):
        counts = kept.view(16 // size, size, 16 // size, size).sum((1, 3))
        assert counts.max() - counts.min() <= 1


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_ids_are_ascending_unique_and_nested(case):
    patches, budget = case
    ids = stratified(patches, budget).tolist()
    assert len(ids) == budget and ids == sorted(set(ids))
    assert ids[0] >= 0 and ids[-1] < patches
    assert set(stratified(patches, max(1, budget - 1)).tolist()) <= set(ids)


def view(cameras=2, patches=256):
    layout = Layout(tuple('abc')[:cameras], patches, 1, 20, 8)
    return PruningContext(
        site=PruningSite(-1),
        layout=layout,
        ids=torch.arange(layout.visual),
        hidden=torch.zeros(layout.length, 1),
        positions=torch.arange(layout.length),
        kept_per_camera=(layout.patches,) * len(layout.cameras),
    )


def test_budget_per_camera_and_the_last_serves_the_rest():
    kept = Uniform((128, 32)).keep(view(3)).ids
    assert [int(((kept >= 256 * i) & (kept < 256 * (i + 1))).sum()) for i in range(3)] == [
        128,
        32,
        32,
    ]


def test_a_budget_beyond_the_camera_keeps_all():
    assert Uniform((999,)).keep(view(2)).ids.tolist() == list(range(512))


@pytest.mark.parametrize(
    ('spec', 'want'),
    [
        ('dense', Dense()),
        ('uniform', Uniform((128, 128))),
        ('uniform:64', Uniform((64, 64))),
        ('{name: uniform, budget: [64, 32]}', Uniform((64, 32))),
        ('uniform:64,16', Uniform((64, 16))),
        ({'name': 'uniform', 'budget': [8, 4]}, Uniform((8, 4))),
    ],
)
def test_pruners_by_name(spec, want):
    assert build_pruner(spec) == want


def test_a_yaml_file_with_the_mapping(tmp_path):
    file = tmp_path / 'pruning.yaml'
    file.write_text('name: uniform\nbudget: 9\n', encoding='utf-8')
    assert build_pruner(str(file)) == Uniform((9, 9))


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        (None, 'pruning is None; give a name'),
        (128, 'pruning is 128; give a name'),
        (['uniform'], 'give a name'),
        (object(), 'base.Pruner'),
        ({'name': ['uniform']}, 'unknown pruning method'),
        ('{name: {a: b}}', 'unknown pruning method'),
        ({'name': 'uniform', 'budget': 64.0}, 'budget is 64.0; use whole numbers'),
        ({'name': 'uniform', 'budget': '64'}, "budget is '64'; use whole numbers"),
        ({'name': 'uniform', 'budget': True}, 'budget is True'),
        ({'name': 'uniform', 'budget': {}}, 'budget is {}'),
        ({'name': 'vla_adp', 'window': 10**30}, 'window is'),
        ({'name': 'vla_adp', 'budget': 64, 'keep_ratio': 0.5}, 'either the tokens'),
        ({'name': 'vla_adp', 'split': [1, 2, 3]}, 'split is'),
        ({'name': 'specprune', 'change_threshold': [5, 5, 5]}, 'change_threshold is'),
        ({'name': 'specprune', 'preset': 'paper', 'refresh_every': 3}, 'takes no refresh_every'),
        ({'name': 'specprune', 'metric': 'ssim'}, "metric is 'ssim'"),
        ('vla_cache:5', "'vla_cache' has no 'budget'; its knobs are threshold"),
        ('specprune:recommended:many', 'neither a budget nor a preset'),
        ('specprune:paper:1:2', 'neither a budget nor a preset'),
        ('uniform:\u0967\u0968', 'neither a budget nor a preset'),
    ],
)
def test_every_refusal_names_knob_and_mend(spec, says):
    with pytest.raises(ProfileError, match=says):
        build_pruner(spec)


def test_numpy_numbers_and_paths_are_taken(tmp_path):
    assert build_pruner({'name': 'uniform', 'budget': np.int64(9)}) == Uniform((9, 9))
    file = tmp_path / 'pruning.yml'
    file.write_text('{name: uniform, budget: 9}', encoding='utf-8')
    assert build_pruner(file) == Uniform((9, 9))


def test_a_preset_with_a_budget():
    budgets = build_pruner('specprune:recommended:48,44').config.budgets[1]
    assert budgets.coarse == (48, 44) and budgets.fine == (53, 49)  # of 108, 100 and 120, 112


def test_an_object_passes_through():
    pruner = Uniform((3,))
    assert build_pruner(pruner) is pruner


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        ('magic', "unknown pruning method 'magic'; use one of"),
        ('uniform:many', "'many' is neither a budget nor a preset"),
        ('uniform:0', 'whole numbers from 1 to 256'),
        ('uniform:9999', 'whole numbers from 1 to 256'),
        ('uniform:1,2,3', '3 numbers for 2 cameras'),
        ('{name: uniform', 'cannot be read'),
        ('nowhere.yaml', 'cannot be read'),
        ({'name': 'uniform', 'ratio': 0.5}, "'uniform' has no 'ratio'; its knobs are budget"),
        ('dense:5', "'dense' has no 'budget'; it has no knobs"),
        ({}, 'unknown pruning method None'),
    ],
)
def test_unknown_names_and_knobs_are_refused(spec, says):
    with pytest.raises(ProfileError, match=says):
        build_pruner(spec)
