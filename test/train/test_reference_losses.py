"""The reference policy's losses by loops over single numbers; what a step and a check draw."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.train import reference
from vla_prune_ros.train.dataset import CubeBatch, Samples
from vla_prune_ros.train.reference import Recipe, backward, losses, reference_trainer, validate
from vla_prune_ros.train.tasks.policy import Answer

SMALL = Recipe(4, lr=1e-3, batch=1, part=1, warm_up=2, average=0.9)


class FixedNet:
    def __init__(self, rng, size=3):
        draw = torch.Generator().manual_seed(int(rng.integers(1000)))
        self.answer = Answer(
            torch.randn(size, 8, 7, generator=draw),
            torch.randn(size, 2, 2, 256, generator=draw) * 3,
            torch.randn(size, 2, 3, generator=draw),
        )

    def __call__(self, pixels, prompts, state):
        return self.answer

    def visual(self, pixels, prompts):
        return 'visual tokens'

    def point(self, visual):
        assert visual == 'visual tokens'
        return self.answer.pointers


def fixed_batch(rng, size=3):
    patches = rng.integers(0, 256, (size, 2, 2))
    patches[rng.random((size, 2, 2)) < 0.3] = -1
    weights = (rng.random((size, 8)) < 0.6).astype(np.float32)
    weights[-1] = 0.0  # an instruction about the other cube
    return CubeBatch(
        torch.zeros(size, 1),
        torch.zeros(size, 5, dtype=torch.int64),
        torch.zeros(size, 8),
        torch.tensor(rng.uniform(-1, 1, (size, 8, 7)), dtype=torch.float32),
        torch.tensor(weights),
        torch.tensor(patches),
        torch.tensor(rng.normal(size=(size, 2, 3)), dtype=torch.float32),
    )


def by_hand(answer, batch):
    """(l1, pointer, hits, offset), one number after the other."""
    errors, cross, hits, apart = [], [], [], []
    for b in range(len(batch.state)):
        for k in range(8):
            if batch.weights[b, k] > 0:
                pairs = zip(answer.actions[b, k], batch.actions[b, k], strict=True)
                errors.append(sum(abs(float(x) - float(y)) for x, y in pairs) / 7)
        for place in range(2):
            for axis in range(3):
                got, want = answer.offsets[b, place, axis], batch.offsets[b, place, axis]
                apart.append(abs(float(got) - float(want)))
            for camera in range(2):
                where = int(batch.patches[b, place, camera])
                if where >= 0:
                    logits = [float(x) for x in answer.pointers[b, place, camera]]
                    cross.append(math.log(sum(math.exp(x) for x in logits)) - logits[where])
                    hits.append(logits[where] == max(logits))
    mean = [sum(x) / max(1, len(x)) for x in (errors, cross, hits, apart)]
    return tuple(mean)


@pytest.mark.parametrize('seed', range(3))
def test_losses_are_those_of_loops(seed):
    rng = np.random.default_rng(seed)
    net, batch = FixedNet(rng), fixed_batch(rng)
    where = batch.patches.clone()
    where[0, 0, 0] = net.answer.pointers[0, 0, 0].argmax()  # one hit at least
    batch = batch._replace(patches=where)
    l1, pointer, hits, offset = by_hand(net.answer, batch)
    recipe = Recipe(1, pointer=0.7, offset=0.2)
    total, parts = losses(net, batch, recipe)
    assert parts['l1'] == pytest.approx(l1, rel=1e-5)
    assert parts['pointer'] == pytest.approx(pointer, rel=1e-5)
    assert parts['hits'] == pytest.approx(hits, rel=1e-5) and hits > 0
    assert parts['offset_m'] == pytest.approx(0.1 * offset, rel=1e-5)
    assert float(total) == pytest.approx(l1 + 0.7 * pointer + 0.2 * offset, rel=1e-5)


def test_towers_learn_from_the_pointers_alone():
    rng = np.random.default_rng(5)
    net, batch = FixedNet(rng), fixed_batch(rng)
    towers = SimpleNamespace(visual=net.visual, point=net.point)
    total, parts = losses(towers, batch, Recipe(1, towers_only=True))
    _, pointer, hits, _ = by_hand(net.answer, batch)
    assert float(total) == pytest.approx(pointer, rel=1e-5)
    assert set(parts) == {'pointer', 'hits'} and parts['hits'] == pytest.approx(hits)


def test_a_batch_without_labels_and_without_cubes_gives_zero():
    rng = np.random.default_rng(7)
    net, batch = FixedNet(rng), fixed_batch(rng)
    empty = batch._replace(
        weights=torch.zeros(3, 8), patches=torch.full((3, 2, 2), -1), offsets=net.answer.offsets
    )
    total, parts = losses(net, empty, SMALL)
    assert float(total) == 0.0 and set(parts.values()) == {0.0}


@pytest.fixture(scope='module')
def samples(six_episodes, words, statistics):
    return Samples(six_episodes, words, statistics)


def test_a_step_takes_its_share_of_every_family(tiny_net, monkeypatch):
    drawn, scales = [], []
    weight = torch.ones((), requires_grad=True)

    def found(net, batch, recipe):
        loss = weight * 1.0
        loss.register_hook(lambda grad: scales.append(float(grad)))
        return loss, {'l1': float(len(drawn))}

    def draw(family, size, swapped, rng):
        drawn.append((family, size, swapped))
        return SimpleNamespace(to=lambda device: None)

    fake = SimpleNamespace(families=dict.fromkeys(('pick', 'stack', 'place')), draw=draw)
    monkeypatch.setattr(reference, 'losses', found)
    recipe = Recipe(1, batch=6, part=3, swapped=0.125)
    sums = backward(tiny_net(0), fake, recipe, 0)
    assert sorted(drawn) == sorted([(f, 3, 0.125) for f in fake.families] * 2)
    assert scales == pytest.approx([1 / 6] * 6)
    assert sums == pytest.approx({'l1': (1 + 2 + 3 + 4 + 5 + 6) / 6})


def test_a_few_steps_lower_the_losses(episode, words, statistics, tiny_net, tmp_path):
    one = episode(frames=1, seed=1)
    few = Samples([one], words, statistics)
    recipe = Recipe(8, lr=5e-3, batch=1, part=1, swapped=0.0, warm_up=1)
    net = tiny_net(0)
    before = validate(net, few, recipe)
    reference_trainer(net, recipe, tmp_path / 'state.pt').run(
        lambda step: backward(net, few, recipe, step)
    )
    after = validate(net, few, recipe)
    for name in ('l1', 'pointer', 'offset_m'):
        assert after[name] < 0.9 * before[name], name


def test_validation_is_the_mean_over_families_of_evenly_spaced_frames(
    samples, statistics, tiny_net, monkeypatch
):
    seen = {}

    def found(net, batch, recipe):
        assert batch.weights.sum() > 0  # the right instruction
        values = batch.state[:, 0]
        seen.setdefault(batch.prompts.shape[1], []).extend(values.tolist())
        return None, {'l1': float(values.mean())}

    monkeypatch.setattr(reference, 'losses', found)
    got = validate(tiny_net(0), samples, SMALL)
    assert sorted(len(v) for v in seen.values()) == [6, 6, 6]  # every frame of every family
    assert got['l1'] == pytest.approx(np.mean([np.mean(v) for v in seen.values()]), abs=1e-6)
    seen.clear()
    validate(tiny_net(0), samples, SMALL, most=2)
    low, high = (statistics['proprio'][key][0] for key in ('q01', 'q99'))
    ends = [
        [g.episodes[0].state[0, 0], g.episodes[-1].state[-1, 0]] for g in samples.families.values()
    ]
    wanted = np.clip(2 * (np.array(ends) - low) / (high - low + 1e-8) - 1, -1, 1)
    np.testing.assert_allclose(sorted(seen.values()), sorted(wanted.tolist()), atol=1e-6)


def test_a_batch_that_cannot_be_parted_is_refused():
    with pytest.raises(ProfileError, match='parts of 4'):
        Recipe(1, batch=6, part=4)
