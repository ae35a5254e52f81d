"""Rules 1 to 6 of the seam for every peer method, over several queries of an episode.

Five queries, 0.4 s apart and ever faster: after three of them the motion gate of ``vla_adp`` is
open and ``vla_pruner`` has its history, so the last two are pruned by every method.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import CHUNK_NS, make_query, run_sites
from selection_twins import layouts

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.methods.fastv import ROWS
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.records import MotionHint

QUERIES, PRUNED = 5, 2
PEERS = {
    **{f'fastv {rows}': {'name': 'fastv', 'rows': rows} for rows in ROWS},
    'fastv after 1': {'name': 'fastv', 'layer': 1},
    'divprune': {'name': 'divprune'},
    'vla_adp': {'name': 'vla_adp'},
    'vla_pruner': {'name': 'vla_pruner'},
    'vla_pruner cut 0': {'name': 'vla_pruner', 'layer': 0},
    'vla_pruner sum': {'name': 'vla_pruner', 'layer': 1, 'combine': 'sum'},
    'vla_pruner actions': {'name': 'vla_pruner', 'layer': 0, 'text': False},
}
JOINT = {
    'fastv joint': {'name': 'fastv', 'joint': True},
    'divprune joint': {'name': 'divprune', 'joint': True},
}
EVERY = {**PEERS, **JOINT}


cases = st.tuples(layouts(), st.integers(0, 1000)).map(lambda drawn: (*drawn[0], drawn[1]))


def build(name, layout, budget, layers):
    target = Target(layout.cameras, layout.patches, layers)
    return build_pruner({**EVERY[name], 'budget': budget}, target)


def begin(pruner, layout, i, visual):
    motion = MotionHint(0.1 * (1 + i), 0.0, 0.0, 'pose')
    return pruner.begin(make_query(layout, i, motion=motion, visual=visual))


def episode(tiny_llama, layout, pruner, seed):
    """(mode, embeddings, output, state) of every query."""
    out = []
    for i in range(QUERIES):
        x = tiny_llama.embeddings(layout, 10 * seed + i)
        mode = begin(pruner, layout, i, x[0, 1 : 1 + layout.visual])
        out.append((mode, x, *tiny_llama.run(layout, x, pruner, trace=[])))
    return out


def every_peer(examples):
    """Parametrise over all methods and draw cases."""

    def decorate(test):
        drawn = settings(max_examples=examples, deadline=None)(given(cases)(test))
        return pytest.mark.parametrize('name', sorted(EVERY))(drawn)

    return decorate


@every_peer(9)
def test_rules_1_2_4_6_the_budget_is_kept_nothing_else_goes_and_masking_equals(
    tiny_llama, name, case
):
    layout, budget, seed = case
    pruner = build(name, layout, budget, tiny_llama.layers)
    queries = episode(tiny_llama, layout, pruner, seed)
    assert [mode for mode, *_ in queries[-PRUNED:]] == ['coarse'] * PRUNED
    rest = [0, *range(1 + layout.visual, layout.length)]
    for mode, x, hidden, state in queries:
        ids = state.ids.tolist()
        assert ids == sorted(set(ids)) and set(ids) <= set(range(layout.visual))
        assert state.positions.tolist() == sorted([*rest, *(1 + i for i in ids)])
        per_camera = [int(mask.sum()) for mask in layout.camera_masks(state.ids).values()]
        if mode == 'dense':
            assert per_camera == [layout.patches] * len(budget)
        elif name in JOINT:
            assert sum(per_camera) == sum(budget)
        else:
            assert per_camera == list(budget)
        want = tiny_llama.masked_dense(layout, x, state.kept_by_site)
        torch.testing.assert_close(hidden, want, rtol=0, atol=1e-5)


@every_peer(5)
def test_rule_3_keeping_all_is_bit_identical_to_no_pruner(tiny_llama, name, case):
    layout, _, seed = case
    everything = (layout.patches,) * len(layout.cameras)
    pruner = build(name, layout, everything, tiny_llama.layers)
    for _, x, hidden, _ in episode(tiny_llama, layout, pruner, seed):
        assert torch.equal(hidden, tiny_llama.run(layout, x, Dense(), trace=[])[0])


@every_peer(5)
def test_rule_5_an_episode_repeats_itself(tiny_llama, name, case):
    """From a new pruner, and after ``reset``."""
    layout, budget, seed = case
    pruner = build(name, layout, budget, tiny_llama.layers)
    first = episode(tiny_llama, layout, pruner, seed)
    pruner.reset()
    for again in (pruner, build(name, layout, budget, tiny_llama.layers)):
        for a, b in zip(first, episode(tiny_llama, layout, again, seed), strict=True):
            assert a[0] == b[0] and torch.equal(a[2], b[2]) and torch.equal(a[3].ids, b[3].ids)


@pytest.mark.parametrize('name', ['vla_adp', 'vla_pruner'])
@pytest.mark.parametrize(
    ('change', 'why'),
    [
        ({'instruction': 'open the drawer'}, 'new_instruction'),
        ({'stamp_ns': 5}, 'clock_jump'),
        (None, 'first'),
    ],
)
def test_what_ends_an_episode_is_said_and_history_is_collected_anew(tiny_llama, name, change, why):
    layout = Layout(('a', 'b'), 6, 1, 17, 4)
    pruner, x = build(name, layout, (2, 3), 3), tiny_llama.embeddings(layout, 0)

    def modes(queries):
        return [(pruner.begin(q), tiny_llama.run(layout, x, pruner))[0] for q in queries]

    queries = [make_query(layout, i, motion=MotionHint(0.1, 0.0, 0.0, 'pose')) for i in range(5)]
    assert modes(queries[:4]) == ['dense'] * 3 + ['coarse']
    if change is None:
        pruner.reset()
        assert pruner.report()['reason'] == 'first'
    following = replace(queries[4], **(change or {}))
    assert modes([following]) == ['dense'] and pruner.report()['reason'] == why
    later = [replace(following, stamp_ns=following.stamp_ns + i * CHUNK_NS) for i in (1, 2, 3)]
    assert modes(later) == ['dense', 'dense', 'coarse']


@pytest.mark.parametrize('name', sorted(PEERS))
def test_ties_go_to_the_lower_ids(name):
    """All tokens alike: the first ones of each camera stay."""
    layout, budget = Layout(('a', 'b'), 6, 1, 17, 4), (2, 3)
    pruner = build(name, layout, budget, 3)
    flat = torch.ones(layout.length, layout.visual)
    hidden = torch.ones(layout.length, 2)
    for i in range(QUERIES):
        begin(pruner, layout, i, hidden[1:13])
        kept = run_sites(pruner, layout, dict.fromkeys(range(-1, 3), flat), hidden)
    assert kept.tolist() == [0, 1, 6, 7, 8]


@pytest.mark.gpu
@pytest.mark.parametrize('name', sorted(EVERY))
def test_everything_stays_on_the_device(name):
    """The same choice as on the CPU, from tensors on a GPU."""
    layout, budget = Layout(('a', 'b'), 6, 1, 17, 4), (2, 3)
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(0, 9, (layout.length, layout.visual), generator=generator).float()
    hidden = torch.randn(layout.length, 3, generator=generator)
    kept = {}
    for device in ('cpu', 'cuda'):
        pruner = build(name, layout, budget, 3)
        x, maps = hidden.to(device), dict.fromkeys(range(-1, 3), seen.to(device))
        for i in range(QUERIES):
            begin(pruner, layout, i, x[1:13])
            kept[device] = run_sites(pruner, layout, maps, x)
    assert kept['cuda'].device.type == 'cuda'
    assert kept['cuda'].tolist() == kept['cpu'].tolist()
