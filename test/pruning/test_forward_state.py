"""Rules 1 to 5 of the seam, for every pruner and for arbitrary ones, against a masked dense pass.

The brute force is ``transformers``' own eager decoder layers with a 4-D mask in which removed
tokens are minus infinity as keys from the next layer on.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.base import Layout, Pruner, PruningSite
from vla_prune_ros.pruning.forward_state import check_kept
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import PRUNERS, build_pruner

LAYERS = 3  # of the tiny decoder


class Scripted(Pruner):
    """Keeps the given ids at the given layers.

    :param hidden: False: chosen before the layer's output is computed.
    """

    name = 'scripted'

    def __init__(self, script, hidden=True, rows=None):
        self.script = script
        self.sites = tuple(PruningSite(layer, rows, hidden=hidden) for layer in script)
        self.views = {}

    def begin(self, query):
        return 'coarse'

    def keep(self, view):
        self.views[view.site.layer] = view
        return (
            None
            if self.script[view.site.layer] is None
            else torch.tensor(self.script[view.site.layer])
        )


@st.composite
def cases(draw):
    cameras = tuple('abc')[: draw(st.integers(1, 3))]
    layout = Layout(
        cameras,
        draw(st.integers(2, 9)),
        draw(st.integers(0, 1)),
        draw(st.integers(11, 20)),
        draw(st.integers(1, 8)),
    )
    alive, script = list(range(layout.visual)), {}
    for layer in sorted(draw(st.sets(st.integers(-1, LAYERS - 1), max_size=3))):
        alive = sorted(draw(st.sets(st.sampled_from(alive), min_size=1)))
        script[layer] = draw(st.permutations(alive))
    return layout, script, draw(st.integers(0, 1000))


@pytest.mark.parametrize('hidden', [True, False])
@settings(max_examples=60, deadline=None)
@given(cases())
def test_rule_4_removing_equals_masking(tiny_llama, hidden, case):
    layout, script, seed = case
    x = tiny_llama.embeddings(layout, seed)
    got, walk, _ = tiny_llama.run(layout, x, Scripted(script, hidden))
    torch.testing.assert_close(got, tiny_llama.masked_dense(layout, x, script), rtol=0, atol=1e-5)
    last = sorted(script[max(script)]) if script else list(range(layout.visual))
    assert walk.ids.tolist() == last


@pytest.mark.parametrize('hidden', [True, False])
@settings(max_examples=60, deadline=None)
@given(cases())
def test_rules_1_and_2_positions_are_original_and_the_rest_stays(tiny_llama, hidden, case):
    layout, script, seed = case
    pruner = Scripted(script, hidden)
    _, walk, _ = tiny_llama.run(layout, tiny_llama.embeddings(layout, seed), pruner)
    alive = list(range(layout.visual))
    for layer in sorted(script):
        view = pruner.views[layer]
        assert view.ids.tolist() == alive
        rest = list(range(1 + layout.visual, layout.length))
        assert view.positions.tolist() == [0, *(1 + i for i in alive), *rest]
        alive = sorted(script[layer])
    assert walk.positions.tolist() == [
        0,
        *(1 + i for i in alive),
        *range(1 + layout.visual, layout.length),
    ]


@pytest.mark.parametrize('hidden', [True, False])
@settings(max_examples=30, deadline=None)
@given(cases())
def test_rule_3_keep_all_is_bit_identical_to_no_pruner(tiny_llama, hidden, case):
    layout, script, seed = case
    x = tiny_llama.embeddings(layout, seed)
    dense, _, _ = tiny_llama.run(layout, x, Dense())
    everything = {layer: list(range(layout.visual)) for layer in script}
    assert torch.equal(tiny_llama.run(layout, x, Scripted(everything, hidden))[0], dense)
    nothing = dict.fromkeys(script)
    assert torch.equal(tiny_llama.run(layout, x, Scripted(nothing, hidden))[0], dense)


@pytest.mark.parametrize('name', sorted(PRUNERS))
def test_rule_5_every_pruner_is_deterministic(tiny_llama, name):
    layout = Layout(('a', 'b'), 16, 1, 20, 8)
    x = tiny_llama.embeddings(layout, 0)
    target = Target(layout.cameras, 16, LAYERS, width=tiny_llama.width)
    first, again = (tiny_llama.run(layout, x, build_pruner(name, target)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[1].ids.tolist() == again[1].ids.tolist()


@pytest.mark.parametrize('cameras', [1, 2, 3])
@pytest.mark.parametrize('name', sorted(PRUNERS))
def test_rule_4_for_every_pruner(tiny_llama, name, cameras):
    layout = Layout(tuple('abc')[:cameras], 16, 1, 20, 8)
    x = tiny_llama.embeddings(layout, 1)
    spec = {'name': name, 'budget': (5,)} if name == 'uniform' else name
    pruner = build_pruner(spec, Target(layout.cameras, 16, LAYERS, width=tiny_llama.width))
    got, walk, _ = tiny_llama.run(layout, x, pruner)
    script = {site.layer: walk.kept_by_site[site.name].tolist() for site in pruner.sites}
    torch.testing.assert_close(got, tiny_llama.masked_dense(layout, x, script), rtol=0, atol=1e-5)


@pytest.mark.parametrize('hidden', [True, False])
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
    got, _, _ = tiny_llama.run(layout, x, pruner)
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
    """Rows after a prune, against the maps that the eager layers return for what is left."""
    layout = Layout(('a', 'b'), 6, 1, 19, 4)
    x = tiny_llama.embeddings(layout, 2)
    kept = [1, 2, 7, 11]
    pruner = Scripted({-1: kept, 1: None})
    pruner.sites = (PruningSite(-1), PruningSite(1, lambda where: where.task_positions))
    tiny_llama.run(layout, x, pruner)
    positions = torch.tensor([0, *(1 + i for i in kept), *range(1 + layout.visual, layout.length)])
    cos, sin = tiny_llama.reference.rotary_emb(x, positions[None])
    mask = torch.zeros(1, 1, len(positions), len(positions))
    short = x[:, positions]
    with torch.inference_mode():
        short = tiny_llama.reference.layers[0](
            short, attention_mask=mask, position_embeddings=(cos, sin)
        )
        layer = tiny_llama.reference.layers[1]
        _, maps = layer.self_attn(
            layer.input_layernorm(short), attention_mask=mask, position_embeddings=(cos, sin)
        )
    rows = [positions.tolist().index(p) for p in layout.task_positions]
    want = maps[0].mean(0)[rows][:, 1 : 1 + len(kept)]
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
