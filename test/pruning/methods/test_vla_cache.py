"""VLA-Cache against a plain re-implementation that never leaves a token out.

The twin runs ``transformers``' own layers over the full sequence with attention written out; keys
and values of reused tokens come from a dict, and nothing is read from their rows.
"""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning_pass import TinyLlama, make_query, start
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.methods.vla_cache import (
    VlaCacheOptions,
    adapt_to_model,
    reusable_tokens,
    reuse_counts,
)
from vla_prune_ros.pruning.registry import build_pruner

LAYERS, PIXELS = 4, 4
OPTIONS = {'static_top': 11, 'relevant_top': 4, 'relevant_layer': 2, 'grow_before': (1, 3)}
SECOND = 1_000_000_000
MODELS = {n: TinyLlama(LAYERS, seed=3, key_value_heads=n, gain=12) for n in (1, 2)}
MODEL = MODELS[2]


def layout_of(cameras, patches=16):
    return Layout(tuple('abc')[:cameras], patches, 1, 18, 4)


def build(layout):
    target = Target(layout.cameras, layout.patches, LAYERS)
    return build_pruner({'name': 'vla_cache', **OPTIONS}, target)


def random_images(layout, seed):
    across = math.isqrt(layout.patches)
    random = np.random.default_rng(seed)
    shape = (across * PIXELS, across * PIXELS, 3)
    return {c: random.integers(20, 256, shape, dtype=np.uint8) for c in layout.cameras}


def repaint(images, layout, patches_of, seed):
    """Copies of ``images`` in which the given patches of each camera show something else."""
    across, other = math.isqrt(layout.patches), random_images(layout, seed)
    out = {c: image.copy() for c, image in images.items()}
    for camera, patches in zip(layout.cameras, patches_of, strict=True):
        for patch in patches:
            row, column = divmod(patch, across)
            box = np.s_[row * PIXELS : (row + 1) * PIXELS, column * PIXELS : (column + 1) * PIXELS]
            out[camera][box] = other[camera][box]
    return out


def query_of(layout, images, stamp_ns=0):
    return make_query(layout, model_images=images, stamp_ns=stamp_ns)


class Twin:
    """The method in plain Python: dicts, loops, and full sequences."""

    def __init__(self, layout, model):
        self.layout, self.model = layout, model
        self.recorded = [{} for _ in range(LAYERS)]  # layer -> id -> (k, v)
        self.age = [{} for _ in range(LAYERS)]  # layer -> id -> query in which it was computed
        self.seen = [[] for _ in range(LAYERS)]  # layer -> row of the prompt -> every key
        self.images = None
        self.queries = 0

    def select(self, images):
        """Layer -> ids reused from there on."""
        reusable = []
        for index, camera in enumerate(self.layout.cameras):
            reusable += self._of_camera(index, images[camera], self.images[camera])
        entropies = [self._entropy(layer) for layer in range(LAYERS)]
        low, high = min(entropies), max(entropies)
        share, shares = 0.0, []
        for layer, e in enumerate(entropies):
            raw = 1 - (e - low) / (high - low + 1e-10)
            share = share + 0.55 * (raw - share) if layer and raw > share else raw
            shares.append(share)
        gone, cut = {}, 0
        for layer in OPTIONS['grow_before']:
            if reusable:
                cut = max(cut, 1, int(shares[layer] * len(reusable)))
                gone[layer] = reusable[:cut]
        return gone

    def _of_camera(self, index, now, before):
        across = math.isqrt(self.layout.patches)
        a, b = (
            image.astype(float).reshape(across, PIXELS, across, PIXELS, 3).swapaxes(1, 2)
            for image in (now, before)
        )
        dot, *norms = (np.sum(x * y, axis=(2, 3, 4)).ravel() for x, y in ((a, b), (a, a), (b, b)))
        similarity = dot / (np.sqrt(norms[0]) * np.sqrt(norms[1]) + 1e-8)
        alike = dict(enumerate(np.float32(similarity).tolist()))
        static = [p for p in sorted(alike, key=lambda p: (-alike[p], p)) if alike[p] >= 0.996]
        base = index * self.layout.patches
        rows = self.seen[OPTIONS['relevant_layer']]
        look = {p: sum(row[1 + base + p] for row in rows) / len(rows) for p in alike}
        relevant = sorted(look, key=lambda p: (-look[p], p))[: OPTIONS['relevant_top']]
        return [base + p for p in sorted(set(static[: OPTIONS['static_top']]) - set(relevant))]

    def _entropy(self, layer):
        total = 0.0
        for row in self.seen[layer]:
            total -= sum(a * math.log(a + 1e-10) for a in row)
        return total / len(self.seen[layer])

    def forward(self, x, gone_from):
        """(1, A, D) of the read-out rows, and the ids that are computed in the last layer."""
        layout, model, gone = self.layout, self.model, []
        cos, sin = model.rotary_emb(x, torch.arange(layout.length)[None])
        for index, layer in enumerate(model.layers):
            gone = gone_from.get(index, gone)
            attn, y = layer.self_attn, layer.input_layernorm(x)
            shape = (1, layout.length, -1, attn.head_dim)
            q, k, v = (
                projection(y).view(shape).transpose(1, 2)
                for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
            )
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            for i in range(layout.visual):
                if i in gone:
                    k[0, :, 1 + i], v[0, :, 1 + i] = self.recorded[index][i]
                else:
                    self.recorded[index][i] = k[0, :, 1 + i].clone(), v[0, :, 1 + i].clone()
                    self.age[index][i] = self.queries
            outputs, maps = [], []
            for head in range(q.shape[1]):
                shared = head * k.shape[1] // q.shape[1]
                weights = (q[0, head] @ k[0, shared].T / math.sqrt(attn.head_dim)).softmax(-1)
                maps.append(weights)
                outputs.append(weights @ v[0, shared])
            mean = sum(maps) / len(maps)
            self.seen[index] = [mean[p].tolist() for p in layout.prompt_positions]
            x = x + attn.o_proj(torch.cat(outputs, -1)[None])
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            # No row of a reused token may matter from here on.
            x[:, [1 + i for i in gone]] = 1e3
        return model.norm(x)[:, list(layout.readout_positions)], gone

    def query(self, images, x):
        """Answer of the network, computed ids, layer -> reused ids."""
        gone = self.select(images) if self.images is not None else {}
        self.images = images
        self.queries += 1
        with torch.no_grad():
            out, last = self.forward(x.clone(), gone)
        return out, [i for i in range(self.layout.visual) if i not in last], gone


