"""The two vision towers of OpenVLA-OFT and the projector, as plain modules.

Both are ViTs at 224 px with patch 14: 16 x 16 = 256 patches, row-major. ``featurizer`` is DINOv2
(channels 0-2 of a camera), ``fused_featurizer`` is SigLIP (channels 3-5). The feature is the
output of the second-to-last block, without the final norm: the last block is never built."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LORA_ALPHA = 16


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Unmasked attention, of the decoder too: (B, heads, S, d), (B, heads, K, d) twice -> (B,
    heads, S, d). On a CPU, plain products are faster than the fused kernel with gradients.
    :param bias: added to the logits, broadcast to (B, heads, S, K)."""
    if torch.is_grad_enabled() and q.requires_grad and q.device.type == 'cpu':
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = (q * scale) @ k.transpose(-1, -2)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def fold_lora(base: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """base + (min(r, 16) / r) B A in float32, of a linear layer or of the patch embedding."""
    rank = down.shape[0]
    update = up.float().reshape(len(up), rank) @ down.float().reshape(rank, -1)
    return base.float() + (min(rank, LORA_ALPHA) / rank) * update.reshape(base.shape)


def film_tensors(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Plain names and folded weights: FiLM runs save the towers in a file of their own, wrapped
    (``blocks.i.block``) and with unmerged LoRA."""
    for name, tensor in state.items():
        plain = name.replace('.block.', '.')
        if '.base_layer.' in plain:
            stem, _, leaf = name.rpartition('.base_layer.')
            if leaf == 'weight':
                lora = (state[f'{stem}.lora_{x}.default.weight'] for x in 'AB')
                tensor = fold_lora(tensor, *lora)
            yield plain.replace('.base_layer.', '.'), tensor
        elif '.lora_' not in plain:
            yield plain, tensor


def language_mean(embeddings: Tensor, stop: Tensor) -> Tensor:
    """What conditions FiLM: the mean over embeddings of the prompt (1, P, D) and the stop token
    (1, 1, D)."""
    return torch.cat([embeddings, stop], dim=1).mean(dim=1, keepdim=True)


IMAGE_SIZE = 224
PATCH = 14
PATCHES = (IMAGE_SIZE // PATCH) ** 2
DINO_ID = 'vit_large_patch14_reg4_dinov2.lvd142m'
SIGLIP_ID = 'vit_so400m_patch14_siglip_224'


@dataclass(frozen=True)
class TowerSize:
    """:param depth: blocks in the published checkpoint; ``depth - 1`` are run.
    :param prefix: class and register tokens in front of the patches."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    prefix: int
    layer_scale: bool


def dino_size(width: int = 1024, depth: int = 24, heads: int = 16) -> TowerSize:
    """DINOv2 ViT-L/14 with 4 registers, or a smaller one."""
    return TowerSize(width, depth, heads, 4 * width, prefix=5, layer_scale=True)


def siglip_size(width: int = 1152, depth: int = 27, heads: int = 16) -> TowerSize:
    """SigLIP SO400M/14, or a smaller one."""
    return TowerSize(width, depth, heads, int(width * 3.7362), prefix=0, layer_scale=False)


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v)  # [B, heads, N, d]
        return self.proj(y.transpose(1, 2).reshape(b, n, width))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block; FiLM (OFT+) between attention and MLP: x (1 + scale(c)) + shift(c)."""

    def __init__(self, size: TowerSize, film_width: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.heads)
        self.ls1 = LayerScale(size.width) if size.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = Mlp(size.width, size.mlp_width, size.width)
        self.ls2 = LayerScale(size.width) if size.layer_scale else nn.Identity()
        if film_width:
            self.scale = nn.Linear(film_width, size.width)
            self.shift = nn.Linear(film_width, size.width)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, N, width) -> (B, N, width); ``condition`` (1, 1, film_width) for FiLM."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        if condition is not None:
            x = x * (1 + self.scale(condition)) + self.shift(condition)
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """One token per patch: (B, 3, 224, 224) -> (B, 256, width), row-major."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    def __init__(self, size: TowerSize, film_width: int = 0) -> None:
        super().__init__()
        self.size = size
        self.patch_embed = PatchEmbed(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, PATCHES, size.width))
        if size.prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
            self.reg_token = nn.Parameter(torch.zeros(1, size.prefix - 1, size.width))
        self.blocks = nn.ModuleList(Block(size, film_width) for _ in range(size.depth - 1))

    def forward(
        self, pixels: Tensor, condition: Tensor | None = None, trace: list[Tensor] | None = None
    ) -> Tensor:
        """(B, 3, 224, 224) -> (B, 256, width); ``trace`` collects embedding and block outputs."""
        x = self.patch_embed(pixels)
        if trace is not None:
            trace.append(x)
        x = x + self.pos_embed
        if self.size.prefix:  # prefix tokens carry no position embedding
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(x), -1, -1)
            x = torch.cat([prefix, x], dim=1)
        for block in self.blocks:
            x = block(x, condition)
            if trace is not None:
                trace.append(x)
        return x[:, self.size.prefix :]


class VisionBackbone(nn.Module):
    def __init__(self, dino: TowerSize, siglip: TowerSize, film_width: int = 0) -> None:
        super().__init__()
        self.featurizer = Tower(dino, film_width)
        self.fused_featurizer = Tower(siglip, film_width)

    @property
    def width(self) -> int:
        return self.featurizer.size.width + self.fused_featurizer.size.width

    def features(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        dino = self.featurizer(pixels[:, :3], condition)
        siglip = self.fused_featurizer(pixels[:, 3:], condition)
        return torch.cat([dino, siglip], dim=2)

    def forward(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        """(cameras, 6, 224, 224) -> (1, cameras * 256, width), camera by camera; with FiLM by the
        mean embedding (1, 1, D) of the instruction."""
        return self.features(pixels, condition).flatten(0, 1)[None]


class Projector(nn.Module):
    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
