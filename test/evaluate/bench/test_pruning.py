"""The pruning benchmark: the drawn scene, rows by hand, the order of events, whole runs.

200 pixels per metre, 0.05 s per step and 0.6 or 0.04 m/s are 6 or 0.4 pixels per step; the
difference of two frames of noise s has the deviation s sqrt(2).
"""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from vla_prune_ros import cli
from vla_prune_ros.evaluate.bench import pruning as pruning_bench
from vla_prune_ros.evaluate.bench.models import build_bench_model
from vla_prune_ros.evaluate.bench.pruning import (
    FAST,
    SLOW,
    BenchScene,
    Sample,
    pruning_rows,
    run_episode,
    run_pruning_bench,
    torch_threads,
    whole_run,
)
from vla_prune_ros.evaluate.options import PruningBenchOptions
from vla_prune_ros.profiles import ALOHA, LIBERO
from vla_prune_ros.pruning.base import Pruner, PruningSite
from vla_prune_ros.pruning.registry import PRUNERS
from vla_prune_ros.records import Inference

MICRO = PruningBenchOptions('micro', published=False, dtype='float32')
RED = np.array([200, 40, 30])


@pytest.fixture(scope='module')
def scene():
    return BenchScene(LIBERO, queries=8, noise_levels=3.0)


def block_x(frame):
    """Mean column of the pixels that look like the block."""
    near = (np.abs(frame.astype(int) - RED) < 16).all(axis=2)
    assert near.sum() > 1000
    return np.nonzero(near)[1].mean()


def difference(a, b):
    return a.astype(float) - b.astype(float)


def test_frames_are_what_the_policy_takes_and_repeat(scene):
    frames = scene.frames(5)
    assert list(frames) == list(LIBERO.cameras)
    assert all(f.shape == (256, 256, 3) and f.dtype == np.uint8 for f in frames.values())
    again = BenchScene(LIBERO, queries=8).frames(5)
    assert all((frames[c] == again[c]).all() for c in frames)
    assert (BenchScene(LIBERO, queries=8, seed=1).frames(5)['primary'] != frames['primary']).any()


def test_the_block_goes_fast_then_slowly(scene):
    fast = block_x(scene.frames(3)['primary']) - block_x(scene.frames(1)['primary'])
    assert fast == pytest.approx(12, abs=0.5)
    slow = block_x(scene.frames(30)['primary']) - block_x(scene.frames(20)['primary'])
    assert abs(slow) == pytest.approx(4, abs=1)


def test_noise_is_fresh_and_as_strong_as_asked(scene):
    rows = slice(0, 60)  # above the block
    d = difference(scene.frames(1)['primary'], scene.frames(2)['primary'])[rows]
    assert d.std() == pytest.approx(3 * math.sqrt(2), rel=0.03)
    assert abs(d.mean()) < 0.1


def test_the_other_camera_sees_everything_move(scene):
    one, two = scene.frames(1)['wrist'], scene.frames(2)['wrist']
    assert difference(one, two).std() > 2 * 3 * math.sqrt(2)
    shifted = difference(one[:, 6:], two[:, :-6])
    assert shifted.std() == pytest.approx(3 * math.sqrt(2), rel=0.03)


def test_stamps_are_a_control_period_apart_and_chunks_follow_each_other(scene):
    first, second = scene.observation(0, None), scene.observation(1, None)
    assert second.stamp_ns - first.stamp_ns == 8 * 50_000_000
    between = [scene.stamp_ns(s) - first.stamp_ns for s in scene.steps_after(0)]
    assert between == [50_000_000 * (i + 1) for i in range(8)]
    last = list(scene.steps_after(0))[-1]
    assert (scene.frames(last)['wrist'] == second.images['wrist']).all()


def test_a_long_episode_stays_in_the_image_to_the_last_step():
    scene = BenchScene(LIBERO, queries=40)
    assert all(20 <= block_x(scene.frames(s)['primary']) <= 236 for s in range(0, 321, 20))
    for profile in (ALOHA, replace(LIBERO, cameras=('one',))):
        scene = BenchScene(profile, queries=2)
        assert list(scene.frames(2 * profile.chunk)) == list(profile.cameras)


def sample(mode, total, selection=0.0, tokens=512, refresh=None, flops=None):
    return Sample(
        mode=mode,
        visual_tokens=tokens,
        timings_ms={'vision': 1.0, 'selection': selection, 'total': total},
        refresh_ms=refresh,
        flops=flops,
        finite=True,
    )