@pytest.mark.parametrize('heads', [1, 2])
@pytest.mark.parametrize('cameras', [1, 2, 3])
@pytest.mark.parametrize('seed', [0, 1])
def test_an_episode_matches_the_twin(cameras, heads, seed):
    """Six queries in which other patches change each time: answers, tokens, stores, reports."""
    layout, model = layout_of(cameras), MODELS[heads]
    pruner, twin = build(layout), Twin(layout, model.reference)
    random = np.random.default_rng(seed)
    images, sets, oldest = random_images(layout, 50 + seed), [], 0
    for step in range(6):
        x = model.embeddings(layout, 100 * seed + step)
        mode = pruner.begin(query_of(layout, images, step * SECOND // 2))
        got, state = model.run(layout, x, pruner)
        want, computed, gone = twin.query(images, x)
        assert mode == ('coarse' if gone else 'dense')
        assert state.ids.tolist() == computed
        for layer in range(LAYERS):
            reused = [i for before, ids in gone.items() if before == layer + 1 for i in ids]
            if reused:
                kept = sorted(set(range(layout.visual)) - set(reused))
                assert state.kept_by_site[f'after_L{layer}'].tolist() == kept
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        check_stores(pruner, twin)
        report = pruner.report()
        if gone:
            assert report['reason'] == ''
            reused = [report[f'reused_{camera}'] for camera in layout.cameras]
            found = [report[f'reusable_{camera}'] for camera in layout.cameras]
            assert sum(reused) == layout.visual - len(computed)
            assert all(map(int.__le__, reused, found)) and max(found) <= OPTIONS['static_top']
        sets.append(tuple(gone.get(3, ())))
        oldest = max(oldest, twin.queries - min(min(ages.values()) for ages in twin.age))
        changed = [random.choice(layout.patches, 3, replace=False) for _ in layout.cameras]
        images = repaint(images, layout, changed, 7 * step + seed)
    assert not sets[0] and all(sets[1:]) and len(set(sets)) > 2  # reuse happens, and changes
    assert oldest > 1  # some token was reused twice in a row


def check_stores(pruner, twin):
    for layer in range(LAYERS):
        for i, (k, v) in twin.recorded[layer].items():
            torch.testing.assert_close(pruner.keys[layer][0, :, i], k, rtol=0, atol=1e-5)
            torch.testing.assert_close(pruner.values[layer][0, :, i], v, rtol=0, atol=1e-5)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 10**6))
