"""Rule 4 on the original code: rows removed inside its own model (``masked.safetensors``)."""

import pytest
import torch
from safetensors.torch import load_file

from vla_prune_ros.model.checkpoint import load_model
from vla_prune_ros.model.variant import Variant
from vla_prune_ros.profiles import LIBERO
from vla_prune_ros.pruning.plan import Site


class Recorded:
    """Keeps what the recorded run kept."""

    name = 'recorded'

    def __init__(self, kept_positions):
        self.kept = kept_positions
        self.sites = tuple(Site(layer) for layer in kept_positions)

    def keep(self, view):
        """Visual original positions 1 .. V -> ids 0 .. V - 1."""
        kept = self.kept[view.site.layer]
        return kept[(kept >= 1) & (kept <= view.layout.visual)].long() - 1


L1 = Variant('l1', proprio=True, film=False)


@pytest.mark.parametrize(
    ('case', 'layers'),
    [('static_and_dynamic', {'after_L0': 0, 'after_L1': 1}), ('before_layer0', {'before_L0': -1})],
)
@torch.inference_mode()
def test_pruned_hidden_states_and_actions(data_dir, case, layers):
    golden = load_file(data_dir / 'micro' / 'masked.safetensors')
    model = load_model(data_dir / 'micro' / 'checkpoint', LIBERO, L1, 'cpu', torch.float32)
    x = golden['input.multimodal_embeddings'][None]
    layout = model.layout(LIBERO.cameras, x.shape[1] - 512 - 1 - 57, LIBERO.chunk)
    pruner = Recorded({layer: golden[f'{case}.keep.{name}'] for name, layer in layers.items()})
    trace = []
    hidden, walk = model.decode(x, layout, pruner, trace)
    for name, layer in layers.items():
        if layer >= 0:
            torch.testing.assert_close(
                trace[layer][0, -58:], golden[f'{case}.hidden_tail.{name}'], rtol=0, atol=1e-4
            )
    final = model.language_model.model.norm(trace[-1])[0]
    torch.testing.assert_close(final, golden[f'{case}.final_hidden'], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        model.action_head(hidden)[0], golden[f'{case}.normalized_actions'], rtol=0, atol=1e-4
    )
    assert walk.positions.tolist() == golden[f'{case}.keep.{list(layers)[-1]}'].tolist()
