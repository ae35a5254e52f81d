"""A checkpoint folder in the published layout -> the network with its weights. Head, state and
FiLM are found from the files: they were run-time flags of the published code."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from ..errors import CheckpointError, ProfileError
from ..profiles import Profile
from .files import Progress, component_files, read_component, read_json, stream_weights
from .language import reserve
from .openvla import HEADS, ModelSize, OpenVLAOFT
from .vision import DINO_ID, SIGLIP_ID, Mlp, dino_size, film_tensors, siglip_size


@dataclass(frozen=True)
class Variant:
    """``film``: the towers are conditioned on the instruction and have a file of their own."""

    head: str
    proprio: bool
    film: bool

    @property
    def components(self) -> list[str]:
        needed = {
            'action_head': self.head != 'discrete',
            'noisy_action_projector': self.head == 'diffusion',
            'proprio_projector': self.proprio,
        }
        return [name for name, there in needed.items() if there]


def find_variant(folder: Path, profile: Profile, head: str = 'auto') -> Variant:
    """:param head: ``'auto'``, or the head that must be there; ``'discrete'`` is possible for any
        checkpoint that kept its ``lm_head``.
    :raises CheckpointError: the files contradict each other or the wish."""
    if head not in ('auto', *HEADS):
        raise ProfileError(f'head {head!r} is unknown', f'use auto, {", ".join(HEADS)}')
    has_proprio = bool(component_files(folder, 'proprio_projector'))
    found = 'discrete' if head == 'discrete' else _head_of_files(folder, head, has_proprio)
    if head not in ('auto', found):
        raise CheckpointError(
            f'{folder}: its action head is {found}, head is set to {head}',
            "use head='auto' or the folder of another checkpoint",
        )
    film = bool(component_files(folder, 'vision_backbone'))
    return Variant(found, has_proprio and profile.proprio_dim > 0, film)


def _head_of_files(folder: Path, wish: str, has_proprio: bool) -> str:
    if not component_files(folder, 'action_head'):
        if wish == 'auto' and not has_proprio:
            return 'discrete'
        raise CheckpointError(
            f'{folder} needs exactly one action_head--N_checkpoint.pt, found none',
            "finish the download, or use head='discrete' for a checkpoint without a head",
        )
    names = read_component(folder, 'action_head')
    kind = 'diffusion' if any(n.startswith('noise_predictor.') for n in names) else 'l1'
    if kind == 'diffusion' and not component_files(folder, 'noisy_action_projector'):
        raise CheckpointError(
            f'{folder}: no noisy_action_projector--N_checkpoint.pt for its diffusion head',
            'finish the download of the checkpoint',
        )
    return kind


def published_shapes(size: ModelSize) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of the main state dict: 982 entries at the published size. Beside what
    we run: the last block and norm of both towers, SigLIP's pooling head and ``lm_head``."""
    dino, siglip = (replace(t, depth=t.depth + 1) for t in (size.dino, size.siglip))
    with torch.device('meta'):
        model = OpenVLAOFT(replace(size, dino=dino, siglip=siglip, head='discrete', proprio_dim=0))
        towers = model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer
        for tower in towers:
            tower.norm = nn.LayerNorm(tower.size.width)
        width, pool = siglip.width, nn.Module()
        pool.latent = nn.Parameter(torch.empty(1, 1, width))
        pool.q, pool.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        pool.proj, pool.norm = nn.Linear(width, width), nn.LayerNorm(width)
        pool.mlp = Mlp(width, siglip.mlp_width, width)
        towers[1].attn_pool = pool
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# Tensors of the published files that never influence an action, and buffers of old exports.
_UNUSED = re.compile(
    r'.*\.rotary_emb\.inv_freq$|vision_backbone\.(featurizer|fused_featurizer)\.norm\.|'
    r'vision_backbone\.fused_featurizer\.attn_pool\.'
)
_BLOCK = re.compile(r'vision_backbone\.(featurizer|fused_featurizer)\.blocks\.(\d+)\.')


