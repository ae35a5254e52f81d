"""Policies to time: random weights of any size, made in memory, or a checkpoint; and the dense
model as the published code executes it.

Latency depends on shapes, not on what was learnt. The weights are drawn so that activations stay
near 1 through all layers: denormal or infinite numbers would change the time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from ...engine.graphs import Engine, choose_engine
from ...engine.load import check_device_and_dtype, load_policy, pruner_target
from ...engine.policy import Policy, PolicySetup
from ...errors import ProfileError
from ...model.images import normalized_pixels
from ...model.language import fuse
from ...model.normalization import Bounds, Statistics
from ...model.openvla import Act, ActInputs, ModelSize, OpenVLAOFT
from ...model.prompt import PromptTokenizer
from ...model.synthetic import PRESETS, STANDIN_PIECES, Preset, model_size, standin_tokenizer
from ...model.vision import Tower
from ...profiles import load_profile
from ...pruning.forward_state import PruningState
from ...pruning.registry import build_pruner
from ..options import BenchModelOptions

BENCH_PRESETS: Mapping[str, Preset] = {
    **PRESETS,
    # config.json of the published checkpoints and the timm models that it names
    '7b': Preset(
        dino=(1024, 24, 16), siglip=(1152, 27, 16), hidden=4096, mlp=11008, layers=32, heads=32
    ),
}
BENCH_DTYPES = ('bfloat16', 'float32')
_DECODER_LAYER = re.compile(r'(language_model\.model\.layers\.)\d+(\..+)')


@dataclass(frozen=True)
class BenchModel(PolicySetup):
    """One network for all methods; each gets its own policy around it."""

    @property
    def weight_bytes(self) -> int:
        """What one query reads at least: every weight, layer by layer, but the embedding table."""
        named = self.model.named_parameters(remove_duplicate=False)
        return sum(p.nbytes for name, p in named if 'embed_tokens' not in name)

    def policy(self, method: str, engine: Engine | None = None) -> Policy:
        """Run by ``engine``; None for the model's own."""
        setup = replace(self, engine=engine or self.engine)
        return Policy(setup, build_pruner(method, self.target))


def build_bench_model(options: BenchModelOptions) -> BenchModel:
    """:raises VlaPruneError: an option is not usable, or the checkpoint is not."""
    make = _random_setup if options.checkpoint is None else _from_checkpoint
    setup, about = make(options)
    network = setup.model
    count = sum(p.numel() for _, p in network.named_parameters(remove_duplicate=False))
    held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    layers = network.size.text.num_hidden_layers
    about = {
        'layers': layers,
        'layers_published': layers,
        'shared_layers': options.share_layers,
        'profile': options.profile,
        'dtype': options.dtype,
        'device': options.device,
        'engine': options.engine,
        'parameters': count,
        'weights_mib': held / 2**20,
        **about,
    }
    engine = choose_engine(options.engine, options.device)
    return BenchModel(**{**vars(setup), 'about': about, 'engine': engine})


def _random_setup(options: BenchModelOptions) -> tuple[PolicySetup, dict[str, Any]]:
    profile = load_profile(options.profile)
    dtype = check_device_and_dtype(options.device, options.dtype)
    if options.dtype not in BENCH_DTYPES:
        raise ProfileError(
            f'dtype {options.dtype!r} cannot be generated',
            f'use one of {sorted(BENCH_DTYPES)}, or a checkpoint',
        )
    published = BENCH_PRESETS[options.preset]
    size = model_size(replace(published, layers=options.layers or published.layers), profile)
    network = random_network(size, dtype, options.device, options.seed, options.share_layers)

    def unit(length: int) -> Bounds:
        ones = np.ones(length)
        return Bounds(-ones, ones, ones.astype(bool), 0 * ones)

    proprio = unit(profile.proprio_dim) if profile.proprio_dim else None
    pieces = {piece: 300 + i for i, piece in enumerate(dict.fromkeys(STANDIN_PIECES))}
    with TemporaryDirectory() as folder:
        standin_tokenizer(pieces).save(str(Path(folder) / 'tokenizer.json'))
        tokenizer = PromptTokenizer(folder)
    setup = PolicySetup(
        model=network,
        profile=profile,
        statistics=Statistics('random', unit(profile.action_dim), proprio),
        tokenizer=tokenizer,
        about={},
        target=pruner_target(profile, size),
    )
    about = {'preset': options.preset, 'layers_published': published.layers, 'untrained': True}
    return setup, about


def _from_checkpoint(options: BenchModelOptions) -> tuple[PolicySetup, dict[str, Any]]:
    if options.layers or options.share_layers:
        raise ProfileError(
            'layers of a checkpoint are what they are',
            'leave out --layers and --share-layers, or --checkpoint',
        )
    loaded = load_policy(
        options.checkpoint, options.profile, device=options.device, dtype=options.dtype
    )
    return loaded.setup, {'checkpoint': str(options.checkpoint), 'untrained': loaded.untrained}


