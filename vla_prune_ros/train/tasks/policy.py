"""The reference policy: OpenVLA-OFT+ at reduced width, with two training aids beside it.

What is trained is what runs; only the embedding table is smaller while it trains: rows of words
that no task uses would cost an optimiser step each.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig

from ...model.openvla import ModelSize, OpenVLAOFT
from ...model.prompt import PromptTokenizer, build_prompt
from ...model.synthetic import STANDIN_PIECES, Preset, model_size, standin_tokenizer
from ...model.vision import PATCHES
from ...profiles import LIBERO
from .forward import embed, read_out, visual_tokens

SIZES = Preset(dino=(128, 3, 2), siglip=(64, 3, 2), hidden=128, mlp=344, layers=5, heads=2)
# The published vocabulary is not ours to ship.
PIECES = (*dict.fromkeys(STANDIN_PIECES), '▁left', '▁right', '▁other')

_SPECIAL = 3  # <unk>, BOS and stop keep their ids


class Answer(NamedTuple):
    actions: Tensor  # (B, K, 7), normalised
    pointers: Tensor  # (B, 2, C, 256), logits: where the target and the other cube are
    offsets: Tensor  # (B, 2, 3), from the grip point to both, in units of 0.1 m


class Words:
    """Prompts of the tasks as ids, and the rows of the small embedding table."""

    def __init__(self, instructions: Sequence[str], tokenizer: PromptTokenizer) -> None:
        ids = {text: tokenizer(build_prompt(text)) for text in instructions}
        words = sorted({i for prompt in ids.values() for i in prompt if i >= _SPECIAL})
        self._ids = [*range(_SPECIAL), *words]
        self.rows = len(self._ids)
        small = {n: row for row, n in enumerate(self._ids)}
        self.prompts = {t: torch.tensor([small[i] for i in prompt]) for t, prompt in ids.items()}

    def full_table(self, small: Tensor, rows: int) -> Tensor:
        """The published table: (rows, D) with zeros for words that no task uses."""
        table = small.new_zeros(rows, small.shape[1])
        table[self._ids] = small
        return table


class ReferenceNet(nn.Module):
    def __init__(self, words: int, seed: int = 0, sizes: Preset = SIZES) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            size = replace(model_size(sizes, LIBERO), film=True)
            self.policy = OpenVLAOFT(with_vocabulary(size, words))
            _initialise(self.policy)
            self.pointer = nn.Linear(sizes.hidden, 2)
            self.offset = nn.Linear(sizes.hidden, 6)

    def visual(self, pixels: Tensor, prompts: Tensor) -> Tensor:
        return visual_tokens(self.policy, pixels, prompts)

    def point(self, visual: Tensor) -> Tensor:
        return self.pointer(visual).permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor, prompts: Tensor, state: Tensor) -> Answer:
        """Prompts are those of :class:`Words`, the state is normalised."""
        visual = self.visual(pixels, prompts)
        x, layout = embed(self.policy, LIBERO, visual, prompts, state)
        hidden = read_out(self.policy, x, layout)  # [B, K * D_action, D]
        offsets = self.offset(hidden.mean(1)).unflatten(1, (2, 3))
        return Answer(self.policy.action_head(hidden), self.point(visual), offsets)


def make_tokenizer() -> Tokenizer:
    return standin_tokenizer({piece: 300 + i for i, piece in enumerate(PIECES)})


def grid_waves(width: int) -> Tensor:
    """Sine and cosine waves over rows and columns of the patches, float32 (256, width)."""
    side = int(PATCHES**0.5)
    at = torch.arange(side, dtype=torch.float32)
    rows, columns = torch.meshgrid(at, at, indexing='ij')
    waves = 1.0 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    angles = [c.reshape(-1, 1) * waves for c in (columns, rows)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)


def with_vocabulary(size: ModelSize, rows: int) -> ModelSize:
    return replace(size, text=LlamaConfig(**{**size.text.to_dict(), 'vocab_size': rows}))


def _initialise(policy: OpenVLAOFT) -> None:
    """Like the published modules' own, but ready to learn from nothing."""
    for name, p in policy.named_parameters():
        if 'norm' in name or name.endswith('scale_factor'):
            nn.init.constant_(p, 0.0 if name.endswith('bias') else 1.0)
        elif name.endswith('bias'):
            nn.init.zeros_(p)
        elif 'embed_tokens' in name:
            nn.init.normal_(p)
        elif name.endswith(('scale.weight', 'shift.weight')):
            nn.init.normal_(p, std=0.1)
        elif 'token' in name:
            nn.init.normal_(p, std=0.02)
        elif 'pos_embed' in name:
            p.data.copy_(grid_waves(p.shape[-1])[None])
        else:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
