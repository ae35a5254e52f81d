"""Seeded random checkpoints in the published layout, for demos and tests without the 7B weights:
untrained, as the folder says (``vla_prune.json``) and every result repeats."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import LlamaConfig

from ..errors import CheckpointError
from ..profiles import LIBERO, Profile
from .files import PAD_ID, write_configs, write_json, write_weights
from .openvla import ModelSize, OpenVLAOFT
from .prompt import SPACE_ID
from .vision import dino_size, siglip_size

VOCABULARY = 32064
# Pieces as Llama-2 cuts the fixed words of the prompt, so that the task words sit where they do
# there.
_WORDS = (
    'In What action should the robot take to pick up the red green blue cube block bowl and place '
    'it on in plate box drawer open close turn off stove push stack lift put'
)
STANDIN_PIECES = ('Out', *(f'▁{word}' for word in _WORDS.split()))

# Limits of the LIBERO-Spatial statistics: realistic ranges for a policy that has learnt nothing.
_ACTION_Q01 = (-0.745, -0.662, -0.9375, -0.107, -0.207, -0.184, 0.0)
_ACTION_Q99 = (0.9375, 0.876, 0.932, 0.104, 0.177, 0.146, 1.0)
_PROPRIO_Q01 = (-0.273, -0.237, 0.916, 2.779, -1.319, -0.420, 0.0015, -0.0399)
_PROPRIO_Q99 = (0.135, 0.363, 1.286, 3.283, 0.933, 0.633, 0.0399, -0.0017)


@dataclass(frozen=True)
class Preset:
    """Sizes of a synthetic checkpoint; towers are (width, depth, heads)."""

    dino: tuple[int, int, int]
    siglip: tuple[int, int, int]
    hidden: int
    mlp: int
    layers: int
    heads: int


PRESETS = {
    'micro': Preset(dino=(32, 3, 2), siglip=(40, 4, 2), hidden=64, mlp=172, layers=3, heads=4),
    'demo': Preset(dino=(96, 4, 4), siglip=(80, 5, 4), hidden=192, mlp=512, layers=6, heads=4),
}


def make_checkpoint(folder: str | Path, preset: str = 'demo', seed: int = 0) -> Path:
    """With LIBERO's profile; a CheckpointError where the folder holds something else."""
    if preset not in PRESETS:
        raise CheckpointError(f'unknown preset {preset!r}', f'use one of {sorted(PRESETS)}')
    folder = Path(folder).expanduser()
    if folder.exists() and any(folder.iterdir()) and not (folder / 'vla_prune.json').is_file():
        raise CheckpointError(
            f'{folder} exists and is not a synthetic checkpoint', 'choose another folder'
        )
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device('meta'):
        model = OpenVLAOFT(model_size(PRESETS[preset]))
    weights = {
        name: _random_tensor(name, tuple(parameter.shape), seed)
        for name, parameter in model.named_parameters()
    }
    write_weights(folder, weights)
    pieces = {piece: 300 + i for i, piece in enumerate(dict.fromkeys(STANDIN_PIECES))}
    standin_tokenizer(pieces).save(str(folder / 'tokenizer.json'))
    write_configs(folder, model.size)
    statistics = {
        'action': _limits(_ACTION_Q01, _ACTION_Q99) | {'mask': [True] * 6 + [False]},
        'proprio': _limits(_PROPRIO_Q01, _PROPRIO_Q99),
        'num_transitions': 0,
        'num_trajectories': 0,
    }
    write_json(folder / 'dataset_statistics.json', {'untrained': statistics})
    note = {
        'trained': False,
        'preset': preset,
        'seed': seed,
        'made_by': f'vla-prune make-checkpoint --preset {preset} --seed {seed}',
    }
    write_json(folder / 'vla_prune.json', note)
    return folder


def model_size(sizes: Preset, profile: Profile = LIBERO) -> ModelSize:
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
    )
    towers = dino_size(*sizes.dino), siglip_size(*sizes.siglip)
    return ModelSize(*towers, text, profile.action_dim, profile.proprio_dim)


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Named seeding: a tensor does not change when others are added or reordered."""
    generator = torch.Generator().manual_seed(
        zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1 & 0xFFFFFFFF)
    )
    noise = torch.randn(shape, generator=generator)
    if 'norm' in name or name.endswith('scale_factor'):
        return noise * 0.02 + (0.0 if name.endswith('bias') else 1.0)
    if len(shape) == 1 or 'embed' in name or 'token' in name:
        return noise * 0.02
    gain = 0.3 if name == 'action_head.model.fc2.weight' else 1.0  # a gentle, bounded drift
    return noise * gain / (noise[0].numel() ** 0.5)


def _limits(low: tuple[float, ...], high: tuple[float, ...]) -> dict[str, Any]:
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    spread = [(b - a) / 4 for a, b in zip(low, high, strict=True)]
    return {'q01': low, 'q99': high, 'min': low, 'max': high, 'mean': middle, 'std': spread}


def standin_tokenizer(pieces: Mapping[str, int]) -> Tokenizer:
    """Llama-2's frame (BOS 1, EOS 2, bytes 3-258, 29871 for a lone space) and own pieces: its
    vocabulary is not ours to ship. What is no piece becomes characters or bytes."""
    vocabulary = {'<unk>': 0, '<s>': 1, '</s>': 2, **{f'<0x{b:02X}>': 3 + b for b in range(256)}}
    vocabulary['▁'] = SPACE_ID
    characters = sorted(
        {c for piece in pieces for c in piece} | {chr(c) for c in range(33, 127)} | {'\n'}
    )
    taken = set(pieces.values()) | {SPACE_ID, PAD_ID}
    free = (i for i in range(29872, VOCABULARY) if i not in taken)
    vocabulary.update(
        {c: next(free) for c in characters if c not in vocabulary and c not in pieces}
    )
    vocabulary.update(pieces)
    merges = []
    for piece in sorted(pieces, key=len):
        for end in range(2, len(piece) + 1):
            left, right = piece[: end - 1], piece[end - 1]
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.setdefault(piece[:end], next(free))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token='<unk>', byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer
