"""Rules 1 to 5 of the seam, for every pruner and for arbitrary ones, against a masked dense pass.

The brute force is ``transformers``' own eager modules with a 4-D mask in which removed tokens are
minus infinity as keys from the next layer on.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import Scripted
from selection_twins import layouts

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.base import PruningSite
from vla_prune_ros.pruning.forward_state import check_kept
from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import PRUNERS, build_pruner

LAYERS = 3  # of the tiny decoder
EARLY_OR_LATE = pytest.mark.parametrize('hidden', [True, False])


@st.composite
def cases(draw):
    layout, _ = draw(layouts())
    kept, script = list(range(layout.visual)), {}
    for layer in sorted(draw(st.sets(st.integers(-1, LAYERS - 1), max_size=3))):
        kept = sorted(draw(st.sets(st.sampled_from(kept), min_size=1)))
        script[layer] = draw(st.permutations(kept))
    return layout, script, draw(st.integers(0, 1000))


@EARLY_OR_LATE
@settings(max_examples=60, deadline=None)
@given(cases())
def test_rules_1_2_4_for_any_choice(tiny_llama, hidden, case):
    """Positions are original, the rest stays, and removing equals masking."""
    layout, script, seed = case
    x, pruner = tiny_llama.embeddings(layout, seed), Scripted(script, hidden)
    got, state = tiny_llama.run(layout, x, pruner)
    torch.testing.assert_close(got, tiny_llama.masked_dense(layout, x, script), rtol=0, atol=1e-5)
    kept, rest = list(range(layout.visual)), list(range(1 + layout.visual, layout.length))
    for layer in sorted(script):
        view = pruner.views[layer]
        assert view.ids.tolist() == kept
        assert view.positions.tolist() == [0, *(1 + i for i in kept), *rest]
        kept = sorted(script[layer])
    assert state.ids.tolist() == kept
    assert state.positions.tolist() == [0, *(1 + i for i in kept), *rest]


@EARLY_OR_LATE
@settings(max_examples=30, deadline=None)
@given(cases())
def test_rule_3_keep_all_is_bit_identical_to_no_pruner(tiny_llama, hidden, case):
    layout, script, seed = case
    x = tiny_llama.embeddings(layout, seed)
    dense, _ = tiny_llama.run(layout, x, Dense(), trace=[])
    for everything in (list(range(layout.visual)), None):
        pruner = Scripted(dict.fromkeys(script, everything), hidden)
        assert torch.equal(tiny_llama.run(layout, x, pruner, trace=[])[0], dense)


@pytest.mark.parametrize('cameras', [1, 2, 3])
@pytest.mark.parametrize('name', sorted(PRUNERS))
def test_rules_4_and_5_for_every_pruner(tiny_llama, name, cameras):
    layout = Layout(tuple('abc')[:cameras], 16, 1, 20, 8)
    x = tiny_llama.embeddings(layout, 1)
    spec = {'name': name, 'budget': (5,)} if name == 'uniform' else name
    target = Target(layout.cameras, 16, LAYERS, width=tiny_llama.width)
    (got, state), again = (tiny_llama.run(layout, x, build_pruner(spec, target)) for _ in 'ab')
    want = tiny_llama.masked_dense(layout, x, state.kept_by_site)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert torch.equal(got, again[0]) and state.ids.equal(again[1].ids)


@EARLY_OR_LATE
def test_what_goes_is_taken_through_the_rest_of_its_layer_only_if_the_pruner_looks(
    tiny_llama, hidden
):
    """Rows that each layer's MLP is given; the answer is the masked dense one either way."""
    layout = Layout(('a', 'b'), 6, 1, 19, 4)
    x = tiny_llama.embeddings(layout, 2)
    script = {0: [1, 2, 7, 11], 1: [2, 11]}
    pruner, rows = Scripted(script, hidden, lambda where: where.task_positions), []
    handles = [
        layer.mlp.register_forward_hook(lambda module, given, out: rows.append(out.shape[1]))
        for layer in tiny_llama.ours.model.layers
    ]
    got, _ = tiny_llama.run(layout, x, pruner, trace=[])
    for handle in handles:
        handle.remove()
    rest = layout.length - layout.visual
    assert rows == [rest + n for n in ((12, 4, 2) if hidden else (4, 2, 2))]
    views = pruner.views.values()
    assert [view.hidden is not None for view in views] == [hidden, hidden]
    assert [view.attention.shape[1] for view in views] == [12, 4]
    want = tiny_llama.masked_dense(layout, x, script)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_attention_rows_after_pruning_are_a_softmax_over_all_surviving_keys(tiny_llama):
    """Rows after a prune, against the maps of the eager layers for what is kept."""
    layout = Layout(('a', 'b'), 6, 1, 19, 4)
    x, kept = tiny_llama.embeddings(layout, 2), [1, 2, 7, 11]
    pruner = Scripted({-1: kept, 1: None})
    pruner.sites = (PruningSite(-1), PruningSite(1, lambda where: where.task_positions))
    tiny_llama.run(layout, x, pruner)
    positions = [0, *(1 + i for i in kept), *range(1 + layout.visual, layout.length)]
    _, maps = tiny_llama.reference_pass(x[:, positions], positions)
    want = maps[1][[positions.index(p) for p in layout.task_positions], 1 : 1 + len(kept)]
    torch.testing.assert_close(pruner.views[1].attention, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('ids', [[0, 0], [0, 9], [-1]])
def test_a_pruner_that_answers_nonsense_is_refused(ids):
    with pytest.raises(ProfileError, match='repeat or are gone'):
        check_kept(torch.tensor(ids), torch.arange(4), PruningSite(2))


def test_layout_of_libero_spatial_task_0():
    """Positions from the published layout: 512 visual tokens, P = 35 ids, 56 slots, 605 in all."""
    layout = Layout(('primary', 'wrist'), 256, 1, 35, 56)
    assert layout.length == 605
    assert layout.prompt_positions == range(514, 548)
    assert layout.task_positions == range(523, 543)
    assert layout.slot_positions == range(548, 604)
    assert layout.readout_positions == range(547, 603)  # the 56 rows before the last two
