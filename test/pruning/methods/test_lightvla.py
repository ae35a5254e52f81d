"""LightVLA's and LightVLA*'s selection against their formulas in plain Python, and refusals.

``test_lightvla_golden.py`` holds it against the authors' runs.
"""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_pass import Spy, run_sites, start
from selection_twins import layouts

from vla_prune_ros import load_policy
from vla_prune_ros.errors import CheckpointError, ProfileError
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.pruning.layout import Layout, Target, Trained
from vla_prune_ros.pruning.methods.lightvla import query_scores, selection_scores
from vla_prune_ros.pruning.registry import build_pruner


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def normed(z):
    size = math.sqrt(dot(z, z) / len(z) + 1e-6)
    return [x / size for x in z]


def twin(visual, others, queries=None):
    """Scores [queries][V], one number at a time: by eq. 1 to 3, where every visual token is a
    query, or by the formula of ``query_scores``."""
    x, y = [normed(z) for z in visual], [normed(z) for z in others]
    scale = 1 / math.sqrt(len(visual[0]))
    scores = []
    for asking in x if queries is None else [normed(q) for q in queries]:
        weights = [math.exp(scale * dot(asking, other)) for other in y]
        heard = [
            sum(w * other[d] for w, other in zip(weights, y, strict=True)) / sum(weights)
            for d in range(len(asking))
        ]
        if queries is not None:
            heard = [h + a for h, a in zip(heard, asking, strict=True)]
        query = normed(heard)
        scores.append([scale * dot(query, token) for token in x])
    return scores


def voted(scores):
    return sorted({max(range(len(row)), key=row.__getitem__) for row in scores})


@st.composite
def cases(draw):
    """A layout, a budget and a random sequence."""
    layout, budget = draw(layouts())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    hidden = torch.randn(layout.length, 4, generator=generator, dtype=torch.float64)
    hidden[list(layout.slot_positions)] = 0.0
    return layout, budget, hidden


def build(layout, budget=None):
    target = Target(layout.cameras, layout.patches)
    return build_pruner({'name': 'lightvla', 'budget': budget}, target)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_set_is_that_of_the_formulas(case):
    layout, _, hidden = case
    split = 1 + layout.visual
    scores = twin(hidden[1:split].tolist(), hidden[split:].tolist())
    ours = selection_scores(hidden[1:split], hidden[split:])
    torch.testing.assert_close(ours.double(), torch.tensor(scores).double(), rtol=0, atol=1e-5)
    best = [sorted(row, reverse=True) for row in scores]
    if any(row[0] - row[1] < 1e-5 for row in best):
        return  # rounding decides
    assert run_sites(build(layout), layout, {}, hidden.float()).tolist() == voted(scores)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_budget_keeps_the_tokens_with_most_votes_of_each_camera(case):
    layout, budget, hidden = case
    kept = run_sites(build(layout, budget), layout, {}, hidden.float()).tolist()
    split = 1 + layout.visual
    scores = selection_scores(hidden[1:split].float(), hidden[split:].float())
    votes = torch.bincount(scores.argmax(-1), minlength=layout.visual).tolist()
    best = scores.amax(0).tolist()
    for camera, size in enumerate(budget):
        ids = range(camera * layout.patches, (camera + 1) * layout.patches)
        ranked = sorted(ids, key=lambda i: (-votes[i], -best[i], i))
        assert [i for i in kept if i in ids] == sorted(ranked[:size])


def test_weights_that_were_not_trained_for_it_are_refused():
    spec = {'name': 'lightvla'}
    assert build_pruner(spec, Target()).budget is None  # before anything is loaded
    assert build_pruner('lightvla:64', Target(trained=Trained('lightvla'))).budget == (64, 64)
    for other, named in (('', 'lightvla'), ('scorer', 'scorer')):
        with pytest.raises(ProfileError, match=named):
            build_pruner(spec, Target(trained=Trained(other)))
        assert build_pruner({**spec, 'force': True}, Target(trained=Trained(other))).budget is None


