"""SpecPrune-VLA as one piece: modes, memory, budgets and the seam's rules, on small random models.

The reference of rule 4 is ``transformers``' own eager layers with a mask; the other expectations
are closed forms: budgets as configured, sets recomputed by plain Python.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from vla_prune_ros.model.language import LanguageModel
from vla_prune_ros.pruning.base import Query
from vla_prune_ros.pruning.forward_state import PruningState
from vla_prune_ros.pruning.frames import FrameHistory
from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.pruning.specprune.config import SPECPRUNE_PRESETS, Counts
from vla_prune_ros.records import MotionHint

WIDTH, LAYERS = 16, 12
SIDE = 4  # patches of a camera: 4 x 4
CHUNK_NS = 400_000_000
SLOW = MotionHint(0.05, 0.1, -0.02, 'pose')
FAST = MotionHint(0.9, 0.1, 0.0, 'pose')
PRESETS = sorted(SPECPRUNE_PRESETS)


def make_model(layers=LAYERS):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        attn_implementation='eager',
    )
    reference = LlamaModel(config).eval()
    model = LanguageModel(config).eval()
    model.model.load_state_dict(reference.state_dict())
    return model, reference


MODEL, REFERENCE = make_model()


class Episode:
    """Queries of one episode, a chunk apart, with frames in which a bright square moves."""

    def __init__(self, pruner, cameras=2, seed=0, watched=False):
        self.pruner, self.watched = pruner, watched
        self.layout = Layout(tuple('abc')[:cameras], SIDE * SIDE, 1, 22, 8)
        self.history = FrameHistory(lambda image: image, 25_000_000)
        self.random = np.random.default_rng(seed)
        side = 14 * SIDE
        self.scene = self.random.integers(40, 90, (side, side, 3), np.uint8)
        self.number = 0
        self.stamp_ns = 0

    def frame(self, number):
        image = self.scene.copy()
        low = 14 * (number % SIDE)
        image[low : low + 14, 14:28] = 250
        return image[::2, ::2] if self.pruner.half_resolution else image

    def query(self, motion=FAST, instruction='task', step_ns=CHUNK_NS, embeddings=None):
        """One inference: mode, state, and what went in."""
        if self.watched and self.number:  # every 50 ms for as long as a chunk lasts
            for stamp_ns in range(self.stamp_ns, self.stamp_ns + CHUNK_NS, CHUNK_NS // 8):
                for camera in self.layout.cameras:
                    self.history.push(camera, stamp_ns, self.frame(self.number))
        self.number += 1
        self.stamp_ns += step_ns
        images = {c: self.frame(self.number) for c in self.layout.cameras}
        self.history.push_prepared(self.stamp_ns, images)
        query = Query(
            layout=self.layout,
            model_images=images,
            instruction=instruction,
            stamp_ns=self.stamp_ns,
            motion=motion,
            history=self.history,
            frames=images,
        )
        mode = self.pruner.begin(query)
        if embeddings is None:
            numbers = self.random.standard_normal((1, self.layout.length, WIDTH))
            embeddings = torch.from_numpy(numbers).float()
        out, state = run(self.layout, embeddings, self.pruner)
        return mode, state, out, embeddings

    def refresh(self, embeddings):
        """A dense pass for the global scores, as after a chunk."""
        run(self.layout, embeddings, self.pruner.refresher())


def run(layout, x, pruner):
    state = PruningState(layout=layout, pruner=pruner, positions=torch.arange(layout.length))
    with torch.inference_mode():
        return MODEL(x, state), state


def masked_dense(layout, x, state):
    """All rows stay; removed tokens are masked as keys from the next layer on."""
    cos, sin = REFERENCE.rotary_emb(x, torch.arange(layout.length)[None])
    mask = torch.zeros(1, 1, layout.length, layout.length)
    with torch.inference_mode():
        for index, layer in enumerate(REFERENCE.layers):
            x = layer(x, attention_mask=mask, position_embeddings=(cos, sin))
            kept = state.kept_by_site.get(f'after_L{index}')
            if kept is not None:
                gone = sorted(set(range(layout.visual)) - set(kept.tolist()))
                mask[..., [1 + i for i in gone]] = float('-inf')
        return REFERENCE.norm(x)[:, list(layout.readout_positions)]


def build(preset='recommended', cameras=2, **options):
    names = tuple('abc')[:cameras]
    return build_pruner(
        {'name': 'specprune', 'preset': preset, **options}, Target(names, SIDE * SIDE, LAYERS)
    )


def per_camera(ids, cameras=2):
    return [int((ids // (SIDE * SIDE) == c).sum()) for c in range(cameras)]


@pytest.mark.parametrize('preset', PRESETS)
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99), st.lists(st.booleans(), min_size=2, max_size=4))
def test_rules_1_2_4_in_every_query_of_an_episode(preset, cameras, seed, fast):
    """Positions are original, non-visual tokens stay, and removing equals masking (1e-5)."""
    episode = Episode(build(preset, cameras), cameras, seed)
    for quick in fast:
        _, state, out, x = episode.query(FAST if quick else SLOW)
        layout = episode.layout
        rest = list(range(1 + layout.visual, layout.length))
        assert state.positions.tolist() == [0, *(state.ids + 1).tolist(), *rest]
        torch.testing.assert_close(out, masked_dense(layout, x, state), rtol=0, atol=1e-5)


@pytest.mark.parametrize('preset', PRESETS)
def test_rule_3_nothing_to_drop_is_bit_identical_to_dense(preset):
    pruner = build(preset)
    everything = Counts(*((SIDE * SIDE,) * 2,) * 2)
    budgets = pruner.config.budgets
    pruner.config = replace(
        pruner.config,
        local=everything,
        keep_ratio=1.0,
        budgets=None if budgets is None else dict.fromkeys(budgets, everything),
    )
    episode = Episode(pruner)
    for _ in range(3):
        _, state, out, x = episode.query()
        assert len(state.ids) == episode.layout.visual
        assert torch.equal(out, run(episode.layout, x, Dense())[0])


@pytest.mark.parametrize('preset', PRESETS)
def test_rule_5_the_same_episode_twice_gives_the_same_bits(preset):
    runs = []
    for _ in range(2):
        episode = Episode(build(preset))
        runs.append([episode.query(m) for m in (FAST, SLOW, SLOW, FAST)])
    for (mode, state, out, _), (mode2, state2, out2, _) in zip(*runs, strict=True):
        assert mode == mode2 and torch.equal(out, out2) and torch.equal(state.ids, state2.ids)


def reasons(episode, *queries):
    out = []
    for changes in queries:
        mode, _, _, _ = episode.query(**changes)
        out.append((mode, episode.pruner.report()['reason']))
    return out


def test_what_breaks_an_episode_runs_dense_and_forgets():
    episode = Episode(build())
    got = reasons(
        episode,
        {},
        {'instruction': 'another'},
        {'instruction': 'another'},
        {'instruction': 'another', 'step_ns': -2 * CHUNK_NS},
        {'instruction': 'another'},
        {'instruction': 'another', 'step_ns': 3 * CHUNK_NS},
    )
    assert got == [
        ('dense', 'first'),
        ('dense', 'new_instruction'),
        ('coarse', ''),
        ('dense', 'clock_jump'),
        ('coarse', ''),
        ('dense', 'camera_gap'),
    ]
    episode.pruner.reset()
    assert episode.pruner.memory.empty
    assert reasons(episode, {'instruction': 'another'}) == [('dense', 'first')]


def test_a_camera_that_stays_silent_for_more_than_half_a_second():
    episode = Episode(build(), watched=True)
    steps = [CHUNK_NS, CHUNK_NS + 450_000_000, CHUNK_NS + 451_000_000]
    got = reasons(episode, *({'step_ns': step} for step in steps))
    assert got == [('dense', 'first'), ('coarse', ''), ('dense', 'camera_gap')]


def test_global_scores_that_grow_old_are_renewed_by_a_dense_query():
    modes = [mode for mode, _ in reasons(Episode(build(refresh_every=3)), *[{}] * 9)]
    assert modes == ['dense', *['coarse'] * 3] * 2 + ['dense']


def test_a_refresh_is_offered_once_per_chunk_and_not_after_a_dense_query():
    """A chunk lasts 0.4 s; queries come twice as often."""
    episode = Episode(build())
    offered = []
    for _ in range(6):
        mode, _, _, x = episode.query(step_ns=CHUNK_NS // 2)
        refresher = episode.pruner.refresher()
        offered.append((mode, refresher is not None))
        if refresher is not None:
            run(episode.layout, x, refresher)
    assert offered == [('dense', False)] + [('coarse', False), ('coarse', True)] * 2 + [
        ('coarse', False)
    ]


def test_global_scores_of_a_refresh_are_those_of_a_dense_pass_in_original_ids():
    """Against the maps of the eager layers, after two pruned queries."""
    episode = Episode(build())
    for _ in range(3):
        _, _, _, x = episode.query()
    episode.refresh(x)
    layout, layers = episode.layout, episode.pruner.config.global_layers
    cos, sin = REFERENCE.rotary_emb(x, torch.arange(layout.length)[None])
    zero = torch.zeros(1, 1, layout.length, layout.length)
    with torch.inference_mode():
        for index, layer in enumerate(REFERENCE.layers):
            if index in layers:
                _, maps = layer.self_attn(
                    layer.input_layernorm(x), attention_mask=zero, position_embeddings=(cos, sin)
                )
                rows = maps[0].mean(0)[list(layout.task_positions), 1 : 1 + layout.visual]
                got = episode.pruner.memory.scores[index]
                torch.testing.assert_close(got, rows.mean(0), rtol=0, atol=1e-6)
            x = layer(x, attention_mask=zero, position_embeddings=(cos, sin))


def test_scores_of_pruned_passes_are_in_original_ids_and_zero_for_the_absent():
    """``paper`` harvests in every query, here after the last of twelve layers."""
    pruner = build('paper', mode='coarse')
    episode = Episode(pruner)
    for _ in range(3):
        _, state, _, _ = episode.query()
        scores = pruner.memory.scores[LAYERS - 1]
        assert len(scores) == episode.layout.visual
        assert set(scores.nonzero().flatten().tolist()) <= set(state.ids.tolist())
    assert len(state.ids) < episode.layout.visual


def test_an_unfinished_refresh_leaves_the_old_scores():
    episode = Episode(build())
    episode.query()
    _, _, _, x = episode.query()
    before = {layer: s.clone() for layer, s in episode.pruner.memory.scores.items()}
    refresher = episode.pruner.refresher()
    layout = episode.layout
    state = PruningState(layout=layout, pruner=refresher, positions=torch.arange(layout.length))
    with torch.inference_mode():
        MODEL.run_layers(2 * x, state, range(LAYERS - 1))
    assert before and all(
        torch.equal(episode.pruner.memory.scores[layer], s) for layer, s in before.items()
    )


def test_unknown_motion_keeps_more_and_says_so():
    episode = Episode(build())
    episode.query()
    mode, _, _, _ = episode.query(motion=None)
    report = episode.pruner.report()
    assert mode == 'fine' and report['motion'] == 'unknown' and 'speed_m_s' not in report
    mode, _, _, _ = episode.query(motion=FAST)
    assert mode == 'coarse' and episode.pruner.report()['motion'] == 'pose'


def test_moving_patches_are_counted_and_stay():
    """The square moves by one patch: where it was and where it is, in each camera."""
    episode = Episode(build('legacy_2026', mode='coarse'), watched=True)
    episode.query()
    _, state, _, _ = episode.query()
    assert episode.pruner.report()['changed_a'] == 2
    changed = [i for i in range(16) if episode.pruner.token_scores.moved[i]]
    rows = {SIDE * ((episode.number - n) % SIDE) + 1 for n in (0, 1)}
    assert set(changed) == rows
    assert rows <= set(state.kept_by_site['after_L1'].tolist())


def test_a_reference_that_cannot_be_decoded_makes_every_patch_a_moved_one():
    episode = Episode(build(mode='coarse'))
    episode.query()
    for name in ('before', 'first'):
        setattr(episode.history, name, lambda *a: None)
    episode.query()
    assert episode.pruner.report()['changed_a'] == 16
    assert not episode.pruner.token_scores.removable.any()


def test_options_reach_what_they_name():
    pruner = build(budget=[4, 2])
    episode = Episode(pruner)
    episode.query()
    _, state, _, _ = episode.query()
    assert per_camera(state.kept_by_site['after_L1']) == [4, 2]
    assert not build(global_scores=False).config.global_layers
    assert build(change_threshold=[3, 4]).config.change.threshold == (3.0, 4.0)
    assert build(enter_m_s=0.1).config.controller.enter_m_s == 0.1
    assert build(refresh_every=0).config.refresh_every == 0


def test_without_comparison_nothing_counts_as_moved():
    pruner = build('paper', moving_patches=False, global_scores=False, mode='coarse')
    episode = Episode(pruner)
    episode.query()
    _, state, _, _ = episode.query()
    assert pruner.token_scores.removable.all()
    local = pruner.config.local.coarse
    assert len(state.kept_by_site['after_L1']) <= 2 * sum(local)


@pytest.mark.parametrize('layers', [1, 2, 3, 4, 6, 8, 12, 24, 40])
@pytest.mark.parametrize('preset', PRESETS)
def test_any_depth_is_possible(preset, layers):
    """All layers exist, dynamic ones are deeper than the static ones, none is there twice."""
    pruner = build_pruner(f'specprune:{preset}', Target(layers=layers))
    config = pruner.config
    for some in (config.updates, config.prunes, config.global_layers):
        assert len(set(some)) == len(some) and all(0 <= layer < layers for layer in some)
    assert all(layer > 1 for layer in (*config.updates, *config.prunes))
    if config.budgets is not None:
        assert set(config.prunes) <= set(config.budgets)
        published = SPECPRUNE_PRESETS[preset].budgets
        assert all(config.budgets[layer] == published[layer] for layer in (0, 1))


def test_removable_patches_against_plain_python():
    for preset in PRESETS:
        pruner = build(preset, mode='coarse')
        episode = Episode(pruner, seed=1)
        episode.query()
        episode.query()
        known, config = pruner.token_scores, pruner.config
        amount, moved = known.amount.tolist(), known.moved.tolist()
        groups = [range(32)] if config.joint else [range(16), range(16, 32)]
        sizes = config.moved.coarse
        sizes = [sum(sizes)] if config.joint else sizes
        want = set()
        for group, size in zip(groups, sizes, strict=True):
            if config.moved_more:
                still = sorted((i for i in group if not moved[i]), key=lambda i: (amount[i], i))
                want |= set(still[: len(group) - size])
            else:
                most = sorted((i for i in group if moved[i]), key=lambda i: (-amount[i], i))
                want |= set(group) - set(most[:size])
        assert set(known.removable.nonzero().flatten().tolist()) == want