def test_rows_by_hand():
    samples = {
        'dense': [sample('dense', t, flops=8e12) for t in (100.0, 200.0, 400.0)],
        'clever': [
            sample('fine', 80.0, 20.0, tokens=200, refresh=5.0, flops=4e12),
            sample('dense', 300.0, 2.0, refresh=7.0, flops=8e12),
            sample('coarse', 50.0, 10.0, tokens=100, refresh=9.0, flops=2e12),
            sample('fine', 120.0, 40.0, tokens=300, refresh=6.0, flops=6e12),
        ],
    }
    first = {'dense': [sample('dense', 210.0)], 'clever': [sample('dense', 1.0)]}
    first['clever'] += [sample('fine', 90.0), sample('fine', 70.0)]
    rows = pruning_rows(samples, first)
    found = [(r.method, r.mode, r.queries) for r in rows]
    modes = (('dense', 1), ('coarse', 1), ('fine', 2))
    assert found == [('dense', 'dense', 3), *(('clever', *mode) for mode in modes)]
    dense, _, coarse, fine = rows
    assert dense.latency_ms == {'p50': 200.0, 'p95': pytest.approx(380.0)}
    assert dense.speedup_vs_dense == 1.0 and dense.refresh_ms is None
    assert coarse.speedup_vs_dense == 4.0 and coarse.selection_percent_of_dense == 5.0
    assert fine.visual_tokens == 250 and fine.tflops == 5.0
    assert fine.latency_ms['p50'] == 100.0 and fine.speedup_vs_dense == 2.0
    assert all(row.speedup_vs_published is None for row in rows)
    assert [row.first_ms for row in rows] == [210.0, 1.0, None, 90.0]
    samples['published'] = [sample('dense', t) for t in (300.0, 400.0)]
    both = pruning_rows(samples, {**first, 'published': []})
    assert [row.speedup_vs_published for row in both] == [1.75, 350 / 300, 7.0, 3.5, 1.0]
    assert fine.selection_percent_of_dense == 15.0
    assert fine.stages_ms == {
        'vision': {'p50': 1.0, 'p95': 1.0},
        'selection': {'p50': 30.0, 'p95': pytest.approx(39.0)},
    }
    assert fine.refresh_ms == {'p50': 5.5, 'p95': pytest.approx(5.95)}


def test_a_whole_run_counts_its_dense_query():
    samples = {
        'dense': [sample('dense', t) for t in (100.0, 300.0)],
        'clever': [sample('dense', 200.0), sample('fine', 50.0), sample('fine', 50.0)],
    }
    dense, clever = whole_run(samples)
    assert dense.speedup_vs_dense == 1.0 and dense.modes == {'dense': 2}
    assert (clever.queries, clever.modes) == (3, {'dense': 1, 'fine': 2})
    assert (clever.mean_ms, clever.speedup_vs_dense) == (100.0, 2.0)
    assert clever.speedup_vs_published is None
    samples['published'] = [sample('dense', 500.0)]
    assert [row.speedup_vs_published for row in whole_run(samples)] == [2.5, 5.0, 1.0]


class RecordingPolicy:
    """Takes the place of a policy and writes down what is asked of it."""

    statistics, profile = SimpleNamespace(proprio=None), LIBERO
    pruner = SimpleNamespace(sites=())
    model = SimpleNamespace(size=SimpleNamespace(head='diffusion'), layout=lambda *sizes: None)

    def __init__(self, name, log):
        self.name, self.log = name, log

    def tokenizer(self, text):
        return [1]

    def infer(self, observation, motion):
        self.log.append((self.name, 'infer', observation.stamp_ns, motion))
        timings = {'selection': 0.0, 'total': 1.0}
        return Inference(np.zeros((8, 7)), np.zeros((8, 7)), {}, {}, 'dense', timings, {})

    def watch(self, camera, stamp_ns, frame):
        self.log.append((self.name, 'watch', stamp_ns, camera))

    def refresh(self):
        self.log.append((self.name, 'refresh', None, None))
        return 3.0


@pytest.mark.parametrize('refresh', [True, False])
def test_methods_take_turns_and_see_every_frame(refresh):
    log = []
    policies = {name: RecordingPolicy(name, log) for name in ('dense', 'b')}
    scene = BenchScene(LIBERO, queries=3)
    samples = run_episode(policies, scene, refresh)
    once = ['infer', 'refresh'] if refresh else ['infer']
    per_query = [(n, w) for n in ('dense', 'b') for w in once]
    frames = [('dense', 'watch'), ('b', 'watch')] * 2 * 8
    assert [(n, w) for n, w, *_ in log] == 3 * (per_query + frames)
    asked = [(stamp, motion) for n, w, stamp, motion in log if (n, w) == ('b', 'infer')]
    assert [m for _, m in asked] == [FAST, FAST, SLOW]
    seen = [t for n, w, t, c in log if (n, w, c) == ('b', 'watch', 'wrist')]
    assert all(b - a == 50_000_000 for a, b in pairwise([asked[0][0], *seen]))
    assert seen[7] == asked[1][0]  # the frame of a query is shown before it, like any other
    assert [s.refresh_ms for s in samples['b']] == [3.0 if refresh else None] * 3