def test_a_checkpoint_says_what_it_was_trained_for(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / 'checkpoint', 'micro')
    note = checkpoint / 'pruning.json'
    note.write_text(json.dumps({'method': 'lightvla', 'steps': 3}))
    assert load_policy(checkpoint, pruning='lightvla').pruner.name == 'lightvla'
    note.unlink()
    # What does not suit is said before minutes of loading.
    monkeypatch.setattr('vla_prune_ros.engine.load.load_model', None)
    with pytest.raises(ProfileError, match='lightvla'):
        load_policy(checkpoint, pruning='lightvla')
    for text in ('{', '[]', '{"name": "lightvla"}', '{"method": 3}'):
        note.write_text(text)
        with pytest.raises(CheckpointError, match='pruning.json'):
            load_policy(checkpoint, pruning='lightvla')


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_a_size_adds_unseen_tokens_only(seed, cameras, more):
    """Ids that are seen are those of the exact set; the rest are others, and the size is met."""
    layout = Layout(tuple('abc'[:cameras]), patches=9, proprio=1, prompt=6, slots=7)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, layout.length, 16, generator=generator)
    pruner = build(layout)

    def asked(size):
        state = start(layout, pruner, bucket_size=size)
        return state, state.context(state.site_after(-1), x)

    _, view = asked(None)
    exact = pruner.keep(view).tolist()
    assert int(pruner.count(view)) == len(exact)
    size = min(len(exact) + more, layout.visual)
    state, view = asked(size)
    answer = pruner.keep(view)
    assert answer.ids[answer.visible].tolist() == exact and len(answer.ids) == size
    assert answer.ids.tolist() == sorted(set(answer.ids.tolist()))
    rows = state.decide(state.site_after(-1), x)
    hidden = (state.bias.flatten() == -torch.inf).nonzero().flatten().tolist()
    unseen = [row for row in range(1, 1 + size) if not answer.visible[row - 1]]
    assert hidden == unseen and len(rows) == layout.length - layout.visual + size
    assert state.kept_by_site['before_L0'].tolist() == exact
    with pytest.raises(ProfileError, match='one site only'):
        state.context(state.site_after(-1), x[:, rows])


# LightVLA*: the votes of learned queries ---------------------------------------------------------


@pytest.mark.parametrize('seed', range(5))
def test_scores_of_queries_are_those_of_the_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    queries, visual, others = (torch.randn(n, 12, generator=generator) for n in (7, 20, 9))
    want = torch.tensor(twin(visual.tolist(), others.tolist(), queries.tolist()))
    torch.testing.assert_close(query_scores(queries, visual, others), want)
    pair = query_scores(queries, visual.expand(2, -1, -1), others.expand(2, -1, -1))
    torch.testing.assert_close(pair[1], want)


@pytest.mark.parametrize('after', [-1, 0, 1])
def test_what_queries_vote_for_at_their_layer_is_kept(tiny_llama, after):
    layout = Layout(('a', 'b'), 16, 1, 20, 8)
    x = tiny_llama.embeddings(layout, 3)
    queries = tiny_llama.embeddings(layout, 9)[0, :6]
    trained = Trained('lightvla_star', {'after': after}, {'queries': queries})
    target = Target(layout.cameras, 16, 3, width=tiny_llama.width, trained=trained)
    spy = Spy(build_pruner('lightvla_star', target))
    _, state = tiny_llama.run(layout, x, spy)
    seen = spy.views[after].hidden.tolist()
    assert state.ids.tolist() == voted(twin(seen[1:33], seen[33:], queries.tolist()))


def test_queries_that_are_absent_or_of_another_model_are_refused():
    for trained in (Trained(), Trained('lightvla'), Trained('lightvla_star')):
        with pytest.raises(ProfileError, match='lightvla_star'):
            build_pruner('lightvla_star', Target(trained=trained))
    for width, after in ((8, -1), (16, 2), (16, 31)):
        trained = Trained('lightvla_star', {'after': after}, {'queries': torch.zeros(4, width)})
        with pytest.raises(CheckpointError, match='width 16'):
            build_pruner('lightvla_star', Target(layers=3, width=16, trained=trained))
    # Nothing known: random ones.
    assert build_pruner('lightvla_star').name == 'lightvla_star'
