"""The store against a dict of the newest value of every id."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.pruning.methods.vla_cache import TokenStore

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
            assert torch.equal(store[layer][:, :, i], slots[i])
        for i in set(range(VISUAL)) - set(slots):
            assert not store[layer][:, :, i].any()


def test_memory_is_counted():
    store = TokenStore()
    for layer in (5, 1):
        store.write(layer, 3, torch.arange(2), torch.ones(1, 2, 2, 5))
    assert store.nbytes == 2 * 2 * 3 * 5 * 4
    store.clear()
    assert store.nbytes == 0
