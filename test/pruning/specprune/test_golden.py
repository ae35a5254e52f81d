"""``legacy_2026`` against what the authors' own code computed (``test/data/specprune/README``).

Every set is compared exactly, scores at 1e-6 (confidence 1e-4, importance 1e-5), hidden states and
actions at 1e-4. Of the first query the patches that did not change are taken as recorded: it
compares a frame with itself, and rounding in the last bit decides.

Cases lie in ``test/data/specprune``; with ``VLA_PRUNE_GOLDEN_DIR`` all that lie there are run too.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning_pass import Spy, make_query
from safetensors.torch import load_file

from vla_prune_ros.model.normalization import read_statistics, unnormalize
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.pruning.selection import best_per_camera

DATA = Path(__file__).resolve().parents[2] / 'data'
CAMERAS = LIBERO.cameras
PERIOD_NS = 50_000_000
MODES = {'coarse': ('coarse',) * 4, 'precise': ('fine',) * 4, 'mixed': ('coarse', 'fine') * 2}


def found() -> list[Path]:
    """Case files named ``{model}_{task}_{mode}[_injected]``, the kept ones and the optional."""
    more = os.environ.get('VLA_PRUNE_GOLDEN_DIR', '')
    folders = [Path(more) / 'pruning' / 'specprune'] if more else []
    cases = {}
    for folder in (*folders, DATA / 'specprune'):
        for path in sorted(folder.glob('*.safetensors')):
            parts = path.stem.split('_')
            if len(parts) >= 3 and parts[2] in MODES and parts[-1] != 'sort':
                cases[path.stem] = path  # in plain_sort the order of ties is the build's
    return list(cases.values())


class Frames:
    """The recorded reference; the present frame where none is recorded."""

    watched = True

    def __init__(self, inputs, query):
        self._frames = {c: inputs.get(f'q{query}.reference.{c}') for c in CAMERAS}
        self.asked = {}

    def count(self, camera):
        """A query later than the sixth frame of the episode, but for the first."""
        return 99 if self._frames[camera] is not None else 1

    def take_gap_ns(self):
        return PERIOD_NS

    def before(self, camera, stamp_ns, back_ns):
        self.asked[camera] = back_ns
        return self._frames[camera].numpy()


class ScoreSpy(Spy):
    """Also the running score before each layer's prune."""

    def __init__(self, pruner):
        super().__init__(pruner)
        self.importance = {}

    def keep(self, view):
        score = view.memory.get('importance', torch.zeros(512))
        self.importance[view.site.layer] = score[view.ids].clone()
        return super().keep(view)


def positions(ids, layout):
    return [0, *(ids + 1).tolist(), *range(1 + layout.visual, layout.length)]


def mask(ids, low=1):
    out = torch.zeros(512, dtype=torch.bool)
    out[ids.long() - low] = True
    return out


