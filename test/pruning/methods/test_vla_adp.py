"""VLA-ADP: the gate as a table and against a twin, the split, the scores, the state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning_pass import make_query

from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.methods.vla_adp import MotionGate, split_budget
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.records import MotionHint

LAYOUT = Layout(('scene', 'wrist'), 8, 1, 17, 4)
TARGET = Target(LAYOUT.cameras, 8, 3)  # chunks of 8 steps of 0.05 s


def build(**options):
    return build_pruner({'name': 'vla_adp', **options}, TARGET)


@pytest.mark.parametrize(
    ('before', 'now', 'prune', 'why'),
    [
        ((0.1,), 0.5, False, 'filling'),
        ((0.1, 0.2), 0.2, True, 'fast'),
        ((0.2, 0.1), 0.1, True, 'between'),
        ((0.2, 0.1), 0.05, False, 'slow'),
        ((0.0, 0.0), 0.0, True, 'fast'),
        ((9.0, 0.2, 0.1), 0.3, True, 'fast'),
        ((0.01, 0.2, 0.1), 0.05, False, 'slow'),
        ((0.1, 0.2), None, False, 'no_motion'),
    ],
)
def test_the_gate_as_a_table(before, now, prune, why):
    """The windows of the paper: at least the largest of the last two, less than the smallest."""
    gate = MotionGate()
    for moved in before:
        gate.step(moved)
    gate.streak = 0
    assert gate.step(now) == (prune, why)


def gate_twin(moves, window, max_pruned):
    """The rule, with the whole list of displacements at hand."""
    decisions, known, row = [], [], 0
    for d in moves:
        if d is None:
            known, prune = [], False
        else:
            last = known[-(window - 1) :]
            known.append(d)
            prune = len(last) == window - 1 and not d < min(last)
        if prune and row == max_pruned:
            prune = False
        row = row + 1 if prune else 0
        decisions.append(prune)
    return decisions


@given(
    st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 0.3])), max_size=40),
    st.integers(2, 5),
    st.integers(1, 4),
)
def test_the_gate_against_its_twin(moves, window, max_pruned):
    gate = MotionGate(window, max_pruned)
    got = [gate.step(d)[0] for d in moves]
    assert got == gate_twin(moves, window, max_pruned)
    assert 'x' * (max_pruned + 1) not in ''.join('x' if prune else '.' for prune in got)


@pytest.mark.parametrize(
    ('ratio', 'split', 'cameras', 'want'),
    [
        (0.5, (0.4, 0.6), 2, (102, 154)),  # 256: 102.4 and 153.6
        (0.75, (0.4, 0.6), 2, (154, 230)),  # 384: 153.6 and 230.4
        (0.3, (0.4, 0.6), 2, (62, 92)),  # 153.6 -> 154: 61.6 and 92.4
        (0.5, (0.4, 0.6), 3, (154, 115, 115)),  # 384: 153.6 and twice 115.2
        (0.5, (0.4, 0.6), 1, (128,)),
        (0.5, (1, 1), 2, (128, 128)),
        (0.5, (1, 1, 2), 2, (128, 128)),
        (1.0, (0.4, 0.6), 2, (256, 256)),  # 307 do not fit the wrist camera
        (0.9, (0.4, 0.6), 2, (205, 256)),  # 20 of 276 go to the other one
    ],
)
def test_the_budget_is_dealt_out_4_to_6(ratio, split, cameras, want):
    assert split_budget(ratio, split, cameras, 256) == want


@given(st.floats(0.01, 1), st.integers(1, 3), st.integers(1, 20), st.data())
def test_the_split_adds_up(ratio, cameras, patches, data):
    """Nothing is lost unless a camera is full; nothing is invented but the one token of each."""
    split = data.draw(st.lists(st.floats(0.1, 1), min_size=1, max_size=3))
    counts = split_budget(ratio, split, cameras, patches)
    total = max(1, round(ratio * cameras * patches))
    assert len(counts) == cameras and all(1 <= c <= patches for c in counts)
    if patches not in counts:
        assert sum(counts) == max(total, cameras)


def query(index=0, speed=0.1, **changes):
    motion = None if speed is None else MotionHint(speed, 0.0, 0.0, 'pose')
    return make_query(LAYOUT, index, motion=motion, **changes)


def modes(pruner, queries):
    return [pruner.begin(q) for q in queries]


def test_the_first_three_queries_are_full():
    queries = [query(i, speed=0.1 * i) for i in range(8)]
    assert modes(build(), queries) == ['dense'] * 3 + ['coarse'] * 3 + ['dense', 'coarse']


@pytest.mark.parametrize(
    ('stamps', 'want'),
    [
        ((1_000, 100_001_000), 0.02),  # 0.1 s at 0.2 m/s
        ((0, 100_000_000), 0.02),  # a clock that starts at 0
        ((0, 0), 0.08),  # no stamps: a chunk, 0.4 s
        ((7, 7), 0.0),
        ((1, 600_000_001), 0.08),  # the arm holds still behind its chunk
    ],
)
def test_displacement_is_speed_times_time(stamps, want):
    pruner = build()
    modes(pruner, [query(stamp_ns=s, speed=0.2) for s in stamps])
    assert pruner.report()['displacement_m'] == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize('speed', [None, math.nan, math.inf, -0.1])
def test_without_motion_nothing_is_guessed(speed):
    pruner = build()
    modes(pruner, [query(i) for i in range(4)])
    assert pruner.report()['reason'] == 'fast'
    assert pruner.begin(query(4, speed)) == 'dense'
    assert pruner.report() == {'reason': 'no_motion', 'pruned_in_a_row': 0, 'motion': 'unknown'}
    # Windows side by side are compared, so they have to be collected again.
    assert modes(pruner, [query(i) for i in (5, 6, 7)]) == ['dense', 'dense', 'coarse']


def logits(tiny_llama, layout, x):
    """Products of un-rotated queries and keys of layer 0, mean over text and heads, in float64."""
    block, heads = tiny_llama.reference.layers[0], 2
    with torch.inference_mode():
        y = block.input_layernorm(x)[0]
        q, k = (
            projection(y).double().view(layout.length, heads, -1)
            for projection in (block.self_attn.q_proj, block.self_attn.k_proj)
        )
    prompt = 1 + layout.visual + layout.proprio
    text = [0, *range(prompt, prompt + layout.prompt - 1), layout.length - 1]
    products = torch.einsum('thd,vhd->vth', q[text], k[1 : 1 + layout.visual])
    return (products.mean((1, 2)) / math.sqrt(q.shape[-1])).tolist()


@pytest.mark.parametrize('seed', range(3))
def test_the_best_of_each_camera_by_the_products_of_layer_0(tiny_llama, seed):
    pruner = build()
    assert pruner.budget == (3, 5)  # half of 16, 4:6
    modes(pruner, [query(i) for i in range(4)])
    x = tiny_llama.embeddings(LAYOUT, seed)
    _, state = tiny_llama.run(LAYOUT, x, pruner)
    scores = logits(tiny_llama, LAYOUT, x)
    order = sorted(range(16), key=lambda i: -scores[i])
    want = [i for i in order if i < 8][:3] + [i for i in order if i >= 8][:5]
    assert state.kept_by_site['before_L0'].tolist() == sorted(want)
