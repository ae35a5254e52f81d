"""The sets of static pruning against plain Python."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.specprune.importance import GlobalMemory
from vla_prune_ros.pruning.specprune.selection import Evidence, fill_by_rank, mask_of, unite

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
    evidence = Evidence(scores(), moved, moved & flags(), flags(), flags())
    ids = sorted(draw(st.sets(st.integers(0, visual - 1), min_size=1)))
    local = draw(st.sets(st.sampled_from(ids)))
    text = [draw(LEVEL) for _ in ids]
    budget = [draw(st.integers(1, patches)) for _ in range(cameras)]
    return evidence, patches, ids, sorted(local), text, budget


def wanted(evidence, i, local):
    return not evidence.removable[i] or evidence.looked_at[i] or i in local


@given(scenes())
def test_unite(scene):
    evidence, _, ids, local, _, _ = scene
    got = unite(torch.tensor(ids), evidence, torch.tensor(local, dtype=torch.long))
    assert got.tolist() == [i for i in ids if wanted(evidence, i, local)]


@given(scenes(), st.booleans(), st.randoms(use_true_random=False))
def test_fill_by_rank(scene, by_text, random):
    evidence, patches, ids, local, text, budget = scene
    rest = [random.randint(0, 3) for _ in range(len(budget) * patches)]
    seen = dict(zip(ids, text, strict=True))
    want = []
    for camera, size in enumerate(budget):
        keys = []
        for i in ids:
            if i // patches != camera:
                continue
            if evidence.most_moved[i] or evidence.looked_at[i] or i in local:
                keys.append((0, -seen[i], i))
            elif evidence.moved[i]:
                keys.append((1, -float(evidence.amount[i]), i))
            else:
                keys.append((2, -seen[i] if by_text else -rest[i], i))
        want += [i for _, _, i in sorted(keys)[:size]]
    got = fill_by_rank(
        torch.tensor(ids),
        evidence,
        torch.tensor(local, dtype=torch.long),
        torch.tensor(text),
        [sum(i // patches == camera for i in ids) for camera in range(len(budget))],
        budget,
        None if by_text else torch.tensor(rest, dtype=torch.float32),
    )
    assert got.ids.tolist() == sorted(want)
    assert list(got.kept_per_camera) == [
        sum(i // patches == c for i in want) for c in range(len(budget))
    ]


@given(st.sets(st.integers(0, 9)))
def test_mask_of(ids):
    mask = mask_of(torch.tensor(sorted(ids), dtype=torch.long), 10)
    assert mask.tolist() == [i in ids for i in range(10)]


@given(
    st.integers(1, 3).flatmap(
        lambda cameras: st.tuples(
            st.lists(
                st.lists(LEVEL, min_size=4 * cameras, max_size=4 * cameras),
                min_size=1,
                max_size=2,
            ),
            st.lists(st.integers(0, 4), min_size=cameras, max_size=cameras),
            st.booleans(),
        )
    )
)
def test_global_memory_unites_the_best_of_each_layer(case):
    layers, counts, joint = case
    memory = GlobalMemory()
    memory.replace({n: torch.tensor(s) for n, s in enumerate(layers)}, 'coarse', 0)
    want = set()
    for scores in layers:
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        if joint:
            want |= set(order[: sum(counts)])
            continue
        for camera, count in enumerate(counts):
            want |= set([i for i in order if i // 4 == camera][:count])
    assert memory.top(4, counts, joint).nonzero()[:, 0].tolist() == sorted(want)


def test_global_memory_is_empty_until_a_pass_is_complete():
    memory = GlobalMemory()
    assert memory.empty
    memory.replace({3: torch.zeros(8)}, 'fine', 0)
    memory.age = 4
    assert not memory.empty and memory.mode == 'fine'
    memory.replace({3: torch.ones(8)}, 'dense', 0)
    assert memory.age == 0
    memory.forget()
    assert memory.empty