def test_selection_of_a_camera_against_loops(patches, static_top, relevant_top, seed):
    """Few different values, so that ties are common."""
    random = np.random.default_rng(seed)
    similarity = [float(s) for s in random.choice(np.float32([0.9, 0.996, 0.998, 1.0]), patches)]
    relevance = [float(r) for r in random.choice(np.float32([0.1, 0.2, 0.3]), patches)]
    threshold = float(np.float32(0.996))
    static = [p for p in range(patches) if similarity[p] >= threshold]
    static = sorted(static, key=lambda p: (-similarity[p], p))[:static_top]
    relevant = sorted(range(patches), key=lambda p: (-relevance[p], p))[:relevant_top]
    want = [p for p in range(patches) if p in static and p not in relevant]
    options = VlaCacheOptions(threshold, static_top, relevant_top)
    got = reusable_tokens(torch.tensor(similarity), torch.tensor(relevance), options)
    assert got.tolist() == want


def test_nothing_static_is_bit_identical_to_dense():
    layout = layout_of(2)
    pruner = build(layout)
    for step in range(3):
        x = MODEL.embeddings(layout, step)
        assert pruner.begin(query_of(layout, random_images(layout, step))) == 'dense'
        got, state = MODEL.run(layout, x, pruner)
        assert torch.equal(got, MODEL.run(layout, x, Dense())[0])
        assert len(state.ids) == layout.visual
    assert pruner.report()['reason'] == 'nothing_reusable'


def give_up(pruner, query):
    """A pass that ends before the last layer."""
    assert pruner.begin(query) == 'coarse'
    with torch.inference_mode():
        x = MODEL.embeddings(query.layout, 1)
        MODEL.ours.run_layers(x, start(query.layout, pruner), range(LAYERS - 1))
    return query


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda p, q: p.reset() or q, 'first'),
        (lambda p, q: replace(q, instruction='open the drawer'), 'new_instruction'),
        (lambda p, q: replace(q, stamp_ns=q.stamp_ns - 1), 'clock_jump'),
        (lambda p, q: replace(q, stamp_ns=q.stamp_ns + 10 * SECOND), 'camera_gap'),
        (lambda p, q: replace(q, layout=replace(q.layout, prompt=19)), 'new_layout'),
        (lambda p, q: p.begin(q) and q, 'interrupted'),
        (give_up, 'interrupted'),
    ],
)
def test_what_ends_an_episode_runs_dense_and_fills_the_cache_anew(change, reason):
    layout = layout_of(2)
    pruner, images = build(layout), random_images(layout, 0)
    query = query_of(layout, images, 5 * SECOND)
    for _ in range(2):
        pruner.begin(query)
        MODEL.run(layout, MODEL.embeddings(layout, 0), pruner)
    query = change(pruner, query)
    x = MODEL.embeddings(query.layout, 1)
    assert pruner.begin(query) == 'dense'
    assert pruner.report()['reason'] == reason
    assert pruner.report()['state_mib'] == 0.0
    got, state = MODEL.run(query.layout, x, pruner)
    assert torch.equal(got, MODEL.run(query.layout, x, Dense())[0])
    assert pruner.begin(query) == 'coarse'  # reuses what the dense pass stored
    again, state = MODEL.run(query.layout, x, pruner)
    torch.testing.assert_close(again, got, rtol=0, atol=1e-5)
    assert len(state.ids) < layout.visual


def test_a_diffusion_head_and_patches_that_are_no_grid_are_refused():
    layout = replace(layout_of(1), time=1)
    with pytest.raises(ProfileError, match='diffusion head'):
        build(layout).begin(query_of(layout, random_images(layout, 0)))
    layout = layout_of(1, patches=12)
    pruner, images = build(layout), random_images(layout, 0)
    pruner.begin(query_of(layout, images))
    MODEL.run(layout, MODEL.embeddings(layout, 0), pruner)
    with pytest.raises(ProfileError, match='12 patches'):
        pruner.begin(query_of(layout, images))


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


@pytest.mark.gpu
def test_everything_stays_on_the_device():
    """An episode on a GPU: the tokens of the CPU, and its answers but for rounding."""
    layout, images, answers = layout_of(2), random_images(layout_of(2), 0), {}
    for device in ('cpu', 'cuda'):
        model, pruner = deepcopy(MODEL), build(layout)
        model.ours.to(device)
        for step in range(3):
            x = model.embeddings(layout, step).to(device)
            pruner.begin(replace(query_of(layout, images), visual=x[0, 1 : 1 + layout.visual]))
            out, state = model.run(layout, x, pruner)
            answers[device, step] = out.cpu(), state.ids.tolist()
        assert state.ids.device.type == pruner.keys[0].device.type == device
    for step in range(3):
        (got, ids), (want, want_ids) = answers['cuda', step], answers['cpu', step]
        assert ids == want_ids
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)
