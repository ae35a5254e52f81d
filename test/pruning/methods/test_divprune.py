"""DivPrune, and the greedy max-min selection, against their definitions in plain Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import run_sites
from selection_twins import cosine_distance as plain_cosine_distance
from selection_twins import layouts, max_min

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.pruning.selection import cosine_distance, farthest_first


def build(layout, budget, **options):
    target = Target(layout.cameras, layout.patches, 3)
    return build_pruner({'name': 'divprune', 'budget': budget, **options}, target)


@st.composite
def cases(draw):
    """Tokens along the axes: distances are exactly 0, 1 or 2, so ties are frequent."""
    layout, budget = draw(layouts())
    axis = st.sampled_from([(2, 0, 0), (0, -4, 0), (0, 0, 1), (-1, 0, 0), (0, 0, 0), (0, 2, 0)])
    tokens = draw(st.lists(axis, min_size=layout.visual, max_size=layout.visual))
    return layout, budget, tokens


def hidden_of(layout, tokens):
    """The residual stream before layer 0; other tokens are noise that must not matter."""
    noise = torch.randn(layout.length, 3, generator=torch.Generator().manual_seed(0))
    noise[1 : 1 + layout.visual] = torch.tensor(tokens, dtype=torch.float32)
    return noise


def twin(layout, budget, tokens, joint):
    def distance(i, j):
        return plain_cosine_distance(tokens[i], tokens[j])

    if joint:
        return sorted(max_min(distance, range(layout.visual), sum(budget)))
    kept = []
    for camera, size in enumerate(budget):
        low = camera * layout.patches
        kept += max_min(distance, range(low, low + layout.patches), size)
    return sorted(kept)


@pytest.mark.parametrize('joint', [False, True])
@settings(max_examples=50, deadline=None)
@given(cases())
def test_ties_and_all(joint, case):
    layout, budget, tokens = case
    pruner = build(layout, budget, joint=joint)
    got = run_sites(pruner, layout, {}, hidden_of(layout, tokens))
    assert got.tolist() == twin(layout, budget, tokens, joint)


def test_it_acts_before_layer_0_on_what_the_language_model_is_given(tiny_llama):
    layout = Layout(('a', 'b'), 8, 1, 12, 2)
    x = tiny_llama.embeddings(layout, 3)
    _, state = tiny_llama.run(layout, x, build(layout, 3))
    assert list(state.kept_by_site) == ['before_L0']
    assert state.ids.tolist() == twin(layout, (3, 3), x[0, 1:17].tolist(), joint=False)


@st.composite
def sets(draw):
    """Distances of a few small sets, whole numbers so that ties are frequent, and candidates."""
    n, batch = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    table = torch.randint(
        0, 4, (batch, n, n), generator=torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    )
    distance = (table + table.transpose(1, 2)).float()
    among = [sorted(draw(st.sets(st.integers(0, n - 1), min_size=1))) for _ in range(batch)]
    return distance, among


@given(sets())
def test_picks_are_the_brute_force_ones(case):
    distance, among = case
    mask = torch.zeros(distance.shape[:2], dtype=torch.bool)
    for row, candidates in enumerate(among):
        mask[row, candidates] = True
    most = max(len(candidates) for candidates in among)
    order = farthest_first(distance, most, mask)
    for row, candidates in enumerate(among):
        table = distance[row].tolist()
        want = max_min(lambda i, j, t=table: t[i][j], candidates, len(candidates))
        assert order[row, : len(candidates)].tolist() == want


def test_distance_is_one_minus_cosine_and_ignores_length():
    rows = [[3.0, 4.0], [0.5, 0.0], [-2.0, 0.0], [0.0, 0.0]]
    got = cosine_distance(torch.tensor(rows, dtype=torch.bfloat16))
    assert got.dtype == torch.float32
    want = [[0, 0.4, 1.6, 1], [0.4, 0, 2, 1], [1.6, 2, 0, 1], [1, 1, 1, 1]]  # 3-4-5 triangle
    torch.testing.assert_close(got, torch.tensor(want), rtol=0, atol=1e-6)
