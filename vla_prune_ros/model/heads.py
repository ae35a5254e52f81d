"""Action heads, their small projectors, and the sampler of the diffusion head (DDIM, eta = 0)."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vision import Mlp

TRAIN_STEPS = 50


def alphas_cumprod() -> Tensor:
    """float32 (50,): cumulative products of the squared-cosine schedule, betas capped at 0.999."""
    times = [i / TRAIN_STEPS for i in range(TRAIN_STEPS + 1)]
    bars = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in times]
    betas = [min(1 - after / before, 0.999) for before, after in pairwise(bars)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)


def timesteps(steps: int) -> list[int]:
    """Training steps that ``steps`` inference steps visit, noisiest first (leading spacing)."""
    stride = TRAIN_STEPS // steps
    return [i * stride for i in reversed(range(steps))]


def denoise(noise: Tensor, predict: Callable[[Tensor, int], Tensor], steps: int) -> Tensor:
    """Sample an action chunk float32 (1, K, D); ``predict`` maps a noisy chunk and its step to the
    noise. The clean sample is clipped to -1 ... 1, and the noise is not re-derived from it."""
    table = alphas_cumprod().to(noise.device)
    x = noise
    for step in timesteps(steps):
        before = step - TRAIN_STEPS // steps
        now, then = table[step], table[before] if before >= 0 else table.new_ones(())
        epsilon = predict(x, step)
        clean = ((x - (1 - now).sqrt() * epsilon) / now.sqrt()).clamp(-1, 1)
        x = then.sqrt() * clean + (1 - then).sqrt() * epsilon
    return x


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class MlpResNet(nn.Module):
    """LayerNorm, Linear, ReLU, two residual blocks, LayerNorm, Linear. Eps is 1e-5 here."""

    def __init__(self, in_width: int, width: int, out_width: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(in_width)
        self.fc1 = nn.Linear(in_width, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class L1Head(nn.Module):
    """Hidden states of the slots (B, K * D, width), step-major -> normalised chunk (B, K, D)."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.model = MlpResNet(action_dim * width, width, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.model(hidden.unflatten(1, (-1, self.action_dim)).flatten(2))


class DiffusionHead(nn.Module):
    """The same shapes; predicts noise. Its file calls the network noise_predictor.mlp_resnet."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.noise_predictor = nn.Module()
        self.noise_predictor.mlp_resnet = MlpResNet(action_dim * width, width, action_dim)
        self.action_dim = action_dim

    def forward(self, hidden: Tensor) -> Tensor:
        steps = hidden.unflatten(1, (-1, self.action_dim)).flatten(2)
        return self.noise_predictor.mlp_resnet(steps)


class ProprioProjector(Mlp):
    """Normalised state (B, proprio_dim) -> one token (B, 1, width)."""

    def __init__(self, proprio_dim: int, width: int) -> None:
        super().__init__(proprio_dim, width, width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, None]


class NoisyActionProjector(Mlp):
    """Noisy chunk (1, K, D) -> its slots (1, K * D, width), one per number."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width, width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(1, -1, 1))


def time_embedding(step: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoidal embedding of a diffusion step, (1, 1, width): sines, then cosines."""
    half = width // 2
    i = torch.arange(half, device=device, dtype=torch.float32)
    angle = step * torch.exp(-math.log(10000) * i / (half - 1))
    return torch.cat([angle.sin(), angle.cos()])[None, None].to(dtype)


def bins_to_actions(token_ids: Tensor, vocabulary: int) -> Tensor:
    """Action tokens int64 -> centres of the 255 intervals of linspace(-1, 1, 256).
    :param vocabulary: size without padding, 32000: bin b has the id ``vocabulary - 1 - b``."""
    edges = torch.linspace(-1, 1, 256, dtype=torch.float64, device=token_ids.device)
    centres = (edges[:-1] + edges[1:]) / 2
    return centres[(vocabulary - token_ids - 1).clamp(0, 254)]
