"""The sets of static pruning and the running scores against plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.specprune.importance import (
    HARVEST,
    GlobalMemory,
    RunningMean,
    num_kept_of_sequence,
    rank_weights,
)
from vla_prune_ros.pruning.specprune.selection import TokenScores, select_to_budget, select_union

# Few distinct values, so that ties are common.
LEVEL = st.integers(0, 4).map(lambda n: n / 4)


@st.composite
def scenes(draw):
    """1 to 3 cameras, random flags and scores, some tokens gone, some chosen by the text."""
    cameras, patches = draw(st.integers(1, 3)), draw(st.integers(4, 16))
    visual = cameras * patches

    def flags():
        return torch.tensor(draw(st.lists(st.booleans(), min_size=visual, max_size=visual)))

    def scores():
        return torch.tensor(draw(st.lists(LEVEL, min_size=visual, max_size=visual)))

    moved = flags()
    known = TokenScores(
        amount=scores(),
        moved=moved,
        most_moved=moved & flags(),
        removable=flags(),
        in_global=flags(),
    )
    ids = sorted(draw(st.sets(st.integers(0, visual - 1), min_size=1)))
    local = draw(st.sets(st.sampled_from(ids)))
    text = [draw(LEVEL) for _ in ids]
    budget = [draw(st.integers(1, patches)) for _ in range(cameras)]
    return known, patches, ids, sorted(local), text, budget


@given(scenes())
def test_select_union(scene):
    known, _, ids, local, _, _ = scene
    got = select_union(torch.tensor(ids), known, torch.tensor(local, dtype=torch.long))
    wanted = ~known.removable | known.in_global
    assert got.tolist() == [i for i in ids if wanted[i] or i in local]


@given(scenes(), st.booleans(), st.randoms(use_true_random=False))
def test_select_to_budget(scene, by_text, random):
    known, patches, ids, local, text, budget = scene
    rest = [random.randint(0, 3) for _ in range(len(budget) * patches)]
    seen = dict(zip(ids, text, strict=True))
    want = []
    for camera, size in enumerate(budget):
        keys = []
        for i in ids:
            if i // patches != camera:
                continue
            if known.most_moved[i] or known.in_global[i] or i in local:
                keys.append((0, -seen[i], i))
            elif known.moved[i]:
                keys.append((1, -float(known.amount[i]), i))
            else:
                keys.append((2, -seen[i] if by_text else -rest[i], i))
        want += [i for _, _, i in sorted(keys)[:size]]
    got = select_to_budget(
        torch.tensor(ids),
        known,
        torch.tensor(local, dtype=torch.long),
        torch.tensor(text),
        kept_per_camera=[sum(i // patches == c for i in ids) for c in range(len(budget))],
        budget=budget,
        fill=None if by_text else torch.tensor(rest, dtype=torch.float32),
    )
    assert got.ids.tolist() == sorted(want)
    assert list(got.kept_per_camera) == [
        sum(i // patches == c for i in want) for c in range(len(budget))
    ]


def harvested(memory, scores, mode):
    """A pass in ``mode`` that saw these scores."""
    memory.store(scores)
    memory.after_pass({HARVEST: scores}, mode, 0)


@given(
    st.integers(1, 3).flatmap(
        lambda cameras: st.tuples(
            st.lists(
                st.lists(LEVEL, min_size=4 * cameras, max_size=4 * cameras), min_size=1, max_size=2
            ),
            st.lists(st.integers(0, 4), min_size=cameras, max_size=cameras),
            st.booleans(),
        )
    )
)
def test_global_memory_unites_the_best_of_each_layer(case):
    layers, counts, joint = case
    memory = GlobalMemory(len(layers))
    harvested(memory, {n: torch.tensor(s) for n, s in enumerate(layers)}, 'coarse')
    want = set()
    for scores in layers:
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        if joint:
            want |= set(order[: sum(counts)])
            continue
        for camera, count in enumerate(counts):
            want |= set([i for i in order if i // 4 == camera][:count])
    assert memory.top(4, counts, joint).nonzero()[:, 0].tolist() == sorted(want)


def test_float32_cannot_tell_ranks_from_89_on_float64_can():
    """exp overflows float32 above ln(3.4e38) = 88.7 (pruning-methods, correction 7)."""
    assert [i for i, w in enumerate(rank_weights(120, 1.0, torch.zeros(0))) if w == 0][0] == 89
    exact = rank_weights(512, 1.0, torch.zeros(0, dtype=torch.float64))
    assert len(set(exact.tolist())) == 512


@given(
    st.lists(st.tuples(st.booleans(), *[st.floats(0, 1, width=32)] * 2), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0.1, 50),
)
def test_update_touches_kept_tokens_only(tokens, beta, confidence):
    """Ranks by descending attention, ties to the lower id."""
    ids = [i for i, (kept, _, _) in enumerate(tokens) if kept]
    if not ids:
        return
    before = [old for _, old, _ in tokens]
    order = sorted(ids, key=lambda i: (-tokens[i][2], i))
    raw = [1 / (1 + math.exp(rank)) for rank in range(len(ids))]
    want = list(before)
    for rank, i in enumerate(order):
        want[i] = (1 - beta) * before[i] + beta * raw[rank] / sum(raw) * confidence
    got = RunningMean(beta=beta).update(
        torch.tensor(before, dtype=torch.float64),
        torch.tensor(ids),
        torch.tensor([tokens[i][2] for i in ids]),
        torch.tensor(confidence, dtype=torch.float64),
    )
    assert got.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ('length', 'visual', 'floor', 'want'),
    [
        (266, 174, 151, 147),  # int(0.9 * 266) = 239, less 92 that are not visual
        (151, 59, 151, 59),  # at the floor: nothing goes
        (160, 68, 151, 59),  # int(0.9 * 160) = 144 is below the floor
        (100, 20, 151, 20),  # shorter than the floor: all stay
    ],
)
def test_a_ratio_of_the_sequence_is_kept_down_to_a_floor(length, visual, floor, want):
    assert num_kept_of_sequence(length, visual, 0.9, floor) == want
