"""Losses by loops over single numbers; schedule and mean by their formulas; runs that go on.

Nothing is compared with a stored run: a run that is broken off and resumed must give the very bits
of one that was not.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.train import trainer as module
from vla_prune_ros.train.dataset import Batch, Samples
from vla_prune_ros.train.tasks.policy import Answer
from vla_prune_ros.train.trainer import Learner, Recipe, learning_rate, losses, validate

SMALL = Recipe(4, lr=1e-3, batch=1, part=1, warm_up=2, average=0.9)


class FixedNet:
    """Answers what it was given."""

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
    return Batch(
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
    net.__class__ = type('Blind', (FixedNet,), {'__call__': None})
    total, parts = losses(net, batch, Recipe(1, towers_only=True))
    _, pointer, hits, _ = by_hand(net.answer, batch)
    assert float(total) == pytest.approx(pointer, rel=1e-5)
    assert set(parts) == {'pointer', 'hits'} and parts['hits'] == pytest.approx(hits)


def test_what_is_no_label_does_not_count():
    rng = np.random.default_rng(6)
    net, batch = FixedNet(rng), fixed_batch(rng)
    before, _ = losses(net, batch, SMALL)
    moved = batch.actions + 9.0 * (batch.weights == 0)[..., None]
    after, _ = losses(net, batch._replace(actions=moved), SMALL)
    assert float(after) == float(before)


def test_a_batch_without_labels_and_without_cubes_gives_zero():
    rng = np.random.default_rng(7)
    net, batch = FixedNet(rng), fixed_batch(rng)
    empty = batch._replace(
        weights=torch.zeros(3, 8), patches=torch.full((3, 2, 2), -1), offsets=net.answer.offsets
    )
    total, parts = losses(net, empty, SMALL)
    assert float(total) == 0.0 and set(parts.values()) == {0.0}


def test_the_schedule_at_its_ends():
    recipe = Recipe(1000, warm_up=10)
    assert learning_rate(0, recipe) == pytest.approx(0.1, rel=1e-4)
    assert learning_rate(4, recipe) == pytest.approx(0.5, rel=1e-3)
    assert learning_rate(500, recipe) == pytest.approx(0.51)  # half way down to 0.02
    assert learning_rate(1000, recipe) == pytest.approx(0.02)
    falling = [learning_rate(step, recipe) for step in range(10, 1001)]
    assert falling == sorted(falling, reverse=True)
    assert learning_rate(0, Recipe(5, warm_up=0)) == 1.0


@pytest.fixture(scope='module')
def samples(six_episodes, words, statistics):
    return Samples(six_episodes, words, statistics)


def quiet(step, curve):
    """No progress."""


def weights_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope='module')
def straight(samples, tiny_net, tmp_path_factory):
    """A run of four steps without a break, and its weights after each."""
    state = tmp_path_factory.mktemp('straight') / 'state.pt'
    run = Learner(tiny_net(0), samples, SMALL, state)
    trail = [weights_of(run.net)]
    run.run(lambda step, curve: trail.append(weights_of(run.net)))
    return run, trail


def test_every_step_moves_the_weights(straight):
    run, trail = straight
    assert len(trail) == 5 and run.step == 4
    assert all(not equal(a, b) for a, b in zip(trail, trail[1:], strict=False))


def test_the_mean_follows_its_recursion(straight):
    """mean <- keep mean + (1 - keep) weights, keep = min(0.9, (1 + n) / (10 + n)) at step n."""
    run, trail = straight
    mean = {name: value.double() for name, value in trail[0].items()}
    for n, now in enumerate(trail[1:], start=1):
        keep = min(0.9, (1 + n) / (10 + n))
        mean = {name: keep * mean[name] + (1 - keep) * now[name].double() for name in mean}
    for name, value in run.average.state_dict().items():
        torch.testing.assert_close(value.double(), mean[name], rtol=1e-5, atol=1e-6)


class Broken(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize('after', [2, 3])
def test_a_resumed_run_gives_the_same_bits(samples, tiny_net, straight, tmp_path, after):
    def unplug(step, curve):
        if step == after:
            raise Broken

    state = tmp_path / 'new' / 'state.pt'
    with pytest.raises(Broken):
        Learner(tiny_net(0), samples, SMALL, state).run(unplug, save_every=1)
    run = Learner(tiny_net(7), samples, SMALL, state)  # whose own weights do not matter
    assert run.step == after - 1  # the state of the step before was the last one on disk
    run.run(quiet, save_every=1)
    whole, trail = straight
    assert equal(weights_of(run.net), trail[-1])
    assert equal(weights_of(run.average), weights_of(whole.average))
    assert [p.name for p in state.parent.iterdir()] == ['state.pt']


def test_a_finished_run_does_nothing_more(samples, tiny_net, straight, monkeypatch):
    whole, trail = straight
    again = Learner(tiny_net(7), samples, SMALL, whole._state)
    monkeypatch.setattr(again, '_one_step', None)
    again.run(quiet)
    assert again.step == 4 and equal(weights_of(again.net), trail[-1])
    assert equal(weights_of(again.average), weights_of(whole.average))


@pytest.mark.parametrize('change', [{'steps': 5}, {'lr': 2e-3}, {'offset': 0.0}], ids=str)
def test_the_state_of_another_recipe_is_not_used(samples, tiny_net, straight, change):
    net = tiny_net(7)
    before = weights_of(net)
    other = Learner(net, samples, replace(SMALL, **change), straight[0]._state)
    assert other.step == 0 and equal(weights_of(other.net), before)
    assert equal(weights_of(other.average), before)


def test_a_step_takes_its_share_of_every_family(samples, tiny_net, tmp_path, monkeypatch):
    drawn, scales = [], []
    weight = torch.ones((), requires_grad=True)

    def found(net, batch, recipe):
        loss = weight * 1.0
        loss.register_hook(lambda grad: scales.append(float(grad)))
        return loss, {'l1': float(len(drawn))}

    def draw(family, size, swapped, rng):
        drawn.append((family, size, swapped))
        return SimpleNamespace(to=lambda device: None)

    fake = SimpleNamespace(
        families=dict.fromkeys(('pick', 'stack', 'place')),
        draw=draw,
    )
    monkeypatch.setattr(module, 'losses', found)
    recipe = Recipe(1, batch=6, part=3, swapped=0.125)
    run = Learner(tiny_net(0), fake, recipe, tmp_path / 'state.pt')
    sums = run._one_step()
    assert sorted(drawn) == sorted([(f, 3, 0.125) for f in fake.families] * 2)
    assert scales == pytest.approx([1 / 6] * 6)
    assert sums == pytest.approx({'l1': (1 + 2 + 3 + 4 + 5 + 6) / 6})


def test_a_few_steps_lower_the_losses(episode, words, statistics, tiny_net, tmp_path):
    one = episode(frames=1, seed=1)
    few = Samples([one], words, statistics)
    recipe = Recipe(14, lr=3e-3, batch=1, part=1, swapped=0.0, warm_up=1)
    net = tiny_net(0)
    before = validate(net, few, recipe)
    Learner(net, few, recipe, tmp_path / 'state.pt').run(quiet)
    after = validate(net, few, recipe)
    for name in ('l1', 'pointer', 'offset_m'):
        assert after[name] < 0.9 * before[name], name


def test_validation_is_the_mean_over_families_of_evenly_spaced_frames(
    samples, tiny_net, monkeypatch
):
    seen = {}

    def found(net, batch, recipe):
        assert batch.weights.sum() > 0  # the right instruction
        values = batch.state[:, 0]
        seen.setdefault(batch.prompts.shape[1], []).extend(values.tolist())
        return None, {'l1': float(values.mean())}

    monkeypatch.setattr(module, 'losses', found)
    got = validate(tiny_net(0), samples, SMALL)
    assert sorted(len(v) for v in seen.values()) == [6, 6, 6]  # every frame of every family
    assert got['l1'] == pytest.approx(np.mean([np.mean(v) for v in seen.values()]), abs=1e-6)
    seen.clear()
    validate(tiny_net(0), samples, SMALL, most=2)
    states = {
        f: [e.state[i, 0] for e in g.episodes for i in range(3)]
        for f, g in samples.families.items()
    }
    assert all(len(v) == 2 for v in seen.values())
    for values in seen.values():  # the first and the last frame of a family
        low, high = samples._state[0][0], samples._state[1][0]
        scaled = [
            np.clip(2 * (np.array([s[0], s[-1]]) - low) / (high - low + 1e-8) - 1, -1, 1)
            for s in states.values()
        ]
        assert any(np.allclose(values, pair, atol=1e-6) for pair in scaled)


def test_a_batch_that_cannot_be_parted_is_refused():
    with pytest.raises(ProfileError, match='a batch of 6 has no parts of 4; use a divisor'):
        Recipe(1, batch=6, part=4)
