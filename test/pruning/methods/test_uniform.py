"""``uniform`` against its definition: brute force over blocks of patches."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning_pass import run_sites

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.baselines import bayer_matrix, stratified
from vla_prune_ros.pruning.registry import build_pruner


def test_the_index_matrix_of_ordered_dithering():
    """The 4 x 4 matrix as printed in textbooks on ordered dithering."""
    want = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    assert bayer_matrix(4).tolist() == want


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


def test_budget_per_camera_and_the_last_serves_the_rest():
    layout = Layout(('a', 'b', 'c'), 256, 1, 20, 8)
    kept = run_sites(build_pruner('uniform:128,32', Target(layout.cameras)), layout, {})
    assert torch.bincount(kept // 256).tolist() == [128, 32, 32]
    want = [256 * camera + i for camera in (1, 2) for i in stratified(256, 32).tolist()]
    assert kept[128:].tolist() == want
