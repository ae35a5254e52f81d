"""The DDIM sampler of the diffusion head, deterministic (eta = 0)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

TRAIN_STEPS = 50


def alphas_cumprod() -> Tensor:
    """float32 (50,): cumulative products of the squared-cosine schedule, betas capped at 0.999."""

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [
        min(1 - alpha_bar((i + 1) / TRAIN_STEPS) / alpha_bar(i / TRAIN_STEPS), 0.999)
        for i in range(TRAIN_STEPS)
    ]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)


def timesteps(steps: int) -> list[int]:
    """Training steps that ``steps`` inference steps visit, noisiest first (leading spacing)."""
    stride = TRAIN_STEPS // steps
    return [i * stride for i in reversed(range(steps))]


def denoise(noise: Tensor, predict: Callable[[Tensor, int], Tensor], steps: int) -> Tensor:
    """Sample an action chunk.

    The clean sample is clipped to -1 ... 1; the noise is not re-derived from it, as in training.

    :param noise: float32 (1, K, D) to start from.
    :param predict: (noisy chunk, step) -> predicted noise, same shape.
    :param steps: inference steps, 1 ... 50.
    :returns: float32 (1, K, D).
    """
    table = alphas_cumprod().to(noise.device)
    x = noise
    for step in timesteps(steps):
        before = step - TRAIN_STEPS // steps
        now, then = table[step], table[before] if before >= 0 else table.new_ones(())
        epsilon = predict(x, step)
        clean = ((x - (1 - now).sqrt() * epsilon) / now.sqrt()).clamp(-1, 1)
        x = then.sqrt() * clean + (1 - then).sqrt() * epsilon
    return x
