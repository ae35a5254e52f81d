"""VLA-Pruner over several queries against the whole algorithm in plain Python.

Attention is made of small whole numbers over powers of two: every score is exact in float32, and
ties are frequent.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import make_query, run_sites
from selection_twins import best, cosine_distance, max_min

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.registry import build_pruner

LAYERS = 3
HALF = (1, 2)  # the last half of three layers, counted from 0
AXES = [(2, 0, 0), (0, -4, 0), (0, 0, 1), (-1, 0, 0), (0, 2, 0)]


def build(target, budget=None, **options):
    return build_pruner({'name': 'vla_pruner', 'budget': budget, **options}, target)


def scaled(scores):
    """To 0 ... 1."""
    low, high = min(scores), max(scores)
    return [(s - low) / (high - low + 1e-8) for s in scores]


class Twin:
    """The algorithm with lists; ids are original ids throughout."""

    def __init__(self, layout, budget, tokens, cut, window, gamma, text=True, weight=None):
        self.layout, self.budget, self.tokens = layout, budget, tokens
        self.cut, self.window, self.gamma = min(cut, LAYERS - 2), window, gamma
        self.text, self.weight = text, weight
        self.past = []  # S_act, newest first

    def distance(self, i, j):
        return cosine_distance(self.tokens[i], self.tokens[j])

    def query(self, maps):
        """Ids that are kept after a pass that sees these maps, layer -> (S, V)."""
        layout, pruned = self.layout, len(self.past) >= self.window
        prompt = 1 + layout.visual + layout.proprio
        slots = prompt + layout.prompt - 1
        kept, act = list(range(layout.visual)), [0.0] * layout.visual
        for layer in range(LAYERS):
            table = maps[layer].tolist()
            if layer in HALF:
                for i in kept:
                    rows = [table[p][i] for p in range(slots, slots + layout.slots)]
                    act[i] += sum(rows) / len(rows)
            if layer == self.cut and pruned:
                words = [
                    sum(table[p][i] for p in range(prompt, slots)) / (slots - prompt)
                    for i in range(layout.visual)
                ]
                kept = self.select(words)
        self.past.insert(0, [a / len(HALF) for a in act])
        return kept

    def select(self, words):
        recent = self.past[: self.window]
        action = [
            sum(self.gamma ** (n + 1) * scores[i] for n, scores in enumerate(recent))
            for i in range(self.layout.visual)
        ]
        kept = []
        for camera, size in enumerate(self.budget):
            ids = range(camera * self.layout.patches, (camera + 1) * self.layout.patches)
            if not self.text:
                kept += best(action, ids, size)
            elif self.weight is not None:
                pairs = zip(scaled(words), scaled(action), strict=True)
                both = [self.weight * a + (1 - self.weight) * b for a, b in pairs]
                kept += best(both, ids, size)
            else:
                either = sorted({*best(words, ids, size), *best(action, ids, size)})
                kept += max_min(self.distance, either, size)
        return sorted(kept)


def maps_of(layout, seed, most=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, layout.length, layout.visual)
    return torch.randint(0, most, shape, generator=generator).float()


@st.composite
def cases(draw):
    """17 prompt ids (16 without BOS) and 2 or 4 slots, so that means are exact."""
    cameras = tuple('abc')[: draw(st.integers(1, 3))]
    patches = draw(st.integers(2, 7))
    layout = Layout(cameras, patches, draw(st.integers(0, 1)), 17, draw(st.sampled_from([2, 4])))
    budget = tuple(draw(st.integers(1, patches)) for _ in cameras)
    axis = st.sampled_from(AXES)
    tokens = draw(st.lists(axis, min_size=layout.visual, max_size=layout.visual))
    seeds = draw(st.lists(st.integers(0, 9999), min_size=4, max_size=6))
    return layout, budget, tokens, [maps_of(layout, seed) for seed in seeds]


def sequence(pruner, layout, maps, visual=None):
    """Modes, and ids that are kept, query by query."""
    modes, kept = [], []
    for index, seen in enumerate(maps):
        modes.append(pruner.begin(make_query(layout, index, visual=visual)))
        kept.append(run_sites(pruner, layout, seen).tolist())
    return modes, kept


@pytest.mark.parametrize('cut', [0, 1, 9])
@pytest.mark.parametrize('options', [{}, {'text': False}], ids=['both', 'actions'])
@settings(max_examples=25, deadline=None)
@given(cases())
def test_the_algorithm(options, cut, case):
    """Cut before, inside and behind the layers that are harvested; two pruned queries or more."""
    layout, budget, tokens, maps = case
    target = Target(layout.cameras, layout.patches, LAYERS)
    pruner = build(target, budget, layer=cut, window=2, gamma=0.5, **options)
    visual = torch.tensor(tokens, dtype=torch.bfloat16)
    modes, kept = sequence(pruner, layout, maps, visual)
    twin = Twin(layout, budget, tokens, cut, 2, 0.5, **options)
    assert kept == [twin.query(seen) for seen in maps]
    assert modes == ['dense'] * 2 + ['coarse'] * (len(maps) - 2)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('weight', [0, 0.3, 0.5, 1])
def test_the_weighted_sum(seed, weight):
    """Scores in general position: float32 against Python's floats."""
    layout, budget = Layout(('a', 'b'), 7, 1, 17, 4), (3, 5)
    target = Target(layout.cameras, 7, LAYERS)
    pruner = build(target, budget, combine='sum', text_weight=weight)
    maps = [maps_of(layout, 10 * seed + i, 100_000) for i in range(6)]
    _, kept = sequence(pruner, layout, maps)
    twin = Twin(layout, budget, None, 3, 3, 0.8, weight=weight)
    assert kept == [twin.query(seen) for seen in maps]


