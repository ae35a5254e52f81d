"""A checkpoint folder in the published layout -> the network with its weights.

``config.json``, sharded or single safetensors, and ``.pt`` components (state dicts with a
``module.`` prefix). Head, proprioception and FiLM are found from the files; nothing is executed
from the folder.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from ..errors import CheckpointError
from ..profiles import Profile
from .files import Progress, read_component, read_json, stream_weights
from .film import film_tensors
from .fused import reserve
from .openvla import ModelSize, OpenVLAOFT
from .variant import Variant
from .vision import DINO_ID, SIGLIP_ID, TowerSize, dino_size, siglip_size

# Tensors of the published files that never influence an action, and buffers of old exports.
_UNUSED = re.compile(
    r'.*\.rotary_emb\.inv_freq$|vision_backbone\.(featurizer|fused_featurizer)\.norm\.|'
    r'vision_backbone\.fused_featurizer\.attn_pool\.'
)
Loaded = Callable[[OpenVLAOFT, str], None]
_BLOCK = re.compile(r'vision_backbone\.(featurizer|fused_featurizer)\.blocks\.(\d+)\.')


def read_size(folder: Path, profile: Profile, variant: Variant) -> ModelSize:
    """Shapes of all modules from ``config.json`` and the variant.

    The published file names the towers only; shrunken checkpoints add ``oracle_vision_overrides``.
    The language model's missing fields take ``LlamaConfig``'s defaults (RMSNorm eps 1e-6), as
    published.

    :raises CheckpointError: not an OpenVLA model, or a field that is not usable.
    """
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
        dino, siglip = (
            _tower(make, towers.get(name))
            for make, name in ((dino_size, DINO_ID), (siglip_size, SIGLIP_ID))
        )
        llama = LlamaConfig(**text)
        vocabulary = llama.vocab_size - int(config.get('pad_to_multiple_of', 64))
        proprio_dim = profile.proprio_dim if variant.proprio else 0
        return ModelSize(
            dino,
            siglip,
            llama,
            profile.action_dim,
            proprio_dim,
            variant.head,
            variant.film,
            vocabulary,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{folder}/config.json: {str(error).splitlines()[0]}', 'fetch config.json again'
        ) from None


def _tower(make: Callable[..., TowerSize], override: dict[str, int] | None) -> TowerSize:
    return (
        make(override['embed_dim'], override['depth'], override['num_heads'])
        if override
        else make()
    )


def load_model(
    folder: Path,
    profile: Profile,
    variant: Variant,
    device: str,
    dtype: torch.dtype,
    progress: Progress = lambda text: None,
    loaded: Loaded = lambda model, module: None,
    join: bool = False,
) -> OpenVLAOFT:
    """The network with its weights on ``device`` in ``dtype``, in evaluation mode.

    Peak host memory is one copy of the model in ``dtype`` plus its largest tensor; with another
    device, one component file.

    :param loaded: called after each tensor with the name of the module that got it, so that a
        module may be replaced as soon as it is complete.
    :param join: lay the weights out as ``fused.py`` multiplies them; not where modules are
        replaced.
    :raises CheckpointError: missing, surplus or wrongly shaped tensors, named.
    """
    size = read_size(folder, profile, variant)
    with torch.device('meta'):
        model = OpenVLAOFT(size)
    wanted = dict(model.named_parameters())
    places = reserve(model.language_model.model.layers, device, dtype) if join else {}
    for where, name, tensor in _tensors(folder, variant, size, progress):
        _assign(model, wanted, places, name, tensor, (device, dtype), where)
        loaded(model, name.rpartition('.')[0])
    if wanted:
        raise CheckpointError(
            f'{folder} lacks {len(wanted)} tensors, first {next(iter(wanted))}',
            'finish the download, or choose the profile the checkpoint was trained with',
        )
    return model.eval().requires_grad_(False)


def _tensors(
    folder: Path, variant: Variant, size: ModelSize, progress: Progress
) -> Iterator[tuple[str, str, Tensor]]:
    """Where it is from, name and value of every tensor that an action depends on.

    Components first: their files are read as a whole, which costs least while little is loaded.
    """
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


def _assign(
    model: nn.Module,
    wanted: dict[str, nn.Parameter],
    places: Mapping[int, Tensor],
    name: str,
    tensor: Tensor,
    target: tuple[str, torch.dtype],
    where: str,
) -> None:
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
    tensor = tensor.to(*target) if place is None else place.copy_(tensor)
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, nn.Parameter(tensor, requires_grad=False))