def close(got, want, atol):
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize('case', found(), ids=lambda path: path.stem)
@torch.inference_mode()
def test_four_queries_of_the_released_code(case, recorded_model, embed):
    task, mode = case.stem.split('_')[1:3]
    golden = load_file(case)
    inputs = load_file(case.parent / f'inputs_{task}.safetensors')
    # The tasks share frames and state.
    inputs = {**load_file(case.parent / 'inputs_long.safetensors'), **inputs}
    model, folder = recorded_model(case.stem.split('_')[0])
    bounds = read_statistics(folder, LIBERO, 'libero_spatial_no_noops').action
    layers = model.size.text.num_hidden_layers
    pruner = build_pruner('specprune:legacy_2026', Target(layers=layers))
    for q, query_mode in enumerate(MODES[mode]):
        x, layout = embed(model, inputs, q, task)  # within 2e-6 of the recorded embeddings
        frames = Frames(inputs, q)
        images = {c: inputs[f'q{q}.current.{c}'].numpy() for c in CAMERAS}
        pruner.mode = query_mode
        query = make_query(layout, q, model_images=images, instruction=task, history=frames)
        assert pruner.begin(query) == query_mode
        low_change = torch.cat([golden[f'q{q}.low_change.{c}'] for c in CAMERAS])
        if q == 0:
            counts = pruner.token_scores.removable.view(2, 256).sum(1).tolist()
            assert counts == [len(golden[f'q0.low_change.{c}']) for c in CAMERAS]
            pruner.token_scores = replace(pruner.token_scores, removable=mask(low_change))
        else:
            assert set(frames.asked.values()) == {5 * PERIOD_NS}
            assert torch.equal(pruner.token_scores.removable, mask(low_change))
        if case.stem.endswith('_injected'):
            in_global = mask(golden[f'q{q}.vglobal_in'])
            pruner.token_scores = replace(pruner.token_scores, in_global=in_global)
        assert torch.equal(pruner.token_scores.in_global, mask(golden[f'q{q}.vglobal_in']))
        spy, trace = ScoreSpy(pruner), []
        hidden, state = model.decode(x, layout, spy, trace)
        compare(golden, f'q{q}.', layout, pruner, spy, state, trace, query_mode)
        tail = model.language_model.model.norm(trace[-1])[0, -58:]
        close(tail, golden[f'q{q}.final_hidden_tail'], 1e-4)
        head = model.action_head
        close(head(hidden)[0], golden[f'q{q}.normalized_actions.official_slice'], 1e-4)
        # The released code reads every value one row late.
        late = head(tail[None, 1:57])[0]
        close(late, golden[f'q{q}.normalized_actions.authors'], 1e-4)
        actions = unnormalize(late.numpy(), bounds.low, bounds.high, bounds.mask)
        close(torch.from_numpy(actions), golden[f'q{q}.actions.authors'], 1e-4)


def compare(golden, q, layout, pruner, spy, state, trace, mode):
    """One query: scores at every site, sets and hidden states behind it."""
    for layer, view in spy.views.items():
        after = f'after_L{layer}'
        if q + f'kept.{after}' in golden:
            kept = positions(state.kept_by_site[after], layout)
            assert kept == golden[q + f'kept.{after}'].tolist(), after
        if q + f'hidden_tail.{after}' in golden:
            close(trace[layer][0, -58:], golden[q + f'hidden_tail.{after}'], 1e-4)
        text_scores(golden, q, view, pruner.config.local.of(mode))
        if q + f'importance.before_prune_L{layer}' in golden:
            want = golden[q + f'importance.before_prune_L{layer}']
            close(spy.importance[layer], want, 1e-5)
        if q + f'action_attn.L{layer}' in golden:
            seen = view.attention[: layout.slots].mean(0)
            close(seen, golden[q + f'action_attn.L{layer}'], 1e-6)
        if q + f'omega_conf.L{layer}' in golden:
            confidence = pruner.confidence[layer].view(())
            close(confidence, golden[q + f'omega_conf.L{layer}'].view(()), 1e-4)
        if q + f'vglobal_score.L{layer}' in golden:
            close(pruner.memory.scores[layer], golden[q + f'vglobal_score.L{layer}'], 1e-6)
    assert positions(state.ids, layout) == golden[q + 'kept.final'].tolist()
    if pruner.memory.scores:
        out = pruner.memory.top(256, pruner.config.global_tokens.of(mode), joint=False)
        assert (out.nonzero()[:, 0] + 1).tolist() == sorted(golden[q + 'vglobal_out'].tolist())


def text_scores(golden, q, view, counts):
    """Attention of the text rows, and the best of each camera: 2 K after layer 0, then K."""
    layer = view.site.layer
    if q + f'text_score.L{layer}.{CAMERAS[0]}' not in golden:
        return
    seen = view.attention.mean(0)
    wide = [2 * k for k in counts] if layer == 0 else counts
    top = best_per_camera(view.ids, seen, view.kept_per_camera, wide)
    for camera, name in enumerate(CAMERAS):
        mine = view.ids // 256 == camera
        close(seen[mine], golden[q + f'text_score.L{layer}.{name}'], 1e-6)
        assert (top[camera] + 1).tolist() == golden[q + f'text_top.L{layer}.{name}'].tolist()
