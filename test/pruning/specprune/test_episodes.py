"""SpecPrune-VLA as one piece: modes, memory, budgets and the seam's rules, on small random models.

The reference of rule 4 is ``transformers``' own eager layers with a mask; the other expectations
are closed forms: budgets as configured, sets recomputed by plain Python.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import CHUNK_NS, FAST, SLOW, SpecPruneEpisode, TinyLlama, start

from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.pruning.specprune.config import SPECPRUNE_PRESETS, Counts

LAYERS = 12
SIDE = 4  # patches of a camera: 4 x 4
PRESETS = sorted(SPECPRUNE_PRESETS)
EVERY_PRESET = pytest.mark.parametrize('preset', PRESETS)
MODEL = TinyLlama(LAYERS, seed=3)


class Episode(SpecPruneEpisode):
    def __init__(self, preset='recommended', cameras=2, seed=0, **options):
        super().__init__(cameras, seed, layers=LAYERS, preset=preset, **options)

    def query(self, *changes, **more):
        """One inference: mode, state, the rows that the head reads, and what went in."""
        mode = self.begin(*changes, **more)
        numbers = self.random.standard_normal((1, self.layout.length, MODEL.width))
        x = torch.from_numpy(numbers).float()
        out, state = MODEL.run(self.layout, x, self.pruner)
        return mode, state, out, x


@EVERY_PRESET
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99), st.lists(st.booleans(), min_size=2, max_size=4))
def test_rules_1_2_4_in_every_query_of_an_episode(preset, cameras, seed, fast):
    """Positions are original, non-visual tokens stay, and removing equals masking (1e-5)."""
    episode = Episode(preset, cameras, seed)
    for quick in fast:
        _, state, out, x = episode.query(FAST if quick else SLOW)
        layout = episode.layout
        rest = list(range(1 + layout.visual, layout.length))
        assert state.positions.tolist() == [0, *(state.ids + 1).tolist(), *rest]
        want = MODEL.masked_dense(layout, x, state.kept_by_site)
        torch.testing.assert_close(out, want, rtol=0, atol=1e-5)


@EVERY_PRESET
def test_rule_3_nothing_to_drop_is_bit_identical_to_dense(preset):
    episode = Episode(preset)
    pruner = episode.pruner
    everything = Counts(*((SIDE * SIDE,) * 2,) * 2)
    budgets = pruner.config.budgets
    pruner.config = replace(
        pruner.config,
        local=everything,
        keep_ratio=1.0,
        budgets=None if budgets is None else dict.fromkeys(budgets, everything),
    )
    for _ in range(3):
        _, state, out, x = episode.query()
        assert len(state.ids) == episode.layout.visual
        assert torch.equal(out, MODEL.run(episode.layout, x, Dense())[0])


@EVERY_PRESET
def test_rule_5_the_same_episode_twice_gives_the_same_bits(preset):
    runs = []
    for _ in range(2):
        episode = Episode(preset)
        runs.append([episode.query(m) for m in (FAST, SLOW, SLOW, FAST)])
    for (mode, state, out, _), (mode2, state2, out2, _) in zip(*runs, strict=True):
        assert mode == mode2 and torch.equal(out, out2) and torch.equal(state.ids, state2.ids)


def reasons(episode, *queries):
    return [(episode.query(**q)[0], episode.pruner.report()['reason']) for q in queries]


def test_what_breaks_an_episode_runs_dense_and_forgets():
    episode = Episode()
    other = {'instruction': 'another'}
    back, late = {**other, 'step_ns': -2 * CHUNK_NS}, {**other, 'step_ns': 3 * CHUNK_NS}
    assert reasons(episode, {}, other, other, back, other, late) == [
        ('dense', 'first'),
        ('dense', 'new_instruction'),
        ('coarse', ''),
        ('dense', 'clock_jump'),
        ('coarse', ''),
        ('dense', 'camera_gap'),
    ]
    episode.pruner.reset()
    assert episode.pruner.memory.empty
    assert reasons(episode, other) == [('dense', 'first')]
    episode = Episode(watched=True)
    steps = [CHUNK_NS, CHUNK_NS + 450_000_000, CHUNK_NS + 451_000_000]
    got = reasons(episode, *({'step_ns': step} for step in steps))
    assert got == [('dense', 'first'), ('coarse', ''), ('dense', 'camera_gap')]


def test_global_scores_that_grow_old_are_renewed_by_a_dense_query():
    modes = [mode for mode, _ in reasons(Episode(refresh_every=3), *[{}] * 9)]
    assert modes == ['dense', *['coarse'] * 3] * 2 + ['dense']


def test_a_refresh_is_offered_once_per_chunk_and_not_after_a_dense_query():
    """A chunk lasts 0.4 s; queries come twice as often."""
    episode = Episode()
    offered = []
    for _ in range(6):
        mode, _, _, x = episode.query(step_ns=CHUNK_NS // 2)
        refresher = episode.pruner.refresher()
        offered.append((mode, refresher is not None))
        if refresher is not None:
            MODEL.run(episode.layout, x, refresher)
    pairs = [('coarse', False), ('coarse', True)]
    assert offered == [('dense', False), *pairs, *pairs, pairs[0]]


def test_global_scores_of_a_refresh_are_those_of_a_dense_pass_in_original_ids():
    """Against the maps of the eager layers, after two pruned queries."""
    episode = Episode()
    for _ in range(3):
        _, _, _, x = episode.query()
    layout = episode.layout
    MODEL.run(layout, x, episode.pruner.refresher())
    _, maps = MODEL.reference_pass(x, range(layout.length))
    scores = episode.pruner.memory.scores
    assert list(scores) == list(episode.pruner.config.global_layers)
    for layer, got in scores.items():
        want = maps[layer][list(layout.task_positions), 1 : 1 + layout.visual].mean(0)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_scores_of_pruned_passes_are_in_original_ids_and_zero_for_the_absent():
    """``paper`` harvests in every query, here after the last of twelve layers."""
    episode = Episode('paper', mode='coarse')
    for _ in range(3):
        _, state, _, _ = episode.query()
        scores = episode.pruner.memory.scores[LAYERS - 1]
        assert len(scores) == episode.layout.visual
        assert set(scores.nonzero().flatten().tolist()) <= set(state.ids.tolist())
    assert len(state.ids) < episode.layout.visual


def test_an_unfinished_refresh_leaves_the_old_scores():
    episode = Episode()
    episode.query()
    _, _, _, x = episode.query()
    scores = episode.pruner.memory.scores
    before = {layer: s.clone() for layer, s in scores.items()}
    state = start(episode.layout, episode.pruner.refresher())
    with torch.inference_mode():
        MODEL.ours.run_layers(2 * x, state, range(LAYERS - 1))
    assert before and all(scores[layer].equal(s) for layer, s in before.items())


def test_unknown_motion_keeps_more_and_says_so():
    episode = Episode()
    episode.query()
    assert episode.query(motion=None)[0] == 'fine'
    report = episode.pruner.report()
    assert report['motion'] == 'unknown' and 'speed_m_s' not in report
    assert episode.query()[0] == 'coarse' and episode.pruner.report()['motion'] == 'pose'


def test_a_reference_that_cannot_be_decoded_makes_every_patch_a_moved_one():
    episode = Episode(mode='coarse')
    episode.query()
    for name in ('before', 'first'):
        setattr(episode.history, name, lambda *a: None)
    episode.query()
    assert episode.pruner.report()['changed_a'] == 16
    assert not episode.pruner.token_scores.removable.any()


def test_options_reach_what_they_name():
    episode = Episode(budget=[4, 2])
    episode.query()
    _, state, _, _ = episode.query()
    kept = state.kept_by_site['after_L1'] // SIDE**2
    assert torch.bincount(kept).tolist() == [4, 2]
    assert not Episode(global_scores=False).pruner.config.global_layers
    assert Episode(change_threshold=[3, 4]).pruner.config.change.threshold == (3.0, 4.0)
    assert Episode(enter_m_s=0.1).pruner.config.controller.enter_m_s == 0.1
    assert Episode(refresh_every=0).pruner.config.refresh_every == 0


@pytest.mark.parametrize('layers', [1, 2, 3, 4, 6, 8, 12, 24, 40])
@EVERY_PRESET
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


@EVERY_PRESET
def test_removable_patches_against_plain_python(preset):
    episode = Episode(preset, seed=1, mode='coarse')
    episode.query()
    episode.query()
    known, config = episode.pruner.token_scores, episode.pruner.config
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


@pytest.mark.parametrize('side', [1, 2, 3])
@EVERY_PRESET
def test_a_camera_of_few_patches_keeps_a_token_while_scores_are_asked_for(preset, side):
    """0.9 of one token is none: the confidence of a later layer is not defined without tokens."""
    episode = Episode(preset, 1, side=side)
    last = max(episode.pruner.config.updates, default=0)
    for _ in range(3):
        _, state, out, x = episode.query()
        earlier = (f'after_L{layer}' for layer in range(last))
        assert all(len(state.kept_by_site.get(site, '?')) for site in earlier)
        want = MODEL.masked_dense(episode.layout, x, state.kept_by_site)
        torch.testing.assert_close(out, want, rtol=0, atol=1e-5)