def test_without_features_the_hidden_states_at_the_site_tell_tokens_apart():
    layout = Layout(('a',), 3, 0, 17, 2)
    seen = torch.zeros(LAYERS, layout.length, 3)
    seen[:, 4:20, 0], seen[:, 4:20, 1], seen[:, 20:22, 2] = 3.0, 2.0, 3.0
    hidden = torch.zeros(layout.length, 2)
    hidden[1:4] = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    pruner = build(Target(('a',), 3, LAYERS), 2, window=1)
    for index in range(2):
        pruner.begin(make_query(layout, index))
        kept = run_sites(pruner, layout, seen, hidden)
    assert kept.tolist() == [0, 2]  # 2 is farthest from the others, then 0 is farthest from 2


def test_dropped_tokens_count_zero_and_self_harvested_scores_degenerate():
    """Once the history is pruned passes alone, the actions' new interest goes unnoticed."""
    layout = Layout(('a',), 4, 0, 17, 2)
    target = Target(('a',), 4, LAYERS)
    before, after = torch.zeros(2, LAYERS, layout.length, 4)
    before[:, 21:23, 1], after[:, 21:23, 3] = 1.0, 1.0
    maps = [before] * 3 + [after] * 5
    pruner = build(target, 1, layer=0, text=False)
    _, kept = sequence(pruner, layout, maps)
    assert kept[3:] == [[1]] * 3 + [[0]] * 2  # in the end all are 0 and the lowest id wins
    with_words = after.clone()
    with_words[:, 5:21, 3] = 1.0  # the words bring token 3 back
    pruner = build(target, 1, layer=0, combine='sum', text_weight=0.6)
    assert sequence(pruner, layout, [before] * 3 + [with_words])[1][3] == [3]


def test_the_last_of_several_passes_of_a_query_counts():
    """A diffusion head: three passes in one query are one entry of the history."""
    layout = Layout(('a',), 4, 0, 17, 2, time=1)
    pruner = build(Target(('a',), 4, LAYERS), 1, window=1, text=False)
    pruner.begin(make_query(layout))
    for token in (0, 3, 2):
        seen = torch.zeros(LAYERS, layout.length, 4)
        seen[:, 22:24, token] = 1.0
        assert run_sites(pruner, layout, seen).tolist() == [0, 1, 2, 3]
    pruner.begin(make_query(layout, 1))
    blank = torch.zeros(LAYERS, layout.length, 4)
    assert run_sites(pruner, layout, blank).tolist() == [2]