def random_network(
    size: ModelSize, dtype: torch.dtype, device: str, seed: int = 0, share_layers: bool = False
) -> OpenVLAOFT:
    """A network with seeded weights, drawn where they are used, in their dtype; with
    ``share_layers`` all decoder layers have those of the first.

    Matrices have variance 1 / inputs, so that each keeps the size of what it multiplies. The last
    one of each decoder branch is smaller by the root of their number (as GPT-2 starts), so that
    the residual stream stays near 1 at any depth.
    """
    with torch.device('meta'):
        network = OpenVLAOFT(size)
    generator = torch.Generator(device).manual_seed(seed)
    branches = 2 * size.text.num_hidden_layers
    drawn: dict[str, nn.Parameter] = {}
    for name, parameter in list(network.named_parameters()):
        source = _DECODER_LAYER.sub(r'\g<1>0\2', name) if share_layers else name
        if source not in drawn:
            mean, deviation = _distribution(name, tuple(parameter.shape), branches)
            weight = torch.empty(parameter.shape, dtype=dtype, device=device)
            weight.normal_(mean, deviation, generator=generator)
            drawn[source] = nn.Parameter(weight, requires_grad=False)
        parent, _, leaf = name.rpartition('.')
        setattr(network.get_submodule(parent), leaf, drawn[source])
    fuse(network.language_model.model.layers)
    return network.eval()


def _distribution(name: str, shape: tuple[int, ...], branches: int) -> tuple[float, float]:
    if 'norm' in name or name.endswith('scale_factor'):
        return (0.0 if name.endswith('bias') else 1.0), 0.02
    if len(shape) == 1 or name.endswith(('embed_tokens.weight', 'pos_embed', '_token')):
        return 0.0, 0.02
    ends_branch = name.endswith(('o_proj.weight', 'down_proj.weight'))
    return 0.0, float(np.prod(shape[1:]) * (branches if ends_branch else 1)) ** -0.5


class ReferenceForward:
    """The reference implementation, row ``published``, in place of the engine's forward.

    openvla-oft (``modeling_prismatic.py``, ``film_vit_wrapper.py``, its fork of transformers) runs
    the towers camera by camera and through their last block, whose output it does not use; its
    language model is the stock decoder with a cache of keys and values that nobody reads, every
    layer's output kept, and ``lm_head`` in float32 over all rows. Actions are those of our own
    dense pass: only the work differs.

    :raises ValueError: a diffusion head, which has more than one pass of the decoder.
    """

    name = 'published'

    def __init__(self, model: OpenVLAOFT) -> None:
        if model.size.head == 'diffusion':
            raise ValueError('the reference implementation has one pass of the decoder')
        self._model = model
        model.size.text._attn_implementation = 'sdpa'
        table = model.language_model.model.embed_tokens.weight
        self._lm_head = torch.empty_like(table).normal_(0, 0.02)  # its output is thrown away

    def visual(self, images: Tensor, prompt_ids: Tensor) -> Tensor:
        pixels = normalized_pixels(images, self._lm_head.dtype)
        backbone, condition = self._model.vision_backbone, self._model.condition(prompt_ids)
        cameras = []
        for camera in pixels.split(1):
            dino = _whole_tower(backbone.featurizer, camera[:, :3], condition)
            siglip = _whole_tower(backbone.fused_featurizer, camera[:, 3:], condition)
            cameras.append(torch.cat([dino, siglip], dim=2))
        return self._model.projector(torch.cat(cameras, dim=1))

    def act(self, inputs: ActInputs) -> Act:
        """The stock decoder layers, dense whatever the pruner is."""
        model, text, layout = self._model, self._model.language_model, inputs.layout
        with inputs.stage('language'):
            x = embeddings = model.embed(inputs.visual, inputs.prompt_ids, inputs.proprio, layout)
            positions = torch.arange(x.shape[1], device=x.device)
            tables = text.model.rope(positions, x.dtype)
            cache, states = DynamicCache(), []
            for layer in text.model.layers:
                x = layer(
                    x,
                    attention_mask=None,
                    position_ids=positions[None],
                    past_key_values=cache,
                    use_cache=True,
                    position_embeddings=tables,
                    is_causal=False,
                )
                states.append(x)
            states.append(text.model.norm(x))
            F.linear(states[-1], self._lm_head).float()
            state = PruningState(layout=layout, pruner=inputs.pruner, positions=positions)
            hidden = states[-1][:, state.rows(layout.readout_positions)]
        with inputs.stage('head'):
            return Act(model._head(hidden), state, embeddings)


def _whole_tower(tower: Tower, pixels: Tensor, condition: Tensor | None) -> Tensor:
    trace: list[Tensor] = []
    features = tower(pixels, condition, trace)
    tower.blocks[-1](trace[-1], condition)  # stands for the last block, which we never build
    return features
