"""``recommended`` and ``careful``, decision by decision, recomputed in plain Python.

The twin knows the attention rows, the patch changes and the global scores, and follows the rules
of docs/specprune.md with lists and sorts; nothing of the package's selection is used.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import CHUNK_NS, FAST, SLOW, SpecPruneEpisode, decisions
from selection_twins import best

from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.records import MotionHint

PATCHES, LAYERS = 16, 32


class Scene(SpecPruneEpisode):
    def __init__(self, cameras, seed, **options):
        super().__init__(cameras, seed, **options)
        self.maps = torch.Generator().manual_seed(seed)

    def query(self, *changes, maps=None):
        """The mode, and per site what was seen: (layer, ids, attention, ids that are kept)."""
        mode = self.begin(*changes)
        if maps is None:
            shape = (LAYERS, self.layout.length, self.layout.visual)
            maps = torch.rand(shape, generator=self.maps).softmax(-1)
        seen = decisions(self.pruner, self.layout, maps)
        return mode, [(layer, ids.tolist(), a, kept.tolist()) for layer, ids, a, kept in seen]


def scaled(count):
    """A preset's count of 256 for the patches of these cameras."""
    return math.ceil(count * PATCHES / 256)


# The tables of docs/specprune.md: primary and further cameras, coarse and fine.
LOCAL = {'coarse': (24, 19), 'fine': (32, 26)}
MOVED = {
    'recommended': {'coarse': (20, 26), 'fine': (27, 35)},
    'careful': {'coarse': (20, 26), 'fine': (40, 50)},
}
GLOBAL = {'coarse': (12, 10), 'fine': (16, 13)}
BUDGET = {
    'recommended': {
        'coarse': {0: (136, 128), 1: (108, 100), 15: (104, 96), 20: (100, 92), 25: (96, 88)},
        'fine': {0: (192, 184), 1: (120, 112), 15: (116, 108), 20: (112, 104), 25: (108, 100)},
    },
    'careful': {
        'coarse': {0: (136, 128), 1: (128, 120), 15: (112, 104), 20: (96, 88), 25: (88, 80)},
        'fine': {0: (192, 184), 1: (184, 176), 15: (160, 152), 20: (136, 128), 25: (120, 112)},
    },
}


def of_camera(pair, camera):
    return scaled(pair[min(camera, 1)])


