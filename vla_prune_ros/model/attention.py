"""Softmax attention, computed in the way that is fastest for what is asked."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """Unmasked attention: (B, heads, S, d), (B, heads, K, d) twice -> (B, heads, S, d).

    :param bias: added to the logits, broadcast to (B, heads, S, K)."""
    if torch.is_grad_enabled() and q.requires_grad and q.device.type == 'cpu':
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        logits = (q * scale) @ k.transpose(-1, -2)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
