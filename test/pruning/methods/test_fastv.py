"""FastV against its definition in plain Python, and against ``transformers``' own maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import run_sites
from selection_twins import best, layouts

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.fastv import ROWS
from vla_prune_ros.pruning.registry import build_pruner


def build(target, budget, **options):
    return build_pruner({'name': 'fastv', 'budget': budget, **options}, target)


@st.composite
def cases(draw):
    """A layout, a budget per camera, and a map of small whole numbers: ties are frequent."""
    layout, budget = draw(layouts())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    seen = torch.randint(0, 3, (layout.length, layout.visual), generator=generator).float()
    return layout, budget, seen


def rows_of(layout, rows):
    """Positions, from the order [BOS | visual | proprio | time | prompt | slots | stop]."""
    prompt = 1 + layout.visual + layout.proprio + layout.time
    slots = prompt + layout.prompt - 1
    words = range(prompt + 9, slots - 5)  # 9 fixed words before the task's, 5 tokens behind them
    return {
        'all': range(layout.length),
        'last': [slots - 1],
        'text': words if len(words) else range(prompt, slots),
        'action': range(slots, slots + layout.slots),
    }[rows]


@pytest.mark.parametrize('joint', [False, True])
@pytest.mark.parametrize('rows', sorted(ROWS))
@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_most_looked_at_tokens_stay(rows, joint, case):
    layout, budget, seen = case
    target = Target(layout.cameras, layout.patches, 3)
    pruner = build(target, budget, rows=rows, joint=joint)
    got = run_sites(pruner, layout, {1: seen}).tolist()
    table = seen.int().tolist()
    scores = [
        sum(table[p][i] for p in rows_of(layout, rows) if rows != 'all' or p != 1 + i)
        for i in range(layout.visual)
    ]
    if joint:
        want = best(scores, range(layout.visual), sum(budget))
    else:
        want = []
        for camera, size in enumerate(budget):
            low = camera * layout.patches
            want += best(scores, range(low, low + layout.patches), size)
    assert got == sorted(want)


@pytest.mark.parametrize(('layer', 'site'), [(1, 0), (2, 1), (9, 1)])
def test_k_layers_see_everything_and_the_last_of_them_decides(tiny_llama, layer, site):
    """Scores from the maps of ``transformers``' eager layers, mean over heads and rows."""
    layout = Layout(('a', 'b'), 8, 1, 20, 4)
    x = tiny_llama.embeddings(layout, 5)
    pruner = build(Target(layout.cameras, 8, 3), (3, 5), layer=layer)
    _, state = tiny_llama.run(layout, x, pruner)
    _, maps = tiny_llama.reference_pass(x, range(layout.length))
    scores = maps[site].clone().fill_diagonal_(0).sum(0)[1:17].tolist()
    want = best(scores, range(8), 3) + best(scores, range(8, 16), 5)
    assert state.kept_by_site[f'after_L{site}'].tolist() == sorted(want)
