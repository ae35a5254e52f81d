"""Prepared pictures as the towers take them, computed where the towers are."""

from functools import cache

import torch
from torch import Tensor

from .images import scale_and_shift


@cache
def _mean_and_std(device: torch.device, inference: bool) -> tuple[Tensor, Tensor]:
    """float32 (6, 1, 1), DINOv2 first; made once, since a copy to a device cannot be captured."""
    return tuple(torch.from_numpy(table).to(device) for table in scale_and_shift())


def normalized_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (cameras, 224, 224, 3) -> (cameras, 6, 224, 224) for both towers, where ``images``
    are: :func:`.images.pixel_values` to the last bit, then rounded to ``dtype``."""
    mean, std = _mean_and_std(images.device, torch.is_inference_mode_enabled())
    x = images.permute(0, 3, 1, 2).float() / 255
    return ((torch.cat([x, x], dim=1) - mean) / std).to(dtype)
