"""Names and shapes of everything in a published state dict, also of what no action depends on.

``vla-prune check`` and the loader's tests compare files with it; nothing is allocated.
"""

import torch

from .openvla import ModelSize, OpenVLAOFT
from .vision import TowerSize

Shapes = dict[str, tuple[int, ...]]

# Our modules that published checkpoints keep in files of their own.
_COMPONENTS = ('action_head.', 'proprio_projector.', 'noisy_action_projector.')


def published_shapes(size: ModelSize) -> Shapes:
    """Tensor name -> shape of the main state dict: 982 entries at the published size.

    Beside what we run it has the last block and the norm of both towers, SigLIP's pooling head and
    ``lm_head``: 43 entries of the towers that never influence an action.
    """
    with torch.device('meta'):
        used = OpenVLAOFT(size).state_dict()
    shapes = {n: tuple(t.shape) for n, t in used.items() if not n.startswith(_COMPONENTS)}
    for tower, shape in (('featurizer', size.dino), ('fused_featurizer', size.siglip)):
        shapes.update(_unused_of_tower(f'vision_backbone.{tower}', shape, shapes))
    shapes.update(_pooling_head('vision_backbone.fused_featurizer.attn_pool', size.siglip))
    shapes['language_model.lm_head.weight'] = (size.text.vocab_size, size.text.hidden_size)
    return shapes


def _unused_of_tower(prefix: str, tower: TowerSize, shapes: Shapes) -> Shapes:
    """The last block, shaped like the first, and the final norm."""
    first, last = f'{prefix}.blocks.0.', f'{prefix}.blocks.{tower.depth - 1}.'
    out = {last + n.removeprefix(first): s for n, s in shapes.items() if n.startswith(first)}
    return {**out, f'{prefix}.norm.weight': (tower.width,), f'{prefix}.norm.bias': (tower.width,)}


def _pooling_head(prefix: str, tower: TowerSize) -> Shapes:
    width, hidden = tower.width, tower.mlp_width
    linears = {
        'q': (width, width),
        'kv': (2 * width, width),
        'proj': (width, width),
        'mlp.fc1': (hidden, width),
        'mlp.fc2': (width, hidden),
    }
    out: Shapes = {f'{prefix}.latent': (1, 1, width)}
    out.update({f'{prefix}.{n}.weight': s for n, s in linears.items()})
    out.update({f'{prefix}.{n}.bias': s[:1] for n, s in linears.items()})
    return {**out, f'{prefix}.norm.weight': (width,), f'{prefix}.norm.bias': (width,)}
