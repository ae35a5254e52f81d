"""Passes of a pruner through a tiny decoder or none, what it saw, and brute force to compare."""

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaModel

from vla_prune_ros.model.language import LanguageModel
from vla_prune_ros.pruning.base import Pruner, PruningSite, Query
from vla_prune_ros.pruning.forward_state import PruningState
from vla_prune_ros.pruning.frames import FrameHistory
from vla_prune_ros.pruning.layout import Layout, Target
from vla_prune_ros.pruning.registry import build_pruner
from vla_prune_ros.records import MotionHint

CHUNK_NS = 400_000_000  # 8 steps of 0.05 s


def make_query(layout, index=0, **changes):
    """The query of chunk ``index`` of an episode."""
    known = dict(model_images={}, instruction='pick up the cup', stamp_ns=1 + index * CHUNK_NS)
    return Query(layout=layout, **{**known, **changes})


class Scripted(Pruner):
    """Keeps the given ids behind the given layers, None for all.

    :param hidden: False: chosen before the layer's output is computed.
    """

    name = 'scripted'

    def __init__(self, script, hidden=True, rows=None):
        self.script, self.views = script, {}
        self.sites = tuple(PruningSite(layer, rows, hidden=hidden) for layer in script)

    def keep(self, view):
        self.views[view.site.layer] = view
        kept = self.script[view.site.layer]
        return None if kept is None else torch.as_tensor(kept)


class Spy(Pruner):
    """Passes everything on to a pruner; layer -> what it saw there."""

    def __init__(self, pruner):
        self.pruner, self.views = pruner, {}
        self.name, self.sites, self.after_pass = pruner.name, pruner.sites, pruner.after_pass

    def keep(self, view):
        self.views[view.site.layer] = view
        return self.pruner.keep(view)


def start(layout, pruner, device='cpu', **options):
    positions = torch.arange(layout.length, device=device)
    return PruningState(layout=layout, pruner=pruner, positions=positions, **options)


