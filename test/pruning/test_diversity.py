"""Greedy max-min selection against a brute force in plain Python."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from selection_twins import max_min

from vla_prune_ros.pruning.selection import cosine_distance, diverse_per_camera, farthest_first


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


@given(st.integers(1, 3), st.integers(1, 6), st.data())
def test_cameras_do_not_compete(cameras, patches, data):
    """Each camera gets what it would get alone."""
    budget = [data.draw(st.integers(1, patches)) for _ in range(cameras)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    features = torch.randn(cameras * patches, 3, generator=generator)
    got = diverse_per_camera(features, patches, budget)
    for i, ids in enumerate(got):
        alone = features[i * patches : (i + 1) * patches]
        want = diverse_per_camera(alone, patches, budget[i : i + 1])[0] + i * patches
        assert ids.tolist() == want.tolist() and len(set(ids.tolist())) == budget[i]
