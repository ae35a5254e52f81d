"""Policies to time: random weights of any size, made in memory, or a checkpoint.

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
from torch import nn

from ...engine.graphs import Engine, choose_engine, eager
from ...engine.load import load_policy, pruner_target
from ...engine.policy import Policy, PolicySetup
from ...errors import ProfileError
from ...model.language import fuse
from ...model.normalization import Bounds, Statistics
from ...model.openvla import ModelSize, OpenVLAOFT
from ...model.prompt import PromptTokenizer
from ...model.synthetic import PRESETS, STANDIN_PIECES, Preset, model_size, standin_tokenizer
from ...profiles import Profile, load_profile
from ...pruning.layout import Target
from ...pruning.registry import build_pruner
from ..options import BenchModelOptions

BENCH_PRESETS: Mapping[str, Preset] = {
    **PRESETS,
    # config.json of the published checkpoints and the timm models that it names
    '7b': Preset(
        dino=(1024, 24, 16),
        siglip=(1152, 27, 16),
        hidden=4096,
        mlp=11008,
        layers=32,
        heads=32,
    ),
}
BENCH_DTYPES: Mapping[str, torch.dtype] = {
    'bfloat16': torch.bfloat16,
    'float32': torch.float32,
}
_DECODER_LAYER = re.compile(r'(language_model\.model\.layers\.)\d+(\..+)')


@dataclass(frozen=True)
class BenchModel:
    """One network for all methods; each gets its own policy around it."""

    network: OpenVLAOFT
    profile: Profile
    statistics: Statistics
    tokenizer: PromptTokenizer
    about: Mapping[str, Any]
    target: Target
    engine: Engine = eager

    @property
    def device(self) -> torch.device:
        return self.network.language_model.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.language_model.model.norm.weight.dtype

    @property
    def weight_bytes(self) -> int:
        """What one query reads at least: every weight, layer by layer, but the embedding table."""
        named = self.network.named_parameters(remove_duplicate=False)
        return sum(p.nbytes for name, p in named if 'embed_tokens' not in name)

    def policy(self, method: str, engine: Engine | None = None) -> Policy:
        """Run by ``engine``; None for the model's own."""
        pruner = build_pruner(method, self.target)
        setup = PolicySetup(
            model=self.network,
            profile=self.profile,
            statistics=self.statistics,
            tokenizer=self.tokenizer,
            about=self.about,
            target=self.target,
            engine=engine or self.engine,
        )
        return Policy(setup, pruner)


def build_bench_model(options: BenchModelOptions) -> BenchModel:
    """:raises VlaPruneError: an option is not usable, or the checkpoint is not."""
    if options.checkpoint is not None:
        return _from_checkpoint(options, Path(options.checkpoint))
    profile = load_profile(options.profile)
    if options.preset not in BENCH_PRESETS:
        raise ProfileError(
            f'preset {options.preset!r} is unknown', f'use one of {sorted(BENCH_PRESETS)}'
        )
    if options.dtype not in BENCH_DTYPES:
        raise ProfileError(
            f'dtype {options.dtype!r} cannot be generated',
            f'use one of {sorted(BENCH_DTYPES)}, or a checkpoint',
        )
    _check_device(options.device)
    published = BENCH_PRESETS[options.preset]
    sizes = replace(published, layers=options.layers or published.layers)
    network = random_network(
        model_size(sizes, profile),
        BENCH_DTYPES[options.dtype],
        options.device,
        options.seed,
        options.share_layers,
    )
    return BenchModel(
        network=network,
        profile=profile,
        statistics=_statistics(profile),
        tokenizer=_tokenizer(),
        about={
            'preset': options.preset,
            'layers': sizes.layers,
            'layers_published': published.layers,
            'shared_layers': options.share_layers,
            'untrained': True,
            **_about(network, options),
        },
        target=pruner_target(profile, network.size),
        engine=choose_engine(options.engine, options.device),
    )


def random_network(
    size: ModelSize, dtype: torch.dtype, device: str, seed: int = 0, share_layers: bool = False
) -> OpenVLAOFT:
    """A network with seeded weights, drawn where they are used, in their dtype.

    Matrices have variance 1 / inputs, so that each keeps the size of what it multiplies. The last
    one of each decoder branch is smaller by the root of their number (as GPT-2 starts), so that
    the residual stream stays near 1 at any depth.

    :param share_layers: the parameters of all decoder layers are those of the first.
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


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ProfileError(
            f'device {device!r} cannot be used ({str(error).splitlines()[0]})',
            "use 'cpu', or install a CUDA build of torch",
        ) from None


def _distribution(name: str, shape: tuple[int, ...], branches: int) -> tuple[float, float]:
    if 'norm' in name or name.endswith('scale_factor'):
        return (0.0 if name.endswith('bias') else 1.0), 0.02
    if len(shape) == 1 or name.endswith(('embed_tokens.weight', 'pos_embed', '_token')):
        return 0.0, 0.02
    ends_branch = name.endswith(('o_proj.weight', 'down_proj.weight'))
    return 0.0, float(np.prod(shape[1:]) * (branches if ends_branch else 1)) ** -0.5


def _statistics(profile: Profile) -> Statistics:
    def unit(length: int) -> Bounds:
        ones = np.ones(length)
        return Bounds(-ones, ones, ones.astype(bool), 0 * ones)

    proprio = unit(profile.proprio_dim) if profile.proprio_dim else None
    return Statistics('random', unit(profile.action_dim), proprio)


def _tokenizer() -> PromptTokenizer:
    pieces = {piece: 300 + i for i, piece in enumerate(dict.fromkeys(STANDIN_PIECES))}
    with TemporaryDirectory() as folder:
        standin_tokenizer(pieces).save(str(Path(folder) / 'tokenizer.json'))
        return PromptTokenizer(folder)


def _from_checkpoint(options: BenchModelOptions, folder: Path) -> BenchModel:
    if options.layers or options.share_layers:
        raise ProfileError(
            'layers of a checkpoint are what they are',
            'leave out --layers and --share-layers, or --checkpoint',
        )
    loaded = load_policy(folder, options.profile, device=options.device, dtype=options.dtype)
    layers = loaded.model.size.text.num_hidden_layers
    return BenchModel(
        network=loaded.model,
        profile=loaded.profile,
        statistics=loaded.statistics,
        tokenizer=loaded.tokenizer,
        about={
            'checkpoint': str(folder),
            'layers': layers,
            'layers_published': layers,
            'shared_layers': False,
            'untrained': loaded.untrained,
            **_about(loaded.model, options),
        },
        target=loaded.setup.target,
        engine=choose_engine(options.engine, options.device),
    )


def _about(network: OpenVLAOFT, options: BenchModelOptions) -> dict[str, Any]:
    count = sum(p.numel() for _, p in network.named_parameters(remove_duplicate=False))
    held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    return {
        'profile': options.profile,
        'dtype': options.dtype,
        'device': options.device,
        'engine': options.engine,
        'parameters': count,
        'weights_mib': held / 2**20,
    }