def read_size(folder: Path, profile: Profile, variant: Variant) -> ModelSize:
    """Shapes from ``config.json``; smaller towers than the published stand in its
    ``oracle_vision_overrides``, missing fields take ``LlamaConfig``'s defaults."""
    config = read_json(folder / 'config.json')
    text = dict(config.get('text_config') or {})
    if config.get('model_type') != 'openvla' or text.pop('model_type', 'llama') != 'llama':
        raise CheckpointError(
            f'{folder}/config.json is not an OpenVLA model (model_type '
            f'{config.get("model_type")!r})',
            'point checkpoint at an OpenVLA-OFT folder',
        )
    text.pop('torch_dtype', None)
    try:
        towers = config.get('oracle_vision_overrides') or {}
        keys = ('embed_dim', 'depth', 'num_heads')
        dino, siglip = (
            make(*(towers[name][key] for key in keys)) if towers.get(name) else make()
            for make, name in ((dino_size, DINO_ID), (siglip_size, SIGLIP_ID))
        )
        llama = LlamaConfig(**text)
        return ModelSize(
            dino=dino,
            siglip=siglip,
            text=llama,
            action_dim=profile.action_dim,
            proprio_dim=profile.proprio_dim if variant.proprio else 0,
            head=variant.head,
            film=variant.film,
            action_vocabulary=llama.vocab_size - int(config.get('pad_to_multiple_of', 64)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{folder}/config.json: {str(error).splitlines()[0]}', 'fetch config.json again'
        ) from None


def load_model(
    folder: Path,
    profile: Profile,
    variant: Variant,
    device: str,
    dtype: torch.dtype,
    *,
    progress: Progress = lambda text: None,
    loaded: Callable[[OpenVLAOFT, str], None] | None = None,
) -> OpenVLAOFT:
    """In evaluation mode. Peak host memory is one copy of the model in ``dtype`` plus its largest
    tensor; with another device, one component file.
    :param loaded: called after each tensor with the name of the module that got it, which may be
        replaced once it is complete. Without it weights lie side by side (:mod:`.language`).
    :raises CheckpointError: missing, surplus or wrongly shaped tensors, named."""
    size = read_size(folder, profile, variant)
    with torch.device('meta'):
        model = OpenVLAOFT(size)
    wanted = dict(model.named_parameters())
    layers = model.language_model.model.layers
    places = reserve(layers, device, dtype) if loaded is None else {}
    for where, name, tensor in _tensors(folder, variant, size, progress):
        slot = wanted.pop(name, None)
        if slot is None:
            raise CheckpointError(
                f'{where}: tensor {name} does not belong to this OpenVLA-OFT model',
                'check that all files are of one checkpoint',
            )
        if slot.shape != tensor.shape:
            raise CheckpointError(
                f'{where}: {name} is {tuple(tensor.shape)}, expected {tuple(slot.shape)}',
                'choose the profile the checkpoint was trained with',
            )
        place = places.get(id(slot))
        tensor = tensor.to(device, dtype) if place is None else place.copy_(tensor)
        module, _, leaf = name.rpartition('.')
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(module), leaf, parameter)
        if loaded is not None:
            loaded(model, module)
    if wanted:
        raise CheckpointError(
            f'{folder} lacks {len(wanted)} tensors, first {next(iter(wanted))}',
            'finish the download, or choose the profile the checkpoint was trained with',
        )
    return model.eval().requires_grad_(False)


def _tensors(
    folder: Path, variant: Variant, size: ModelSize, progress: Progress
) -> Iterator[tuple[str, str, Tensor]]:
    for component in variant.components:
        progress(f'reading {component}')
        for name, tensor in read_component(folder, component).items():
            yield f'{component} file', f'{component}.{name}', tensor
    if variant.film:
        progress('reading the FiLM towers')
        for name, tensor in film_tensors(read_component(folder, 'vision_backbone')):
            if _used(name, size):
                yield 'vision_backbone file', name, tensor

    def wanted(name: str) -> bool:
        # A FiLM run saves its towers apart; those among the main weights lack their LoRA.
        return _used(name, size) and not (variant.film and name.startswith('vision_backbone.'))

    for name, tensor in stream_weights(folder, progress, wanted):
        yield folder.name, name, tensor


def _used(name: str, size: ModelSize) -> bool:
    block = _BLOCK.match(name)
    if block:
        depth = (size.dino if block[1] == 'featurizer' else size.siglip).depth
        return int(block[2]) < depth - 1  # the last block never influences the feature
    if name.startswith('language_model.lm_head.'):
        return size.head == 'discrete'
    return not _UNUSED.match(name)
