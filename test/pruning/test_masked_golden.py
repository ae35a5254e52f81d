"""Rule 4 on the original code: rows removed inside its own model.

``micro`` lies in ``test/data``; with ``VLA_PRUNE_GOLDEN_DIR`` every model that lies there is run,
and its un-pruned results too.
"""

import os
from pathlib import Path

import pytest
import torch
from pruning_pass import Scripted
from safetensors.torch import load_file

from vla_prune_ros.pruning.methods.baselines import Dense

DATA = Path(__file__).resolve().parents[1] / 'data'
MORE = Path(os.environ.get('VLA_PRUNE_GOLDEN_DIR', '/nowhere')) / 'pruning' / 'masked'
MASKED = [DATA / 'micro' / 'masked.safetensors', *sorted(MORE.glob('[!d]*.safetensors'))]
MASKED += sorted(MORE.glob('deep.safetensors'))
DENSE = sorted(MORE.glob('dense_*.safetensors'))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.fixture(scope='module')
def inputs():
    return load_file(DATA / 'specprune' / 'inputs_long.safetensors')


@torch.inference_mode()
def test_our_embeddings_are_the_recorded_ones(recorded_model, embed, inputs):
    model, _ = recorded_model('micro')
    for q in range(4):
        x, _ = embed(model, inputs, q, 'long')
        close(x[0], inputs[f'q{q}.multimodal_embeddings'])


@pytest.mark.parametrize('case', ['static_and_dynamic', 'before_layer0', 'one_layer_only'])
@pytest.mark.parametrize('file', MASKED, ids=lambda p: f'{p.parent.name}-{p.stem}')
@torch.inference_mode()
def test_pruned_hidden_states_and_actions(recorded_model, embed, inputs, file, case):
    golden = load_file(file)
    marks = {k.rpartition('.')[2]: v for k, v in golden.items() if f'{case}.keep.' in k}
    if not marks:
        pytest.skip(f'{file.stem} has no case {case!r}')
    model, _ = recorded_model('micro' if file.stem == 'masked' else file.stem)
    x, layout = embed(model, inputs, 1, 'long')
    layers = {-1 if m == 'before_L0' else int(m.removeprefix('after_L')): m for m in marks}
    visual = {m: (kept >= 1) & (kept <= layout.visual) for m, kept in marks.items()}
    script = {n: marks[m][visual[m]].long() - 1 for n, m in sorted(layers.items())}
    trace = []
    hidden, state = model.decode(x, layout, Scripted(script), trace)
    for layer, mark in layers.items():
        if f'{case}.hidden_tail.{mark}' in golden:
            close(trace[layer][0, -58:], golden[f'{case}.hidden_tail.{mark}'])
    close(model.language_model.model.norm(trace[-1])[0], golden[f'{case}.final_hidden'])
    close(model.action_head(hidden)[0], golden[f'{case}.normalized_actions'])
    assert state.positions.tolist() == marks[layers[max(layers)]].tolist()


@pytest.mark.skipif(not DENSE, reason='VLA_PRUNE_GOLDEN_DIR holds no dense results')
@pytest.mark.parametrize('file', DENSE, ids=lambda p: p.stem)
@torch.inference_mode()
def test_dense_hidden_states_and_actions(recorded_model, embed, inputs, file):
    golden = load_file(file)
    _, name, task = file.stem.split('_')
    model, _ = recorded_model(name)
    for q in range(4):
        x, layout = embed(model, inputs, q, task)
        trace = []
        hidden, _ = model.decode(x, layout, Dense(), trace)
        tail = model.language_model.model.norm(trace[-1])[0, -58:]
        close(tail, golden[f'q{q}.final_hidden_tail'])
        close(model.action_head(hidden)[0], golden[f'q{q}.normalized_actions'])
