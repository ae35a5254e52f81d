"""The loop by itself: schedule and mean by their formulas; a resumed run gives the very bits of
one that was not interrupted."""

import pytest
import torch

from vla_prune_ros.errors import CheckpointError, VlaPruneError
from vla_prune_ros.train.trainer import Schedule, Trainer


def test_the_cosine_at_its_ends():
    schedule = Schedule(1000, 1.0, warm_up=10)
    assert schedule.rate(0) == pytest.approx(0.1, rel=1e-4)
    assert schedule.rate(4) == pytest.approx(0.5, rel=1e-3)
    assert schedule.rate(500) == pytest.approx(0.51)  # half way down to 0.02
    assert schedule.rate(1000) == pytest.approx(0.02)
    falling = [schedule.rate(step) for step in range(10, 1001)]
    assert falling == sorted(falling, reverse=True)
    assert Schedule(5, 3.0).rate(0) == 3.0


def test_the_rate_falls_as_published():
    schedule = Schedule(40, 1.0, kind='step', warm_up=2)
    assert [schedule.rate(step) for step in (0, 1, 29, 30, 39)] == [0.5, 1.0, 1.0, 0.1, 0.1]


SCHEDULE = Schedule(4, 1e-1, warm_up=2, average=0.9)


def trainer(state):
    weights = {'a': torch.nn.Parameter(torch.ones(3)), 'b': torch.nn.Parameter(torch.ones(2, 2))}
    optimizer = torch.optim.AdamW(weights.values(), betas=(0.9, 0.97))
    return Trainer(weights, optimizer, SCHEDULE, state, {'steps': 4})


def backward(run):
    """A gradient that depends on the step's number and on the weights."""

    def backward(step):
        loss = sum(((p - step) ** 2).sum() for p in run.weights.values())
        loss.backward()
        return {'loss': float(loss.detach())}

    return backward


def bits(weights):
    return {name: value.detach().clone() for name, value in weights.items()}


def equal(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def straight(tmp_path):
    """A run without a break, and its weights after each step."""
    run = trainer(tmp_path / 'straight' / 'state.pt')
    trail = [bits(run.weights)]
    run.run(backward(run), lambda step, metrics: trail.append(bits(run.weights)))
    return run, trail


def test_the_mean_follows_its_recursion(straight):
    """mean <- keep mean + (1 - keep) weights, keep = min(0.9, (1 + n) / (10 + n)) at step n."""
    run, trail = straight
    assert len(trail) == 5 and run.step == 4
    mean = {name: value.double() for name, value in trail[0].items()}
    for n, now in enumerate(trail[1:], start=1):
        assert not equal(trail[n - 1], now)
        keep = min(0.9, (1 + n) / (10 + n))
        mean = {name: keep * mean[name] + (1 - keep) * now[name].double() for name in mean}
    run.use_average()
    for name, value in run.weights.items():
        torch.testing.assert_close(value.detach().double(), mean[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('after', [2, 3])
def test_a_resumed_run_gives_the_same_bits(straight, tmp_path, after):
    def interrupt(step, metrics):
        if step == after:
            raise KeyboardInterrupt

    state = tmp_path / 'new' / 'state.pt'
    first = trainer(state)
    with pytest.raises(KeyboardInterrupt):
        first.run(backward(first), interrupt, save_every=1)
    run = trainer(state)
    assert run.step == after - 1  # the state of the step before was the last one on disk
    run.run(backward(run), save_every=1)
    whole, trail = straight
    assert equal(bits(run.weights), trail[-1]) and equal(run.average, whole.average)
    assert run.curve.mean == whole.curve.mean
    assert [p.name for p in state.parent.iterdir()] == ['state.pt']


def test_a_finished_run_does_nothing_more(straight, tmp_path):
    whole, trail = straight
    again = trainer(tmp_path / 'straight' / 'state.pt')
    assert again.run(None) == {} and again.step == 4
    assert equal(bits(again.weights), trail[-1]) and equal(again.average, whole.average)


def test_a_state_of_an_older_version_is_refused(tmp_path):
    torch.save({'recipe': {}, 'step': 3, 'net': {}}, tmp_path / 'state.pt')
    with pytest.raises(CheckpointError, match='state.pt'):
        trainer(tmp_path / 'state.pt')


def test_one_process_alone_writes_the_state(tmp_path):
    run = trainer(tmp_path / 'state.pt')
    run.run(backward(run), save_every=1, writes_state=False)
    assert run.step == 4 and not list(tmp_path.iterdir())


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    run = trainer(tmp_path / 'state.pt')

    def explode(step):
        (run.weights['a'].sum() * torch.inf).backward()
        return {}

    with pytest.raises(VlaPruneError, match='step 0'):
        run.run(explode)
    assert torch.equal(run.weights['a'].detach(), torch.ones(3))
