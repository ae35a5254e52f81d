"""The authors' ``TokenPruner`` on recorded models: sets exact, scores 1e-5, gradients 1e-4.

Three files lie in ``test/data``; with ``VLA_PRUNE_GOLDEN_DIR`` every recorded model is run.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.methods.lightvla import selected, selection_scores, straight_through
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.train.tasks.lightvla import selected_pass

DATA = Path(__file__).resolve().parents[2] / 'data'
MORE = Path(os.environ.get('VLA_PRUNE_GOLDEN_DIR', '/nowhere')) / 'pruning' / 'lightvla'
REAL = [DATA / 'lightvla' / 'micro_real.safetensors', *sorted(MORE.glob('*_real.safetensors'))]
SYNTHETIC = sorted(MORE.glob('*_synthetic.safetensors'))


def close(got, want, atol=1e-4):
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


@pytest.fixture(scope='module')
def training():
    return load_file(DATA / 'lightvla' / 'selection_training_small.safetensors')


@torch.inference_mode()
def run(model, x, layout, golden):
    trace = []
    hidden, state = model.decode(x, layout, build_pruner('lightvla'), trace)
    kept = golden['kept'].long()
    assert state.ids.tolist() == (kept[(kept >= 1) & (kept <= layout.visual)] - 1).tolist()
    assert state.positions.tolist() == golden['position_ids'].tolist()
    close(model.language_model.model.norm(trace[-1])[0], golden['final_hidden'])
    close(model.action_head(hidden)[0], golden['normalized_actions.official_slice'])
    return trace


@pytest.mark.parametrize('file', REAL, ids=lambda p: f'{p.parent.parent.name}-{p.stem}')
def test_recorded_pictures(recorded_model, embed, file):
    golden, name = load_file(file), file.stem.split('_')[0]
    inputs = load_file(DATA / 'specprune' / 'inputs_long.safetensors')
    model, _ = recorded_model(name)
    with torch.inference_mode():
        x, layout = embed(model, inputs, 1, 'long')
        scores = selection_scores(x[0, 1 : 1 + layout.visual], x[0, 1 + layout.visual :])
    assert scores.argmax(-1).tolist() == golden['argmax'].tolist()
    run(model, x, layout, golden)


@pytest.fixture(scope='module')
def micro(recorded_model):
    """The model, and embeddings of the official run that ``synthetic`` and ``training_full`` start
    from."""
    model, _ = recorded_model('micro')
    recorded = load_file(DATA / 'micro' / 'l1_fp32.safetensors')['multimodal_embeddings']
    prompt = recorded.shape[1] - 512 - 1 - 56 - 1
    return model, recorded, model.layout(LIBERO.cameras, prompt, LIBERO.chunk)


@pytest.mark.skipif(not SYNTHETIC, reason='VLA_PRUNE_GOLDEN_DIR holds no synthetic results')
def test_scores_and_the_first_layer(micro):
    golden, (model, recorded, layout) = load_file(MORE / 'micro_synthetic.safetensors'), micro
    close(selection_scores(recorded[0, 1:513], recorded[0, 513:]), golden['S'], 1e-5)
    trace = run(model, recorded, layout, golden)
    close(trace[0][0], golden['hidden_states.1'])


@pytest.mark.skipif(not SYNTHETIC, reason='VLA_PRUNE_GOLDEN_DIR holds no training pass')
def test_a_whole_training_pass(micro):
    golden, (model, recorded, layout) = load_file(MORE / 'training_full_micro.safetensors'), micro
    patches = recorded[:, 1:513].clone().requires_grad_(True)
    x = torch.cat([recorded[:, :1], patches, recorded[:, 513:]], 1)
    found = selected_pass(model, x, layout, noise=0.5 * golden['uniform_noise'].float()[None])
    assert (1 + found.kept_ids[0]).tolist() == golden['position_ids'][1:513].tolist()
    close(found.hidden[0], golden['action_hidden_states'], 1e-5)
    actions = model.action_head(found.hidden)[0]
    close(actions, golden['normalized_actions'], 1e-5)
    loss = (actions - golden['target']).abs().mean()
    close(loss, golden['loss'], 1e-5)
    loss.backward()
    close(patches.grad[0], golden['grad_projected_patches'])


@pytest.mark.parametrize('sample', [0, 1])
def test_selection_alone(training, sample):
    tokens, kept = training['tokens_in'][sample], training[f'eval.sample{sample}.position_ids']
    scores = selection_scores(tokens[1:25], tokens[25:])
    close(scores, training['score'][sample], 1e-5)
    assert [0, *(selected(scores) + 1).tolist(), *range(25, 34)] == kept.tolist()


@pytest.mark.parametrize('noise', [None, 1.0, 0.37, 0.0])
def test_training_outputs_and_gradients(training, noise):
    name = 'no_noise' if noise is None else f'noise_{noise}'
    tokens = training['tokens_in'].clone().requires_grad_(True)
    visual, others = tokens[:, 1:25], tokens[:, 25:]
    drawn = None if noise is None else noise * training['uniform_noise']
    matrix, chosen = straight_through(selection_scores(visual, others), drawn)
    out = torch.cat([tokens[:, :1], matrix @ visual, others], 1)
    close(out, training[f'{name}.tokens_out'], 1e-5)
    assert torch.equal(1 + chosen, training[f'{name}.position_ids'][:, 1:25].long())
    (out * training['loss_weight']).sum().backward()
    wanted = training[f'{name}.grad_tokens']
    zero = (training['tokens_in'] == 0).all(-1)  # there gradients are a thousand times larger
    close(tokens.grad[~zero], wanted[~zero], 1e-4)
    largest = wanted[zero].abs().amax(-1, keepdim=True).clamp(min=1.0)
    close(tokens.grad[zero] / largest, wanted[zero] / largest, 1e-5)
