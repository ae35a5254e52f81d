"""``uniform`` against a brute-force stratification, and pruners by name."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.baselines import Dense, Uniform, stratified
from vla_prune_ros.pruning.plan import Layout, Site, SiteView
from vla_prune_ros.pruning.registry import build_pruner


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_one_token_from_the_middle_of_each_stratum(case):
    patches, budget = case
    ids = stratified(patches, budget).tolist()
    want = [
        int((Fraction(2 * i + 1, 2) * Fraction(patches, budget)).__floor__())
        for i in range(budget)
    ]
    assert ids == want == sorted(set(ids))
    assert ids[0] >= 0 and ids[-1] < patches


def view(cameras=2, patches=256):
    layout = Layout(tuple('abc')[:cameras], patches, 1, 20, 8)
    return SiteView(
        Site(-1),
        layout,
        torch.arange(layout.visual),
        torch.zeros(layout.length, 1),
        torch.arange(layout.length),
    )


def test_budget_per_camera_and_the_last_serves_the_rest():
    kept = Uniform((128, 32)).keep(view(3))
    assert [int(((kept >= 256 * i) & (kept < 256 * (i + 1))).sum()) for i in range(3)] == [
        128,
        32,
        32,
    ]


def test_a_budget_beyond_the_camera_keeps_all():
    assert Uniform((999,)).keep(view(2)).tolist() == list(range(512))


@pytest.mark.parametrize(
    ('spec', 'want'),
    [
        ('dense', Dense()),
        ('uniform', Uniform()),
        ('uniform:64', Uniform((64,))),
        ('uniform:64,16', Uniform((64, 16))),
        ({'name': 'uniform', 'budget': [8, 4]}, Uniform((8, 4))),
    ],
)
def test_pruners_by_name(spec, want):
    assert build_pruner(spec) == want


def test_an_object_passes_through():
    pruner = Uniform((3,))
    assert build_pruner(pruner) is pruner


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        ('magic', "unknown pruning method 'magic'; use one of"),
        ('uniform:many', 'not a list of whole numbers'),
        ('uniform:0', 'whole numbers of 1 or more'),
        ({'name': 'uniform', 'ratio': 0.5}, "'uniform'.*ratio"),
        ('dense:5', "'dense'.*budget"),
        ({}, 'unknown pruning method None'),
    ],
)
def test_unknown_names_and_knobs_are_refused(spec, says):
    with pytest.raises(ProfileError, match=says):
        build_pruner(spec)