def even_rank(patch):
    """Bayer's matrix: of the quarters of a square the one top left comes first, then the one
    bottom right, top right and bottom left; the same within each."""
    row, column = divmod(patch, math.isqrt(PATCHES))
    rank, weight, half = 0, 1, math.isqrt(PATCHES) // 2
    while half:
        rank += weight * [[0, 2], [3, 1]][row // half][column // half]
        row, column, weight, half = row % half, column % half, 4 * weight, half // 2
    return rank


def twin(scene, preset, mode, seen, amount, moved, looked):
    """The ids that are kept at each site."""
    cameras = range(len(scene.layout.cameras))
    most, global_ids = set(), set()
    for c in cameras:
        ids = range(c * PATCHES, (c + 1) * PATCHES)
        most.update(best(amount, ids, of_camera(MOVED[preset][mode], c)))
        for scores in looked.values():
            global_ids.update(best(scores, ids, of_camera(GLOBAL[mode], c)))
    local, importance, out = [], dict.fromkeys(range(scene.layout.visual), 0.0), []
    for layer, ids, attention, _ in seen:
        rows = None if attention is None else attention.double().mean(0).tolist()
        score = dict(zip(ids, rows or [0.0] * len(ids), strict=True))
        mine = [[i for i in ids if i // PATCHES == c] for c in cameras]
        if layer in (14, 19, 24):
            p = attention.double() + 1e-8
            p = p / p.sum(-1, keepdim=True)
            spread = float(-(p * p.log()).sum(-1).mean()) / math.log(len(ids))
            confidence = scene.confidence.setdefault(layer, 1.0 / (spread + 1e-8))
            raw = [1.0 / (1.0 + math.exp(rank)) for rank in range(len(ids))]
            for rank, i in enumerate(best(score, ids, len(ids))):
                fresh = raw[rank] / sum(raw) * confidence
                importance[i] = 0.8 * importance[i] + 0.2 * fresh
            out.append(ids)
            continue
        budget = [of_camera(BUDGET[preset][mode][layer], c) for c in cameras]
        if layer > 1:
            kept = [best(importance, mine[c], budget[c]) for c in cameras]
            out.append(sorted(i for k in kept for i in k))
            continue
        counts = [of_camera(LOCAL[mode], c) for c in cameras]
        chosen = [best(score, mine[c], counts[c] * (1 if layer else 2)) for c in cameras]
        wanted = most | global_ids | {i for k in chosen for i in k} | set(local)
        if layer == 0:
            local = [i for k, n in zip(chosen, counts, strict=True) for i in k[:n]]

        def key(i, wanted=wanted, score=score):
            if i in wanted:
                return 0, -score[i], i
            return (1, -amount[i], i) if moved[i] else (2, even_rank(i % PATCHES), i)

        kept = [sorted(mine[c], key=key)[: budget[c]] for c in cameras]
        out.append(sorted(i for k in kept for i in k))
    return out


@pytest.mark.parametrize('preset', ['recommended', 'careful'])
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 999),
    st.lists(st.booleans(), min_size=2, max_size=4),
    st.sampled_from([(), ('b',), ('a', 'b', 'c')]),
)
def test_every_decision_of_an_episode(preset, cameras, seed, slow, shaking):
    scene = Scene(cameras, seed, shaking=shaking, preset=preset)
    scene.confidence = {}
    assert scene.query()[0] == 'dense'
    for is_slow in slow:
        looked = {layer: s.tolist() for layer, s in scene.pruner.memory.scores.items()}
        mode, seen = scene.query(SLOW if is_slow else FAST)
        assert mode == ('fine' if is_slow else 'coarse')
        amount = scene.pruner.token_scores.amount.tolist()
        moved = scene.pruner.token_scores.moved.tolist()
        want = twin(scene, preset, mode, seen, amount, moved, looked)
        assert [kept for *_, kept in seen] == want


def test_reset_forgets_confidence_mode_and_how_long_ago_the_last_query_was():
    scene = Scene(2, 7)
    in_band = MotionHint(0.12, 0.0, 0.0, 'pose')  # between 0.09 and 1.5 times it
    scene.query(SLOW)
    scene.query(SLOW)
    assert scene.query(in_band)[0] == 'fine' and scene.pruner.confidence
    scene.pruner.reset()
    scene.history.clear()
    assert not scene.pruner.confidence
    scene.query(in_band)
    assert scene.query(in_band)[0] == 'coarse'


@pytest.mark.parametrize(
    ('step_ns', 'motion', 'steps'),
    [
        (CHUNK_NS, MotionHint(0.0, 0.0, 0.0, 'pose'), 6),
        # m units of 0.05 m in 0.4 s; T = floor(-16/3 m/6 + 22/3) + 3, within 2 ... 6
        (CHUNK_NS, MotionHint(0.6, 0.0, 0.0, 'pose'), 6),  # 4.8 units: floor(3.07) + 3
        (CHUNK_NS, MotionHint(1.0, 0.0, 0.0, 'pose'), 3),  # 8 units: floor(0.22) + 3
        (CHUNK_NS, MotionHint(2.0, 0.0, 0.0, 'pose'), 2),  # clamped
        (CHUNK_NS // 2, MotionHint(1.0, 0.0, 0.0, 'pose'), 6),  # half the way in half the time
        (CHUNK_NS, None, 6),
        (CHUNK_NS, MotionHint(float('nan'), 0.0, 0.0, 'pose'), 6),
        (CHUNK_NS, MotionHint(-2.0, 0.0, 0.0, 'pose'), 6),
    ],
)
def test_look_back_follows_the_way_since_the_last_query(step_ns, motion, steps):
    scene = Scene(1, 8)
    scene.query()
    scene.query(motion, step_ns)
    assert scene.pruner.report()['look_back_steps'] == steps


def test_the_way_is_in_metres_on_every_robot():
    """BRIDGE counts metres and steps of 0.2 s; the reference is as old as on LIBERO's arm."""
    for target in (Target(('a',), PATCHES), Target(('a',), PATCHES, 32, 5, 0.2, 1.0, 1.0)):
        pruner = build_pruner('specprune', target)
        assert pruner.history_s == pytest.approx(0.3)


def test_without_comparison_no_frame_is_kept_or_missed():
    scene = Scene(2, 9, moving_patches=False)
    assert scene.pruner.history_s == 0.0
    scene.history.before = scene.history.has_earlier = None  # would fail if they were called
    scene.query()
    assert scene.query()[0] == 'coarse' and 'look_back_steps' not in scene.pruner.report()
    assert not scene.pruner.token_scores.moved.any()


def test_broken_numbers_in_one_query_do_not_stay():
    scene = Scene(2, 10)
    scene.query()
    nan = torch.full((LAYERS, scene.layout.length, scene.layout.visual), float('nan'))
    assert scene.query(maps=nan)[0] == 'coarse'
    assert not scene.pruner.confidence
    scene.query()
    known = scene.pruner.confidence.values()
    assert known and all(c.isfinite() for c in known)
