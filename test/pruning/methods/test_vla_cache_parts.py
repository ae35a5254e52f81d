"""Parts of VLA-Cache: released numbers and other models, the schedule, and the store.

Expected: plain loops, values worked out by hand, a dict of the newest value of every id.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.vla_cache import (
    TokenStore,
    VlaCacheOptions,
    adapt_to_model,
    attention_entropy,
    reuse_counts,
    reuse_ratios,
)


def adapt(target, **options):
    return adapt_to_model(VlaCacheOptions(**options), target)


def test_released_numbers_for_the_published_model():
    """Released code for OpenVLA-OFT: its constants, and where its decoder cuts."""
    assert adapt(Target()) == VlaCacheOptions(
        threshold=0.996,
        static_top=150,
        relevant_top=100,
        relevant_layer=15,
        grow_before=(2, 6, 9, 11),
        growth=0.55,
    )


@given(st.integers(1, 80), st.integers(1, 400))
def test_any_model_gets_layers_and_counts_that_it_has(layers, patches):
    config = adapt(Target(layers=layers, patches=patches))
    assert 0 <= config.relevant_layer < layers
    assert all(1 <= layer < layers for layer in config.grow_before)
    assert bool(config.grow_before) == (layers > 1)
    assert 1 <= config.static_top <= patches and 1 <= config.relevant_top <= patches


def test_half_the_depth_and_a_quarter_of_the_patches():
    """Ratios of the depth: 2, 6, 9 and 11 of 32 are 1, 3, 4.5 and 5.5 of 16."""
    config = adapt(Target(layers=16, patches=64))
    assert config.grow_before in [(1, 3, 4, 5), (1, 3, 4, 6), (1, 3, 5, 6)]
    assert (config.relevant_layer, config.static_top, config.relevant_top) == (7, 38, 25)
    # Layers that a decoder lacks become its last.
    config = adapt(Target(layers=8), relevant_layer=15, grow_before=(2, 6, 9, 11))
    assert (config.relevant_layer, config.grow_before) == (7, (2, 6, 7))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
def test_entropy_against_loops(layers, rows, tokens, seed):
    attention = torch.rand(layers, rows, tokens, generator=torch.Generator().manual_seed(seed))
    want = []
    for layer in attention.tolist():
        total = 0.0
        for row in layer:
            mass = sum(row) + 1e-10
            for a in row:
                total -= a / mass * math.log(a / mass + 1e-10)
        want.append(total / rows)
    assert attention_entropy(attention).tolist() == pytest.approx(want, abs=1e-5)


def test_ratios_worked_out_by_hand():
    """Entropies 4, 3, 5, 1 give 1 - (E - 1) / 4 = 0.25, 0.5, 0, 1.

    The rise to 0.5 counts 0.55 times: 0.3875; the fall to 0 in full; the rise to 1 0.55 times.
    """
    want = [0.25, 0.3875, 0.0, 0.55]
    assert reuse_ratios([4.0, 3.0, 5.0, 1.0], 0.55) == pytest.approx(want, abs=1e-9)


@given(
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.sets(st.integers(1, 11)).map(sorted),
    st.integers(1, 300),
)
def test_counts_against_the_released_loop(ratios, before, reusable):
    """The released decoder cuts the list at each place, and skips a cut that is shorter."""
    ids, last, want = list(range(reusable)), None, {}
    for layer in before:
        cut = ids[: max(1, int(ratios[layer] * len(ids)))]
        if last is None or len(last) <= len(cut):
            last = cut
        want[layer] = len(last)
    assert reuse_counts(ratios, before, reusable) == want


VISUAL = 6


@given(st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, VISUAL - 1))), max_size=8))
def test_every_slot_holds_what_was_written_last(writes):
    store, model = TokenStore(), {}
    for number, (layer, ids) in enumerate(writes):
        ids = sorted(ids)
        generator = torch.Generator().manual_seed(number)
        values = torch.randn(1, 2, len(ids), 3, generator=generator)
        store.write(layer, VISUAL, torch.tensor(ids, dtype=torch.long), values)
        model.setdefault(layer, {})
        model[layer].update({i: values[:, :, n].clone() for n, i in enumerate(ids)})
        values.zero_()  # the store must not look into what it was given
    for layer, slots in model.items():
        assert store[layer].shape == (1, 2, VISUAL, 3)
        asked = sorted(slots, reverse=True)
        got = store.read(layer, torch.tensor(asked, dtype=torch.long))
        for n, i in enumerate(asked):
            assert torch.equal(got[:, :, n], slots[i])
        assert not store[layer][:, :, [i for i in range(VISUAL) if i not in slots]].any()