def decisions(pruner, layout, maps, hidden=None):
    """One pass without a model: (layer, ids before, attention, ids kept) of each site.

    :param maps: layer -> (S, V) scores of every row of the un-pruned sequence.
    :param hidden: (S, D), the same at every site.
    """
    x = torch.zeros(layout.length, 1) if hidden is None else hidden
    state, seen = start(layout, pruner, x.device), []
    for site in pruner.sites:
        before, attention = state.ids, None
        if site.rows is not None:
            attention = maps[site.layer][list(site.rows(layout))][:, before]
        keys = None if attention is None else pad(attention, (1, 0))  # BOS
        state.decide(site, x[state.positions][None], keys)
        counts = torch.bincount(state.ids // layout.patches, minlength=len(layout.cameras))
        assert list(state.kept_per_camera) == counts.tolist()
        seen.append((site.layer, before, attention, state.ids))
    pruner.after_pass(state.memory)
    return seen


def run_sites(pruner, layout, maps, hidden=None):
    """The ids that such a pass keeps, ascending."""
    return decisions(pruner, layout, maps, hidden)[-1][-1]


FAST, SLOW = MotionHint(0.9, 0.1, 0.0, 'pose'), MotionHint(0.01, 0.1, -0.02, 'pose')


class SpecPruneEpisode:
    """Queries of ``specprune``, a chunk apart, with frames in which a bright square moves by a
    patch; the cameras named in ``shaking`` see every patch change.

    :param side: patches of a camera, side x side.
    :param watched: frames come every 50 ms between queries too.
    """

    def __init__(
        self, cameras=2, seed=0, *, side=4, layers=32, shaking=(), watched=False, **options
    ):
        names = tuple('abc')[:cameras]
        target = Target(names, side * side, layers)
        self.pruner = build_pruner({'name': 'specprune', **options}, target)
        self.layout = Layout(names, side * side, 1, 22, 8)
        self.history = FrameHistory(lambda image: image, 25_000_000)
        self.random = np.random.default_rng(seed)
        self.still = self.random.integers(40, 90, (14 * side, 14 * side, 3), np.uint8)
        self.side, self.shaking, self.watched = side, shaking, watched
        self.number, self.stamp_ns = 0, 0

    def frame(self, camera):
        image = self.still.copy()
        if camera in self.shaking:
            image = np.roll(255 - image if self.number % 2 else image, self.number, axis=0)
        else:
            low = 14 * (self.number % self.side)
            image[low : low + 14, 14:28] = 250
        return image[::2, ::2] if self.pruner.half_resolution else image

    def begin(self, motion=FAST, step_ns=CHUNK_NS, instruction='task'):
        """The mode of the next query."""
        if self.watched and self.number:
            for stamp_ns in range(self.stamp_ns, self.stamp_ns + CHUNK_NS, CHUNK_NS // 8):
                for camera in self.layout.cameras:
                    self.history.push(camera, stamp_ns, self.frame(camera))
        self.number += 1
        self.stamp_ns += step_ns
        frames = {camera: self.frame(camera) for camera in self.layout.cameras}
        self.history.push_prepared(self.stamp_ns, frames)
        query = make_query(
            self.layout,
            model_images=frames,
            instruction=instruction,
            stamp_ns=self.stamp_ns,
            motion=motion,
            history=self.history,
            frames=frames,
        )
        return self.pruner.begin(query)


class TinyLlama:
    """A few layers of random weights, ours and ``transformers``' own eager ones.

    :param gain: of all matrices; a large one makes attention far from uniform.
    """

    width = 16

    def __init__(self, layers=3, seed=0, key_value_heads=2, gain=1):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=self.width,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=key_value_heads,
            attn_implementation='eager',
        )
        self.layers = layers
        self.reference = LlamaModel(config).eval()
        for parameter in self.reference.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(gain)
        self.ours = LanguageModel(config).eval()
        self.ours.model.load_state_dict(self.reference.state_dict())

    def embeddings(self, layout, seed):
        """A random sequence (1, S, D)."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, layout.length, self.width, generator=generator)

    def run(self, layout, x, pruner, trace=None):
        """Read-out rows, and the state; with a trace the last layer computes all rows."""
        state = start(layout, pruner, x.device, trace=trace)
        with torch.inference_mode():
            return self.ours(x, state), state

    def reference_pass(self, x, positions, mask_behind=lambda layer, mask: None):
        """The eager layers: the last residual stream, and the mean map (S, S) of each layer.

        :param mask_behind: changes the mask (1, 1, S, S) of the layers from there on.
        """
        rotary = self.reference.rotary_emb(x, torch.tensor([list(positions)]))
        mask, maps = torch.zeros(1, 1, x.shape[1], x.shape[1]), []
        mask_behind(-1, mask)
        with torch.inference_mode():
            for index, layer in enumerate(self.reference.layers):
                attended, weights = layer.self_attn(layer.input_layernorm(x), rotary, mask)
                maps.append(weights[0].mean(0))
                x = x + attended
                x = x + layer.mlp(layer.post_attention_layernorm(x))
                mask_behind(index, mask)
        return x, maps

    def masked_dense(self, layout, x, kept):
        """All rows stay; removed tokens are masked as keys from the next layer on.

        :param kept: site name, or layer, -> ids that are kept there.
        """
        kept = {k if isinstance(k, str) else PruningSite(k).name: v for k, v in kept.items()}

        def mask_behind(layer, mask):
            ids = kept.get(PruningSite(layer).name)
            if ids is not None:
                gone = sorted(set(range(layout.visual)) - set(map(int, ids)))
                mask[..., [1 + i for i in gone]] = float('-inf')

        x, _ = self.reference_pass(x, range(layout.length), mask_behind)
        with torch.inference_mode():
            return self.reference.norm(x)[:, list(layout.readout_positions)]
