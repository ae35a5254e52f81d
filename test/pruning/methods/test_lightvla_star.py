"""LightVLA*: the votes of learned queries.

Expected: a plain loop over queries, tokens and dimensions, written from the formula in the
docstring of ``query_scores``.
"""

import math

import pytest
import torch
from pruning_pass import Spy

from vla_prune_ros.errors import CheckpointError, ProfileError
from vla_prune_ros.pruning.layout import Layout, Target, Trained
from vla_prune_ros.pruning.methods.lightvla import LightVLAStar, query_scores
from vla_prune_ros.pruning.registry import build_pruner


def unit(row):
    size = math.sqrt(sum(v * v for v in row) / len(row) + 1e-6)
    return [v / size for v in row]


def twin(queries, visual, others):
    """The best visual token of each query, by the definition."""
    best = []
    for query in queries.tolist():
        q, width = unit(query), len(query)
        ys = [unit(y) for y in others.tolist()]
        logits = [sum(a * b for a, b in zip(q, y, strict=True)) / math.sqrt(width) for y in ys]
        total = sum(math.exp(v) for v in logits)
        heard = [
            q[d] + sum(math.exp(v) / total * y[d] for v, y in zip(logits, ys, strict=True))
            for d in range(width)
        ]
        scores = [
            sum(a * b for a, b in zip(unit(heard), unit(x), strict=True)) for x in visual.tolist()
        ]
        best.append(scores.index(max(scores)))
    return best


@pytest.mark.parametrize('seed', range(5))
def test_the_votes_are_those_of_the_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    queries, visual, others = (torch.randn(n, 12, generator=generator) for n in (7, 20, 9))
    found = query_scores(queries, visual, others)
    assert found.argmax(-1).tolist() == twin(queries, visual, others)
    together = query_scores(queries, visual.expand(2, -1, -1), others.expand(2, -1, -1))
    torch.testing.assert_close(together[1], found)


@pytest.mark.parametrize('after', [-1, 0, 1])
def test_what_stays_is_what_was_voted_for_at_its_layer(tiny_llama, after):
    layout = Layout(('a', 'b'), 16, 1, 20, 8)
    x = tiny_llama.embeddings(layout, 3)
    generator = torch.Generator().manual_seed(9)
    queries = torch.randn(6, tiny_llama.width, generator=generator)
    trained = Trained('lightvla_star', {'after': after}, {'queries': queries})
    target = Target(layout.cameras, 16, 3, width=tiny_llama.width, trained=trained)
    spy = Spy(build_pruner('lightvla_star', target))
    _, state = tiny_llama.run(layout, x, spy)
    seen = spy.views[after].hidden
    expected = sorted(set(twin(queries, seen[1:33], seen[33:])))
    assert state.ids.tolist() == expected and len(expected) <= 6


def test_a_checkpoint_without_queries_is_refused():
    for trained in (Trained(), Trained('lightvla'), Trained('lightvla_star')):
        with pytest.raises(ProfileError, match='lightvla_star'):
            build_pruner('lightvla_star', Target(trained=trained))
    assert isinstance(build_pruner('lightvla_star'), LightVLAStar)  # nothing known: random ones


@pytest.mark.parametrize(('width', 'after'), [(8, -1), (16, 2), (16, 31)])
def test_queries_of_another_model_are_refused(width, after):
    trained = Trained('lightvla_star', {'after': after}, {'queries': torch.zeros(4, width)})
    with pytest.raises(CheckpointError, match='width 16'):
        build_pruner('lightvla_star', Target(layers=3, width=16, trained=trained))