class Curious(Pruner):
    """Notes what a query brings: motion, whether there is an earlier frame, and refreshes."""

    name, history_s = 'curious', 0.3
    sites = (PruningSite(0),)

    def __init__(self):
        self.earlier, self.motions, self.refreshed = [], [], 0

    def begin(self, query):
        before = query.history.before('primary', query.stamp_ns, 50_000_000)
        self.earlier.append(before is not None)
        self.motions.append(query.motion)
        return 'fine' if query.motion is SLOW else 'coarse'

    def keep(self, view):
        return view.ids[::4]

    def refresher(self):
        self.refreshed += 1
        return None


def test_a_stateful_method_gets_what_it_needs(monkeypatch):
    curious = Curious()
    build = Mock(side_effect=lambda options, target: curious, options_type=Curious.options_type)
    monkeypatch.setitem(PRUNERS, 'curious', build)
    result = run_pruning_bench(replace(MICRO, methods=('curious',), queries=4))
    warm, taken = pruning_bench.WARM_UP_QUERIES, 4
    assert len(curious.motions) == 1 + warm + taken  # one is of Policy.warm_up
    assert curious.refreshed == warm + taken
    assert curious.motions[1 + warm :] == [FAST, FAST, SLOW, SLOW]
    assert sum(curious.earlier) == warm + taken - 2  # all but the first of each episode
    rows = [(r.method, r.mode, r.queries, r.visual_tokens) for r in result.rows]
    assert rows[1:] == [('curious', 'coarse', 2, 128), ('curious', 'fine', 2, 128)]


def test_a_run_is_complete_and_json():
    methods = ('uniform:64', 'dense', 'uniform:64')
    options = replace(MICRO, published=True, methods=methods, queries=2, refresh=False, threads=1)
    result = run_pruning_bench(options)
    assert [r.method for r in result.rows] == ['dense', 'uniform:64', 'published']
    stages = {'preprocess', 'vision', 'selection', 'language', 'head'}
    assert set(result.rows[1].stages_ms) == stages
    dense, uniform, published = result.rows
    assert published.speedup_vs_published == 1.0 and published.visual_tokens == 512
    assert published.tflops > 2 * dense.tflops  # a vocabulary for a width of 64
    assert 0 < dense.roofline_ms < dense.latency_ms['p50']
    assert 0.01 < result.memory_peak_gb < 100
    assert (dense.visual_tokens, uniform.visual_tokens) == (512, 128)
    assert uniform.tflops < dense.tflops
    assert result.ok and result.untrained and result.settings['threads'] == 1
    assert result.settings['chunk_ms'] == pytest.approx(400)
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain


def test_every_registered_method_can_be_timed():
    result = run_pruning_bench(replace(MICRO, methods=tuple(PRUNERS), queries=1))
    assert {row.method: row.queries for row in result.rows} == dict.fromkeys(PRUNERS, 1)
    assert result.ok


def test_actions_that_are_not_finite_are_bad(monkeypatch):
    model = build_bench_model(MICRO)
    with torch.no_grad():
        model.model.action_head.model.fc2.bias.fill_(torch.nan)
    monkeypatch.setattr(pruning_bench, 'build_bench_model', lambda options: model)
    assert run_pruning_bench(replace(MICRO, methods=(), queries=1)).ok is False


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with torch_threads(None) as count:
        assert count == before


def test_command_line(tmp_path):
    out, image = tmp_path / 'out.json', tmp_path / 'stages.png'
    options = '--pruning uniform:128 --preset micro --layers 4 --share-layers --queries 1'
    arguments = ['bench', *options.split(), '--dtype', 'float32', '--no-published']
    assert cli.main([*arguments, '--json', str(out), '--plot', str(image)]) == 0
    result = json.loads(out.read_text())
    assert [r['method'] for r in result['rows']] == ['dense', 'uniform:128']
    assert result['model']['layers'] == 4 and result['model']['shared_layers'] is True
    assert image.read_bytes().startswith(b'\x89PNG')
